"""The forms of one conversation that templates differ in, and how to see that one was not meant."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from trainer_core.tokenizers.conversation import Conversation


def iterate_forms(conversation: Conversation) -> Iterator[Conversation]:
    """The conversation as it is given first; then what some templates want instead.

    Most take a call's arguments as an object and a few as JSON text; most leave out a content of None and a few write
    the word; those of models that see images want a content as a list of parts.
    """
    forms = [conversation]
    if any("tool_calls" in message.fields for message in conversation.messages):
        forms.append(conversation.with_fields(_write_arguments))
    if any(message.fields["content"] is None for message in conversation.messages):
        forms += [form.with_fields(_replace_none) for form in forms]
    yield from forms
    yield from (form.with_fields(_split_content) for form in forms)


def looks_like_python(conversation: Conversation, text: str) -> bool:
    """Whether arguments, parts or a missing content were written as Python writes them, which no template means."""
    num_none = 0
    for message in conversation.messages:
        content = message.fields["content"]
        num_none += int(content is None)
        objects = [call["function"]["arguments"] for call in message.fields.get("tool_calls", [])]
        if any(value and not isinstance(value, str) and str(value) in text for value in [content, *objects]):
            return True
    if not num_none:
        return False
    given = sum(str(dict(message.fields)).count("None") for message in conversation.messages) - num_none
    return text.count("None") - given - str(conversation.tools or "").count("None") >= num_none


def _replace_none(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**fields, "content": ""} if fields["content"] is None else fields


def _split_content(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**fields, "content": [{"type": "text", "text": fields["content"]}] if fields["content"] else []}


def _write_arguments(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    if "tool_calls" not in fields:
        return fields
    calls = []
    for call in fields["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**fields, "tool_calls": calls}
