"""The registry of Config classes."""

from trainer_core.config.fields import Config
from trainer_core.registry import Registry

configs_registry: Registry[type[Config]] = Registry("configs_registry")
configs_registry.add(key="base", value=Config)
