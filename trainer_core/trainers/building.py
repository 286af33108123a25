"""Building a trainer of any class that was registered, with what its constructor takes."""

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import Trainer

from trainer_core.config import Config
from trainer_core.errors import ConfigError, Problem
from trainer_core.trainers.registry import trainers_registry


def get_trainer_class(config: Config) -> type[Trainer]:
    """The registered class. Raises UnknownKeyError, or ConfigError when it is no transformers.Trainer."""
    trainer_cls = trainers_registry.get(config.trainer_key)
    if not (inspect.isclass(trainer_cls) and issubclass(trainer_cls, Trainer)):
        message = f"trainer_key: {config.trainer_key!r} is not a subclass of transformers.Trainer"
        raise ConfigError([Problem(message, "trainer_key", "invalid_value")])
    return trainer_cls


def construct_trainer(
    trainer_cls: type[Trainer], *, arguments: Mapping[str, Any], ours: Mapping[str, Any], extra: Mapping[str, Any]
) -> Trainer:
    """Calls the class with `arguments`, those of `ours` that its constructor takes, and `extra`.

    `ours` are what LMTrainer takes and transformers.Trainer does not.
    """
    accepted = find_constructor_parameters(trainer_cls)
    passed = {name: value for name, value in ours.items() if name in accepted}
    return trainer_cls(**arguments, **passed, **extra)


def find_constructor_parameters(trainer_cls: type) -> set[str]:
    """Names that the constructor takes, following `**kwargs` up the classes it passes them to."""
    names: set[str] = set()
    for each in trainer_cls.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names - {"self"}


def adapt_compute_loss(trainer: Trainer) -> bool:
    """Makes a `compute_loss(model, inputs, return_outputs)` run, and returns whether it had to.

    Trainer passes `num_items_in_batch` and expects the loss divided by it; such a loss is a mean over its own batch
    instead, so that Trainer is told to divide by the number of accumulated batches.
    """
    original = trainer.compute_loss
    parameters = inspect.signature(original).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    if "num_items_in_batch" in parameters or takes_any:
        return False

    def compute_loss(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        return original(model, inputs, return_outputs=return_outputs)

    trainer.compute_loss = compute_loss  # type: ignore[method-assign]
    trainer.model_accepts_loss_kwargs = False
    return True
