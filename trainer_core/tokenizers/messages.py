"""The messages of a conversation, checked and brought into the form that chat templates read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_core.errors import DataError
from trainer_core.tokenizers.tool_calls import parse_function_call, parse_tool_calls

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
INSTRUCTING_ROLES = ("system", "developer")
"""Roles of a first message alone."""
KEYS_OF_REASONING = ("reasoning_content", "reasoning", "thinking")
KEYS_OF_TEXTS = ("content", *KEYS_OF_REASONING)
"""What a message says."""
KEYS_OF_OTHER_KINDS = ("audio", "refusal")
"""Answers that are no text."""
KEYS_NOT_RENDERED = ("weight", "function_call", "tool_calls", *KEYS_OF_OTHER_KINDS)


class NoTargetError(DataError):
    """A conversation in which nothing is to be learned."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message."""

    fields: Mapping[str, Any]
    """What the template sees: role, content as a text or None, `tool_calls` with their arguments as objects, and
    whatever else the row gives, without the weight."""
    is_learned: bool
    """Said by the assistant, and not of weight 0."""

    @property
    def role(self) -> str:
        """Who says it."""
        return str(self.fields["role"])


def parse_messages(messages: Any) -> tuple[ChatMessage, ...]:
    """Checks a row's `messages`.

    The older `function_call` and role `function` become `tool_calls` and `tool`, which is what templates know. Raises
    DataError naming the message, from 0, and its key; NoTargetError when no assistant message is to be learned.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError("'messages' must be a list of at least one message")
    parsed = tuple(_parse_message(message, place=f"messages[{index}]") for index, message in enumerate(messages))
    _check_order(parsed)
    if not any(message.is_learned for message in parsed):
        raise NoTargetError("'messages' has no assistant message to learn from")
    return parsed


def _check_order(messages: Sequence[ChatMessage]) -> None:
    for index, message in enumerate(messages):
        if index and message.role in INSTRUCTING_ROLES:
            raise DataError(f"messages[{index}].role is {message.role!r}, which only the first message may have")


def _parse_message(message: Any, *, place: str) -> ChatMessage:
    if not isinstance(message, Mapping):
        raise DataError(f"{place} must be an object with 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise DataError(f"{place}.role must be one of {', '.join(ROLES)}, not {role!r}")
    for key in KEYS_OF_OTHER_KINDS:
        if message.get(key):
            raise DataError(f"{place}.{key} is not supported; only texts and tool calls are")
    fields = {key: value for key, value in message.items() if key not in KEYS_NOT_RENDERED and value is not None}
    calls = _parse_calls(message, place=place)
    fields["role"] = "tool" if role == "function" else role
    fields["content"] = _parse_content(message.get("content"), place=place, may_be_none=bool(calls))
    if calls:
        fields["tool_calls"] = calls
    is_learned = _parse_weight(message, place=place) == 1 and role == "assistant"
    if is_learned and not calls and not _has_text(fields):
        raise DataError(f"{place}.content is empty: there is nothing to learn in it; give it weight 0 or leave it out")
    return ChatMessage(fields=fields, is_learned=is_learned)


def _parse_calls(message: Mapping[str, Any], *, place: str) -> list[dict[str, Any]]:
    given = [key for key in ("tool_calls", "function_call") if message.get(key)]
    if not given:
        return []
    if message["role"] != "assistant":
        raise DataError(f"{place}.{given[0]}: only an assistant message may call tools")
    if len(given) == 2:
        raise DataError(f"{place} has both 'tool_calls' and 'function_call'; give one")
    if given == ["function_call"]:
        return [parse_function_call(message["function_call"], place=f"{place}.function_call")]
    return parse_tool_calls(message["tool_calls"], place=f"{place}.tool_calls")


def _parse_content(content: Any, *, place: str, may_be_none: bool) -> str | None:
    if isinstance(content, str):
        return content
    if content is None and may_be_none:
        return None
    if isinstance(content, list) and content:
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
        raise DataError(f"{place}.content holds a part that is no text; only texts are supported")
    raise DataError(f"{place}.content must be a text, not {type(content).__name__}")


def _has_text(fields: Mapping[str, Any]) -> bool:
    return any(isinstance(fields.get(key), str) and fields[key].strip() for key in KEYS_OF_TEXTS)


def _parse_weight(message: Mapping[str, Any], *, place: str) -> int:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1, None):
        raise DataError(f"{place}.weight must be 0 or 1, not {weight!r}")
    return 1 if weight is None else int(weight)
