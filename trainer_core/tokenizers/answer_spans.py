"""Where the assistant's turns stand in a rendered conversation, for templates that do not mark them.

A turn that only adds to what stood before it is what lies between two renderings: of the messages before it with the
generation prompt, and of the messages through it. Templates that render earlier turns anew (Qwen3 drops the reasoning
of all but the last) are looked at by a second rendering, in which one message says something else: what differs is the
message. Its turn begins behind the generation prompt in front of it, and ends as the same turn ends where it is last.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from trainer_core.errors import DataError
from trainer_core.tokenizers.conversation import Conversation
from trainer_core.tokenizers.messages import KEYS_OF_REASONING, KEYS_OF_TEXTS, ChatMessage

Render = Callable[[Conversation, bool], str]
"""Renders a conversation, with the generation prompt or without. Raises DataError when the template refuses."""

FIRST_PRIVATE_CHARACTER = 0xE000
LAST_PRIVATE_CHARACTER = 0xF8FF


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of the rendered text, from `start` to before `end`."""

    start: int
    end: int


class AnswerSpans:
    """The spans of one rendered conversation."""

    def __init__(
        self, conversation: Conversation, text: str, *, render: Render, has_prompt: bool, added_tokens: Sequence[str]
    ) -> None:
        """`has_prompt`: the template knows a generation prompt. `added_tokens`: what may end a turn."""
        self.text = text
        self._conversation = conversation
        self._messages = conversation.messages
        self._render = render
        self._has_prompt = has_prompt
        self._added_tokens = tuple(added_tokens)
        self._regions: dict[int, Span | None] = {}
        self._shorter: dict[int, AnswerSpans | None] = {}

    def find(self) -> list[Span]:
        """One span for each assistant message that is learned. Raises DataError for one that cannot be told apart."""
        spans = [self._find_span(index) for index, message in enumerate(self._messages) if message.is_learned]
        for before, after in pairwise(spans):
            if after.start < before.end:
                raise DataError("the chat template mixes what assistant messages say; give a template with marks")
        return spans

    def shows(self, index: int) -> bool:
        """Whether what a message says makes any difference to the text."""
        return self._find_region(index) is not None

    def _find_span(self, index: int) -> Span:
        start = self._find_start(index)
        end = self._find_end(index)
        if not start < end:
            raise self._undecided(index)
        return Span(start, end)

    def _find_start(self, index: int) -> int:
        prompt = self._try_render(index, add_generation_prompt=True) if self._has_prompt and index else None
        if prompt is not None and self.text.startswith(prompt):
            return len(prompt)
        region = self._require_region(index)
        before = self._try_render(index) if index else ""
        if prompt is not None:
            floor = self._find_floor(index)
            header = prompt[_count_common(prompt, before or "") :]
            start = self._find_header_end(self.text[floor : region.start], header)
            if start is not None:
                return floor + start
        if not self._messages[index].fields.get("tool_calls"):
            return region.start
        # A call is more than its arguments: without a prompt in front it is all that the message adds.
        opening = self._find_opening(index, before)
        if opening is None or not self.text[: region.start].endswith(opening):
            raise self._undecided(index)
        return region.start - len(opening)

    def _find_opening(self, index: int, before: str | None) -> str | None:
        """What the message, where it is the last, adds in front of what it says."""
        alone = self._end_with(index)
        if alone is None or before is None or not alone.text.startswith(before):
            return None
        return alone.text[len(before) : alone._require_region(index).start]

    def _find_floor(self, index: int) -> int:
        """Where the message before has ended saying what it says: nothing of this one stands in front of it."""
        before = self._find_region(index - 1) if index else None
        return before.end if before is not None else 0

    def _find_header_end(self, gap: str, header: str) -> int | None:
        """Where the generation prompt, or the part of it that earlier turns are rendered with, ends in the gap."""
        ends = {len(header)} | {position + 1 for position, letter in enumerate(header) if letter == "\n"}
        for token in self._added_tokens:
            position = header.find(token)
            while position >= 0:
                ends.add(position + len(token))
                position = header.find(token, position + 1)
        for end in sorted(ends, reverse=True):
            position = gap.rfind(header[:end]) if header[:end].strip() else -1
            if position >= 0:
                return position + end
        return None

    def _find_end(self, index: int) -> int:
        alone = self._end_with(index)
        if alone is not None and self.text.startswith(alone.text):
            return alone._turn_end
        region = self._require_region(index)
        if alone is None:
            raise self._undecided(index)
        closing = alone.text[alone._require_region(index).end : alone._turn_end]
        following = self.text[region.end :]
        if following.startswith(closing):
            return region.end + len(closing)
        common = closing[: _count_common(closing, following)]
        for end in range(len(common), 0, -1):
            if common[:end].endswith(self._added_tokens):
                return region.end + end
        return region.end + self._find_other_closing(index, closing, following)

    def _find_other_closing(self, index: int, closing: str, following: str) -> int:
        """The length of a token that ends turns where another one ends the last; it must not be what begins one."""
        opening = ""
        if self._has_prompt and index:
            prompt, before = (self._try_render(index, add_generation_prompt=flag) or "" for flag in (True, False))
            opening = self._find_token(prompt[_count_common(prompt, before) :])
        token = self._find_token(following)
        if not (opening and token and self._find_token(closing)) or token == opening:
            raise self._undecided(index)
        return len(token)

    def _find_token(self, text: str) -> str:
        """The added token that the text starts with; empty: none."""
        return max((token for token in self._added_tokens if text.startswith(token)), key=len, default="")

    def _end_with(self, index: int) -> "AnswerSpans | None":
        """The spans of the conversation in which this message is the last; None: the template refuses it."""
        if index + 1 == len(self._messages):
            return self
        if index not in self._shorter:
            text = self._try_render(index + 1)
            shorter = None
            if text is not None:
                shorter = AnswerSpans(
                    self._conversation.through(index + 1),
                    text,
                    render=self._render,
                    has_prompt=self._has_prompt,
                    added_tokens=self._added_tokens,
                )
            self._shorter[index] = shorter
        return self._shorter[index]

    @property
    def _turn_end(self) -> int:
        """The text's length without whitespace behind a token that ends the turn: the model has stopped by then."""
        stripped = self.text.rstrip()
        return len(stripped) if self._added_tokens and stripped.endswith(self._added_tokens) else len(self.text)

    def _require_region(self, index: int) -> Span:
        region = self._find_region(index)
        if region is None:
            raise DataError(f"the chat template leaves out what messages[{index}] says")
        following = self._find_region(index + 1) if index + 1 < len(self._messages) else None
        if following is not None and region.end > following.start:
            raise self._undecided(index)
        return region

    def _find_region(self, index: int) -> Span | None:
        """What changes when the message says something else; None: nothing."""
        if not self._regions:
            self._regions.update(self._compare_at_once())
        if index not in self._regions:
            self._regions[index] = self._compare(index)
        return self._regions[index]

    def _compare_at_once(self) -> dict[int, Span]:
        """The regions of all messages of plain text by one rendering; empty where that does not give the text back."""
        changed = self._conversation
        marks: dict[int, str] = {}
        for code in range(FIRST_PRIVATE_CHARACTER, LAST_PRIVATE_CHARACTER + 1):
            index = len(marks)
            if index == len(self._messages):
                break
            if chr(code) not in self.text:
                marks[index] = chr(code)
        for index, mark in marks.items():
            if _get_plain_text(self._messages[index]) is not None:
                changed = changed.with_message(index, _say_otherwise(self._messages[index], mark))
        try:
            other = self._render(changed, False)
        except DataError:
            return {}
        return _match(self.text, other, {mark: index for index, mark in marks.items()}, self._messages)

    def _compare(self, index: int) -> Span | None:
        mark = _choose_mark(self.text)
        changed = self._conversation.with_message(index, _say_otherwise(self._messages[index], mark))
        other = self._render(changed, False)
        if other == self.text:
            return None
        start = _count_common(self.text, other)
        num_after = _count_common(self.text[start:][::-1], other[start:][::-1])
        return Span(start, len(self.text) - num_after)

    def _try_render(self, num_messages: int, *, add_generation_prompt: bool = False) -> str | None:
        """None where the template refuses the shorter conversation, as some do without an answer to a call."""
        try:
            return self._render(self._conversation.through(num_messages), add_generation_prompt)
        except DataError:
            return None

    def _undecided(self, index: int) -> DataError:
        return DataError(
            f"the chat template has no {{% generation %}} marks, and what messages[{index}] says cannot be told apart "
            "from what is around it; give it weight 0, or a chat_template with marks"
        )


