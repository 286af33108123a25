"""Command-line flags of a Config class, parsed by transformers' HfArgumentParser."""

import dataclasses
import types
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from trainer_core.config import Config, ConfigError, Problem, config_adapter, describe_unknown_key

NONE_TEXTS = ("None", "none", "null")


def parse_arguments(config_cls: type[Config], arguments: Sequence[str], *, program: str) -> dict[str, object]:
    """The values that the flags give, as plain values for `build_config`; flags left out are left out here too.

    `--x`, `--x True` and `--no_x` set a bool; `--x None` sets a field that may be None; dashes and underscores are the
    same. Raises ConfigError for unknown flags, naming the nearest, and for flags without their value. `--help` prints
    the fields and ends the process.
    """
    flags_class: Any = _flags_class(config_cls)
    parser = _ConfigArgumentParser(flags_class, prog=program, allow_abbrev=False)
    parsed, unknown = parser.parse_args_into_dataclasses(
        args=list(arguments), return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise ConfigError(list(_describe_unknown(unknown, config_cls)))
    given = {name: value for name, value in vars(parsed).items() if value is not None}
    return {name: _with_none(value, name=name, config_cls=config_cls) for name, value in given.items()}


class _ConfigArgumentParser(HfArgumentParser):
    """Tells what is wrong as a ConfigError instead of printing a usage of a hundred lines and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem(message, None, "invalid_arguments")])


def _flags_class(config_cls: type[Config]) -> type:
    """A dataclass with the Config's fields as a command line sees them: bools, and text that the Config parses.

    HfArgumentParser writes into the fields of the class it is given, and knows no union but Optional: it gets a class
    of its own, so that the Config keeps its bounds.
    """
    hints = get_type_hints(config_cls)
    descriptions = _describe_fields(config_cls)
    flags: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(config_cls):
        if not field.init:
            continue
        metadata = {"help": descriptions.get(field.name, "").replace("%", "%%") or None}
        kind = _choose_kind(hints[field.name], default=field.default)
        default = field.default if kind is bool else None
        flags.append((field.name, kind, dataclasses.field(default=default, metadata=metadata)))
    return dataclasses.make_dataclass(f"{config_cls.__name__}Flags", flags)


def _choose_kind(hint: Any, *, default: object) -> Any:
    """What HfArgumentParser is told that a field is; text where the Config itself reads text."""
    inner = _without_none(hint)
    if inner is bool and isinstance(default, bool):
        return bool
    if get_origin(inner) is list:
        return list[str]
    if get_origin(inner) is Literal and not all(isinstance(choice, str) for choice in get_args(inner)):
        return inner
    return str


def _describe_fields(config_cls: type[Config]) -> dict[str, str]:
    """What each field's docstring, or its `help` in the metadata of a subclass's field, says."""
    properties = config_adapter(config_cls).json_schema()["properties"]
    described = {name: str(schema.get("description", "")) for name, schema in properties.items()}
    helps = {field.name: field.metadata.get("help") for field in dataclasses.fields(config_cls)}
    return described | {name: str(text) for name, text in helps.items() if text}


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _with_none(value: object, *, name: str, config_cls: type[Config]) -> object:
    """The text `None` is None where the field may be None; a text field that may not keeps its text."""
    if value not in NONE_TEXTS:
        return value
    hint = get_type_hints(config_cls)[name]
    return None if type(None) in get_args(hint) else value


def _describe_unknown(arguments: Sequence[str], config_cls: type[Config]) -> list[Problem]:
    known = [field.name for field in dataclasses.fields(config_cls)]
    problems = []
    for argument in arguments:
        if argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0].replace("-", "_")
            message = describe_unknown_key(name, known=known, where="Config")
            problems.append(Problem(f"{argument.partition('=')[0]}: {message}", name, "unknown_key"))
    if not problems:
        message = f"{arguments[0]!r} belongs to no flag; write --name value"
        problems.append(Problem(message, None, "invalid_arguments"))
    return problems
