"""The step train: from prepared data to a trained adapter or model."""

import inspect
from typing import Any

from torch.utils.data import Dataset

from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.datasets.data_keys import apply_data_keys
from trainer_core.errors import ConfigError, Problem
from trainer_core.experiments.base import Experiment
from trainer_core.experiments.registry import experiments_registry
from trainer_core.models.failures import resource_errors


def train(
    config: Config,
    train_dataset: Dataset[Any] | None = None,
    eval_dataset: Dataset[Any] | None = None,
    *,
    context: StepContext | None = None,
) -> Experiment:
    """Builds the Config's experiment, runs it, and returns it; its `result` says what was made.

    A data set given here is used as it is, in place of the prepared file. In a job (`context` given) training goes on
    from the newest complete checkpoint and leaves fusing to its own step; in a script it starts anew unless
    `resume_from_checkpoint` is set, and fuses here when `fuse_after_training` is. Raises StepInterrupted after a stop.
    """
    if train_dataset is None:
        config = apply_data_keys(config)
    experiment_cls = get_experiment_class(config)
    with resource_errors("training"):
        experiment = experiment_cls(config=config, train_dataset=train_dataset, eval_dataset=eval_dataset)
        if context is not None:
            experiment.context = context
            experiment.resumes = True
            experiment.owns_output_dir = True
            experiment.fuses_in_process = False
            experiment.pushes_in_process = False
        experiment.build()
        experiment.run()
    return experiment


def get_experiment_class(config: Config) -> type[Experiment]:
    """The registered class. Raises UnknownKeyError, or ConfigError when it is no Experiment."""
    experiment_cls = experiments_registry.get(config.experiment_key)
    if not (inspect.isclass(experiment_cls) and issubclass(experiment_cls, Experiment)):
        message = f"experiment_key: {config.experiment_key!r} is not a subclass of Experiment"
        raise ConfigError([Problem(message, "experiment_key", "invalid_value")])
    return experiment_cls
