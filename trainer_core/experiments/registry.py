"""The registry of experiments."""

from typing import Any

from trainer_core.registry import Registry

experiments_registry: Registry[Any] = Registry("experiments_registry")
experiments_registry.add(key="base", value="trainer_core.experiments.base:Experiment")
