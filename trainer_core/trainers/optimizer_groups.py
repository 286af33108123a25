"""Making any trainer build the optimizer that the Config asks for beyond what transformers' arguments say."""

from typing import Any

from transformers import Trainer

from trainer_core.config import Config, ConfigError, Problem
from trainer_core.config.optimizers import is_low_rank
from trainer_core.trainers.loraplus import build_loraplus_groups


def adapt_create_optimizer(trainer: Trainer, *, config: Config) -> None:
    """Gives the optimizer LoRA+'s groups, and makes target modules that do not exist a ConfigError.

    The groups are built when the optimizer is, because a wrapper of several processes may have replaced the parameters
    by then. A trainer that was given an optimizer keeps it.
    """
    ratio = config.loraplus_lr_ratio
    if ratio is None and not is_low_rank(config.optim or ""):
        return
    original = trainer.create_optimizer

    def create_optimizer(*arguments: Any, **options: Any) -> Any:
        given = arguments[0] if arguments else options.get("model")
        model: Any = trainer.model if given is None else given
        if ratio is not None and trainer.optimizer is None:
            optimizer_cls, optimizer_options = trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
            groups = build_loraplus_groups(
                model,
                learning_rate=trainer.args.learning_rate,
                ratio=ratio,
                embedding_learning_rate=config.loraplus_lr_embedding,
                weight_decay=trainer.args.weight_decay,
                decayed=set(trainer.get_decay_parameter_names(model)),
            )
            trainer.optimizer_cls_and_kwargs = (optimizer_cls, {**optimizer_options, "params": groups})
        try:
            return original(*arguments, **options)
        except ValueError as error:
            if "target modules" not in str(error):
                raise
            names = ", ".join(config.optim_target_modules or ())
            message = f"optim_target_modules: no linear layer's path holds one of {names}; leave it out for all of them"
            raise ConfigError([Problem(message, "optim_target_modules", "invalid_value")]) from error

    trainer.create_optimizer = create_optimizer  # type: ignore[method-assign]
