"""The messages of a conversation, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trainer_core.errors import DataError

Role = Literal["system", "developer", "user", "assistant"]

ROLES: tuple[str, ...] = get_args(Role)
KEYS_NOT_YET_SUPPORTED = ("tool_calls", "function_call", "tool_call_id", "audio")
ROLES_NOT_YET_SUPPORTED = ("tool", "function")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message."""

    fields: Mapping[str, Any]
    """What the template sees: role, content as a text, and whatever else the row gives, without the weight."""
    is_learned: bool
    """Said by the assistant, and not of weight 0."""

    @property
    def content(self) -> str:
        """The text."""
        return str(self.fields["content"])


def parse_messages(messages: Any) -> tuple[ChatMessage, ...]:
    """Checks a row's `messages`. Raises DataError naming the message, from 0, and its key."""
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError("'messages' must be a list of at least one message")
    parsed = tuple(_parse_message(message, place=f"messages[{index}]") for index, message in enumerate(messages))
    if not any(message.is_learned for message in parsed):
        raise DataError("'messages' has no assistant message to learn from")
    return parsed


def _parse_message(message: Any, *, place: str) -> ChatMessage:
    if not isinstance(message, Mapping):
        raise DataError(f"{place} must be an object with 'role' and 'content'")
    for key in KEYS_NOT_YET_SUPPORTED:
        if message.get(key):
            raise DataError(f"{place}.{key} is not supported yet")
    role = message.get("role")
    if role in ROLES_NOT_YET_SUPPORTED:
        raise DataError(f"{place}.role {role!r} is not supported yet")
    if role not in ROLES:
        raise DataError(f"{place}.role must be one of {', '.join(ROLES)}, not {role!r}")
    fields = {key: value for key, value in message.items() if key != "weight" and value is not None}
    fields["content"] = _parse_content(message.get("content"), place=place)
    return ChatMessage(fields=fields, is_learned=role == "assistant" and _parse_weight(message, place=place) == 1)


def _parse_content(content: Any, *, place: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)  # type: ignore[arg-type]
        raise DataError(f"{place}.content holds a part that is no text; only texts are supported")
    raise DataError(f"{place}.content must be a text, not {type(content).__name__}")


def _parse_weight(message: Mapping[str, Any], *, place: str) -> int:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1, None):
        raise DataError(f"{place}.weight must be 0 or 1, not {weight!r}")
    return 1 if weight is None else int(weight)
