"""Tools that a conversation may call, and its calls, checked and brought into the form that chat templates read."""

import json
from collections.abc import Mapping
from typing import Any

from trainer_core.errors import DataError


def parse_tools(tools: Any, functions: Any) -> list[dict[str, Any]] | None:
    """A row's `tools`, or its older `functions` as tools; None when there are none.

    A list as JSON text is a list too. Raises DataError naming the tool, from 0.
    """
    if tools and functions:
        raise DataError("the row has both 'tools' and 'functions'; give one")
    key = "tools" if tools else "functions"
    given = _parse_list(tools or functions, key=key)
    parsed = []
    for index, tool in enumerate(given):
        place = f"{key}[{index}]"
        if not isinstance(tool, Mapping):
            raise DataError(f"{place} must be an object, not {type(tool).__name__}")
        function = tool.get("function", tool) if key == "tools" else tool
        if not isinstance(function, Mapping) or not _is_name(function.get("name")):
            raise DataError(f"{place} must be a function with a 'name' and its 'parameters' as JSON Schema")
        parsed.append(dict(tool) if key == "tools" else {"type": "function", "function": dict(tool)})
    return parsed or None


def parse_tool_calls(calls: Any, *, place: str) -> list[dict[str, Any]]:
    """A message's `tool_calls`, with arguments that are JSON text as objects. Raises DataError naming the call."""
    if not isinstance(calls, list | tuple):
        raise DataError(f"{place} must be a list of calls, not {type(calls).__name__}")
    return [_parse_tool_call(call, place=f"{place}[{index}]") for index, call in enumerate(calls)]


def parse_function_call(call: Any, *, place: str) -> dict[str, Any]:
    """The older `function_call` as a tool call. Raises DataError."""
    return {"type": "function", "function": _parse_function(call, place=place)}


def _parse_tool_call(call: Any, *, place: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise DataError(f"{place} must be an object, not {type(call).__name__}")
    if "function" not in call:
        return {"type": "function", "function": _parse_function(call, place=place)}
    if call.get("type") not in (None, "function"):
        raise DataError(f"{place}.type must be 'function', not {call['type']!r}")
    return {**call, "type": "function", "function": _parse_function(call["function"], place=f"{place}.function")}


def _parse_function(function: Any, *, place: str) -> dict[str, Any]:
    if not isinstance(function, Mapping) or not _is_name(function.get("name")):
        raise DataError(f"{place} must be an object with 'name' and 'arguments'")
    return {**function, "arguments": _parse_arguments(function.get("arguments"), place=f"{place}.arguments")}


def _parse_arguments(arguments: Any, *, place: str) -> dict[str, Any]:
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise DataError(f"{place} must be a JSON object, not {type(arguments).__name__}")
    return dict(arguments)


def _parse_list(value: Any, *, key: str) -> list[Any]:
    if not value:
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{key!r} is not JSON: {error}") from error
    if not isinstance(value, list | tuple):
        raise DataError(f"{key!r} must be a list of functions, not {type(value).__name__}")
    return list(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
