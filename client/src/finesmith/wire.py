"""Turns decoded JSON into the frozen dataclasses of `finesmith.models`; forgives what another version says."""

import dataclasses
import types
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from finesmith.errors import UnexpectedResponseError

JsonValue = Mapping[str, "JsonValue"] | Sequence["JsonValue"] | str | int | float | bool | None
"""Decoded JSON."""

Model = TypeVar("Model")


def decode(model: type[Model], value: object) -> Model:
    """Builds a `model` from one JSON object.

    Fields that the model does not know are kept in its field `extra`, if it has one. A null or missing field takes
    the model's default; one without a default raises UnexpectedResponseError.
    """
    if not isinstance(value, Mapping):
        found = type(value).__name__
        raise UnexpectedResponseError(f"The service answered {found} where {model.__name__} was expected.")
    known: dict[str, object] = {}
    fields = _wire_fields(cast(Hashable, model))
    for name, (annotation, is_required) in fields.items():
        raw = value.get(name)
        if raw is not None:
            known[name] = _convert(annotation, raw)
        elif is_required:
            raise UnexpectedResponseError(f"The service answered a {model.__name__} without {name!r}.")
    if any(field.name == "extra" for field in dataclasses.fields(model)):  # type: ignore[arg-type]
        known["extra"] = {name: item for name, item in value.items() if name not in {*fields, "object"}}
    return model(**known)


@cache
def _wire_fields(model: Any) -> dict[str, tuple[Any, bool]]:
    fields = [field for field in dataclasses.fields(model) if field.name != "extra" and not field.name.startswith("_")]
    # Models do not postpone their annotations, so that `field.type` is the type itself.
    return {field.name: (field.type, _is_required(field)) for field in fields}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(annotation: Any, value: object) -> object:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [option for option in get_args(annotation) if option is not type(None)]
        return _convert(inner[0], value) if len(inner) == 1 else value
    if origin is tuple:
        return tuple(_convert(get_args(annotation)[0], item) for item in as_sequence(value))
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return decode(annotation, value)
    return value


def as_object(value: object) -> Mapping[str, JsonValue]:
    """The value as a JSON object; raises UnexpectedResponseError if it is none."""
    if not isinstance(value, Mapping):
        raise UnexpectedResponseError(f"The service answered {type(value).__name__} where an object was expected.")
    return value


def as_sequence(value: object) -> Sequence[JsonValue]:
    """The value as a JSON array; raises UnexpectedResponseError if it is none."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UnexpectedResponseError(f"The service answered {type(value).__name__} where a list was expected.")
    return value
