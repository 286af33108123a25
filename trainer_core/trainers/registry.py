"""The registry of trainers."""

from typing import Any

from trainer_core.registry import Registry

trainers_registry: Registry[Any] = Registry("trainers_registry")
trainers_registry.add(key="default", value="trainer_core.trainers.lm:LMTrainer")
trainers_registry.add(key="lm", value="trainer_core.trainers.lm:LMTrainer")
