"""The Config of all steps: its keys, its checks, and the rules of which steps can run."""

from trainer_core.config.building import (
    SCRIPT_ONLY_FIELDS,
    SECRET_FIELDS,
    build_config,
    build_config_schema,
    config_adapter,
    dump_config,
    find_problems,
)
from trainer_core.config.fields import Config
from trainer_core.config.registry import configs_registry
from trainer_core.config.steps import AvailableInputs, check_steps, default_steps
from trainer_core.config.warnings import find_warnings
from trainer_core.enums import STEP_ORDER, Step
from trainer_core.errors import ConfigError, Problem
from trainer_core.registry import describe_unknown_key

__all__ = [
    "SCRIPT_ONLY_FIELDS",
    "SECRET_FIELDS",
    "STEP_ORDER",
    "AvailableInputs",
    "Config",
    "ConfigError",
    "Problem",
    "Step",
    "build_config",
    "build_config_schema",
    "check_steps",
    "config_adapter",
    "configs_registry",
    "default_steps",
    "describe_unknown_key",
    "dump_config",
    "find_problems",
    "find_warnings",
]
