"""One row of chat data: its messages, its tools, and what else the chat template is told."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainer_core.errors import DataError
from trainer_core.tokenizers.messages import ChatMessage, parse_messages
from trainer_core.tokenizers.tool_calls import parse_tools

RESERVED_VARIABLES = frozenset(
    {
        "messages",
        "conversation",
        "conversations",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "return_assistant_tokens_mask",
        "tokenize",
    }
)
"""Names that rendering itself gives a meaning to."""
SPECIAL_TOKEN_VARIABLES = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")) | {
    "additional_special_tokens"
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template renders."""

    messages: tuple[ChatMessage, ...]
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Such as `enable_thinking`."""

    def through(self, num_messages: int) -> "Conversation":
        """The same with its first messages alone."""
        return replace(self, messages=self.messages[:num_messages])

    def with_message(self, index: int, message: ChatMessage) -> "Conversation":
        """The same with another message in one place."""
        return replace(self, messages=(*self.messages[:index], message, *self.messages[index + 1 :]))

    def with_fields(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> "Conversation":
        """The same with the fields of every message changed."""
        changed = (replace(message, fields=change(message.fields)) for message in self.messages)
        return replace(self, messages=tuple(changed))

    def without_variables(self, names: Collection[str]) -> "Conversation":
        """The same without variables of these names."""
        return replace(self, variables={name: self.variables[name] for name in self.variables if name not in names})


def parse_conversation(messages: Any, others: Mapping[str, Any]) -> Conversation:
    """A row's `messages`, and of the `others` of its keys the tools, documents and variables of the template.

    `chat_template_kwargs` holds variables by name; so does every other key, which a template that does not know it
    leaves out. Raises DataError naming what is wrong.
    """
    options = _parse_options(others.get("chat_template_kwargs"))
    named = RESERVED_VARIABLES | SPECIAL_TOKEN_VARIABLES | {"functions", "chat_template_kwargs", "parallel_tool_calls"}
    variables = {key: value for key, value in others.items() if key not in named and value is not None}
    return Conversation(
        messages=parse_messages(messages),
        tools=parse_tools(others.get("tools"), others.get("functions")),
        documents=_parse_documents(others.get("documents")),
        variables=variables | options,
    )


def _parse_options(options: Any) -> dict[str, Any]:
    if not options:
        return {}
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except (ValueError, RecursionError) as error:
            raise DataError(f"'chat_template_kwargs' is not JSON: {error}") from error
    if not isinstance(options, Mapping):
        raise DataError(f"'chat_template_kwargs' must be an object, not {type(options).__name__}")
    refused = sorted((RESERVED_VARIABLES | SPECIAL_TOKEN_VARIABLES) & set(options))
    if refused:
        raise DataError(f"'chat_template_kwargs' must not hold {', '.join(map(repr, refused))}")
    return dict(options)


def _parse_documents(documents: Any) -> list[dict[str, Any]] | None:
    if not documents:
        return None
    is_list = isinstance(documents, Sequence) and not isinstance(documents, str)
    if not is_list or not all(isinstance(document, Mapping) for document in documents):
        raise DataError("'documents' must be a list of objects")
    return [dict(document) for document in documents]
