"""Building a Config from plain values, and what is wrong with them when it cannot be built."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trainer_core.config.fields import Config
from trainer_core.config.problems import ProblemsFound
from trainer_core.errors import ConfigError, Problem
from trainer_core.registry import describe_unknown_key

if TYPE_CHECKING:
    from trainer_core.types import JsonValue

_adapters: dict[type[Config], TypeAdapter[Config]] = {}

SECRET_FIELDS: tuple[str, ...] = ("huggingface_hub_token", "wandb_api_key")
"""Fields that are encrypted apart from the Config and never answered."""

SCRIPT_ONLY_FIELDS: dict[str, str] = {
    "output_dir": "the service keeps a job's outputs; download them from its artifacts",
    "train_local_path_to_data": "upload the data to /v1/files and give its id as training_file",
    "eval_local_path_to_data": "upload the data to /v1/files and give its id as validation_file",
    "lora_model_local_path": "give the job that trained the adapter as input_job, or lora_hub_model_id",
    "fused_model_local_path": "download the fused model from the job's artifacts",
    "quantized_model_path": "download the quantized model from the job's artifacts",
    "path_to_env_file": "give huggingface_hub_token in the config; it is kept encrypted",
    "offload_folder": "the service chooses where a job may write",
    "local_rank": "the service starts the ranks; give resources.gpus",
    "single_gpu": "give resources.gpus",
    "master_port": "the service chooses the port",
}
"""Fields refused over HTTP when they differ from their defaults, and what to use instead."""


def config_adapter(config_cls: type[Config] = Config) -> TypeAdapter[Config]:
    """The validator of a Config class; works for subclasses made with the standard library's dataclass too."""
    if config_cls not in _adapters:
        _adapters[config_cls] = TypeAdapter(config_cls)
    return _adapters[config_cls]


def build_config_schema(config_cls: type[Config] = Config) -> "dict[str, JsonValue]":
    """The JSON Schema of a Config class, with a description for every key that has one in the class or in Config."""
    schema = config_adapter(config_cls).json_schema()
    documented = config_adapter(Config).json_schema()["properties"]
    helps = {field.name: field.metadata.get("help") for field in dataclasses.fields(config_cls)}
    for name, key in schema["properties"].items():
        description = documented.get(name, {}).get("description") or helps.get(name)
        if description and "description" not in key:
            key["description"] = description
    return schema


def build_config(values: Mapping[str, object], config_cls: type[Config] = Config) -> Config:
    """A validated Config. Raises ConfigError with every problem that was found."""
    problems = list(_find_booleans(values))
    refused = {problem.param for problem in problems}
    kept = {name: value for name, value in values.items() if name not in refused}
    try:
        config = config_adapter(config_cls).validate_python(kept)
    except ValidationError as error:
        raise ConfigError([*problems, *_list_problems(error, config_cls)]) from None
    if problems:
        raise ConfigError(problems)
    return config


def find_problems(values: Mapping[str, object], config_cls: type[Config] = Config) -> list[Problem]:
    """What is wrong with the values, empty when a Config can be built from them."""
    try:
        build_config(values, config_cls)
    except ConfigError as error:
        return list(error.problems)
    return []


def dump_config(config: Config) -> "dict[str, JsonValue]":
    """The Config as JSON values, every key present, secrets None: what may be stored, logged and answered."""
    values: dict[str, Any] = config_adapter(type(config)).dump_python(config, mode="json")
    return values | dict.fromkeys(SECRET_FIELDS)


def _find_booleans(values: Mapping[str, object]) -> Iterator[Problem]:
    """Python's True is a 1: `max_steps: true` would train a single step."""
    for name in (name for name, value in values.items() if isinstance(value, bool)):
        if name in _list_numbers():
            yield Problem(f"{name}: input should be a number, not a boolean", name, "invalid_type")


@cache
def _list_numbers() -> frozenset[str]:
    """Config's own keys that take a number and no boolean."""
    kinds = {name: {hint, *get_args(hint)} for name, hint in get_type_hints(Config).items()}
    return frozenset(name for name, each in kinds.items() if each & {int, float} and bool not in each)


def _list_problems(error: ValidationError, config_cls: type[Config]) -> Iterator[Problem]:
    for details in error.errors(include_url=False):
        inner = details.get("ctx", {}).get("error")
        if isinstance(inner, ProblemsFound):
            yield from inner.problems
        else:
            yield _as_problem(details, config_cls)


def _as_problem(details: ErrorDetails, config_cls: type[Config]) -> Problem:
    """One of pydantic's errors as a problem; never repeats the value, which may be a secret."""
    param = str(details["loc"][0]) if details["loc"] else None
    if details["type"] in ("unexpected_keyword_argument", "extra_forbidden") and param is not None:
        known = [field.name for field in dataclasses.fields(config_cls)]
        return Problem(describe_unknown_key(param, known=known, where="Config"), param, "unknown_key")
    message = details["msg"].removeprefix("Value error, ")
    code = "invalid_type" if details["type"].endswith(("_type", "_parsing")) else "invalid_value"
    return Problem(f"{param}: {message[:1].lower()}{message[1:]}" if param else message, param, code)