def _get_plain_text(message: ChatMessage) -> str | None:
    """The text of a message that says nothing else; None for one with calls or reasoning."""
    content = message.fields["content"]
    if isinstance(content, list):
        content = content[0]["text"] if content else ""
    has_more = any(message.fields.get(key) for key in ("tool_calls", *KEYS_OF_REASONING))
    return None if has_more or content is None or "think>" in content else str(content)


def _match(text: str, other: str, indices: Mapping[str, int], messages: Sequence[ChatMessage]) -> dict[int, Span]:
    """Walks through both renderings: between the marks they must be the same, and at a mark stands the message."""
    regions: dict[int, Span] = {}
    position = start = 0
    places = [place for place, letter in enumerate(other) if letter in indices]
    for place, end in pairwise([*places, len(other)]):
        if not text.startswith(other[start:place], position):
            return {}
        position += place - start
        start = place + 1
        index = indices[other[place]]
        said = _get_plain_text(messages[index]) or ""
        following = other[start:end]
        form = next((form for form in (said, said.strip()) if text.startswith(form + following, position)), None)
        if form is None or index in regions:
            return {}
        regions[index] = Span(position, position + len(form))
        position += len(form)
    return regions if text[position:] == other[start:] else {}


def _say_otherwise(message: ChatMessage, mark: str) -> ChatMessage:
    changed: dict[str, Any] = dict(message.fields)
    for key in KEYS_OF_TEXTS:
        if isinstance(changed.get(key), str) and changed[key]:
            changed[key] = mark
    if calls := changed.get("tool_calls"):
        changed["tool_calls"] = [_call_otherwise(call, mark) for call in calls]
    if isinstance(changed["content"], list):
        changed["content"] = [{"type": "text", "text": mark}]
    elif changed["content"] == "":
        changed["content"] = mark
    return replace(message, fields=changed)


def _call_otherwise(call: Mapping[str, Any], mark: str) -> dict[str, Any]:
    function = dict(call["function"])
    function["arguments"] = mark if isinstance(function["arguments"], str) else {mark: mark}
    return {**call, "function": function}


def _choose_mark(text: str) -> str:
    """A character for private use that does not occur."""
    for code in range(FIRST_PRIVATE_CHARACTER, LAST_PRIVATE_CHARACTER + 1):
        if chr(code) not in text:
            return chr(code)
    raise DataError("the conversation uses every character for private use")


def _count_common(first: str, second: str) -> int:
    """Characters that both begin with, by halving: comparing long texts letter by letter takes too long."""
    num_common, num_at_most = 0, min(len(first), len(second))
    while num_common < num_at_most:
        middle = (num_common + num_at_most + 1) // 2
        if first[num_common:middle] == second[num_common:middle]:
            num_common = middle
        else:
            num_at_most = middle - 1
    return num_common
