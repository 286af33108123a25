"""Rendering of conversations by a tokenizer's own chat template, with a mask of what the assistant says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from trainer_core.errors import DataError, ModelLoadError
from trainer_core.tokenizers.messages import ChatMessage, parse_messages

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of the rendered text, from `start` to before `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """One conversation as text and as tokens; both lists have one entry a token."""

    text: str
    input_ids: list[int]
    is_target: list[bool]
    """Whether the assistant says the token: its content, and what ends its turn."""


class ChatRenderer:
    """Renders conversations so that their tokens are exactly those of `apply_chat_template`.

    What the assistant says is found by the template's `{% generation %}` marks. A template without them is rendered
    up to each assistant message, too: the message is what stands between two renderings, which is exact because each
    must be a prefix of the whole; a template that changes earlier turns afterwards is an error.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raises ModelLoadError for a tokenizer without a template, or one that cannot tell where a token stands."""
        if not tokenizer.chat_template:
            raise ModelLoadError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template, which rows with 'messages' need; "
                "use an instruction-tuned model or its tokenizer, or rows with 'text_parts'",
                param="tokenizer_name_or_path",
            )
        if not tokenizer.is_fast:
            raise ModelLoadError(
                f"the tokenizer {tokenizer.name_or_path!r} does not tell the characters of a token; "
                "conversations need one that does",
                param="tokenizer_name_or_path",
            )
        self._tokenizer = tokenizer
        self._template: str = tokenizer.get_chat_template()
        self._has_marks = GENERATION_MARK.search(self._template) is not None
        self._turn_ends = tuple(str(token) for token in tokenizer.get_added_vocab())

    def render(self, messages: Any) -> RenderedChat:
        """Raises DataError for messages that are wrong, that the template refuses, or whose answers it hides."""
        parsed = parse_messages(messages)
        text = self._render_text(parsed)
        spans = self._find_marked_spans(parsed, text) if self._has_marks else self._find_spans(parsed, text)
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        is_target = _mask_tokens(encoded["offset_mapping"], spans)
        return RenderedChat(text=text, input_ids=encoded["input_ids"], is_target=is_target)

    def _render_text(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = False) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message.fields) for message in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.TemplateError as error:
            raise DataError(f"the tokenizer's chat template refuses the messages: {error}") from error
        return text

    def _find_marked_spans(self, messages: Sequence[ChatMessage], text: str) -> list[Span]:
        # transformers' annotation says str, but what comes back is a pair of lists, one entry a conversation.
        answer: Any = render_jinja_template(
            conversations=[[dict(message.fields) for message in messages]],
            chat_template=self._template,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        (rendered,), (positions,) = answer
        if rendered != text:
            raise DataError("the chat template renders the same messages differently each time")
        spans = [Span(start, end) for start, end in positions]
        answers = [message for message in messages if message.fields["role"] == "assistant"]
        if all(message.is_learned for message in answers):
            return spans
        if len(spans) != len(answers):
            raise DataError("'weight' cannot be honoured: the chat template does not mark one span for each answer")
        return [span for span, message in zip(spans, answers, strict=True) if message.is_learned]

    def _find_spans(self, messages: Sequence[ChatMessage], text: str) -> list[Span]:
        return [self._find_span(messages, index, text) for index, message in enumerate(messages) if message.is_learned]

    def _find_span(self, messages: Sequence[ChatMessage], index: int, text: str) -> Span:
        through = self._render_text(messages[: index + 1])
        before = self._render_text(messages[:index]) if index else ""
        if not (text.startswith(through) and through.startswith(before)):
            raise DataError(
                f"the chat template has no {{% generation %}} marks and renders messages[{index}] differently when "
                "more messages follow, so that what it says cannot be told apart; give earlier answers weight 0, or "
                "a template with marks"
            )
        start = self._find_start(messages, index, through, len(before))
        return Span(start, self._find_turn_end(through, start))

    def _find_start(self, messages: Sequence[ChatMessage], index: int, through: str, num_before: int) -> int:
        """Behind the generation prompt; where the template has none, at the content itself."""
        prompt = self._render_text(messages[:index], add_generation_prompt=True) if index else ""
        if len(prompt) > num_before and through.startswith(prompt):
            return len(prompt)
        start = through.find(messages[index].content.strip(), num_before)
        if start < 0:
            raise DataError(f"the chat template changes the content of messages[{index}]")
        return start

    def _find_turn_end(self, through: str, start: int) -> int:
        """Whitespace behind a token that ends the turn is never generated: the model has stopped by then."""
        stripped = through.rstrip()
        if len(stripped) > start and stripped.endswith(self._turn_ends):
            return len(stripped)
        return len(through)


def _mask_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[bool]:
    """True for a token that shares a character with a span; spans are in order and apart."""
    is_target = []
    remaining = iter(spans)
    span = next(remaining, None)
    for start, end in offsets:
        while span is not None and span.end <= start:
            span = next(remaining, None)
        is_target.append(span is not None and start < span.end and end > span.start)
    return is_target
