"""Rendering of conversations by a chat template, with a mask of what the assistant says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from trainer_core.errors import DataError, ModelLoadError
from trainer_core.tokenizers.answer_spans import AnswerSpans, Span
from trainer_core.tokenizers.chat_template import TemplateTraits, read_traits
from trainer_core.tokenizers.conversation import Conversation, parse_conversation
from trainer_core.tokenizers.messages import KEYS_OF_REASONING
from trainer_core.tokenizers.template_forms import iterate_forms, looks_like_python

ERRORS_OF_TEMPLATES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template raises on its own account, and what its expressions raise."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """One conversation as text and as tokens; both lists have one entry a token."""

    text: str
    input_ids: list[int]
    is_target: list[bool]
    """Whether the assistant says the token: its content, its calls, and what ends its turn."""


class ChatRenderer:
    """Renders conversations so that their tokens are exactly those of `apply_chat_template`.

    What the assistant says is found by the template's `{% generation %}` marks, or else as `answer_spans` tells.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raises ModelLoadError for a tokenizer without a template, or one that cannot tell where a token stands."""
        if not tokenizer.chat_template:
            raise ModelLoadError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template, which rows with 'messages' need; "
                'set chat_template="chatml" or a template\'s Jinja text, or use the tokenizer of an '
                "instruction-tuned model",
                param="chat_template",
            )
        if not tokenizer.is_fast:
            raise ModelLoadError(
                f"the tokenizer {tokenizer.name_or_path!r} does not tell the characters of a token; "
                "conversations need one that does",
                param="tokenizer_name_or_path",
            )
        self._tokenizer = tokenizer
        self._special_tokens: dict[str, Any] = dict(tokenizer.special_tokens_map)
        self._added_tokens = tuple(str(token) for token in tokenizer.get_added_vocab() if str(token).strip())
        self._shown_roles = {"user", "assistant"}
        read_traits(self._get_template(None))

    def render(self, messages: Any, others: Mapping[str, Any] | None = None) -> RenderedChat:
        """`others`: the row's other keys, such as `tools`.

        Raises DataError for messages that are wrong, that the template refuses, or whose answers it hides;
        NoTargetError when there is no answer to learn.
        """
        conversation = parse_conversation(messages, others or {})
        template = self._get_template(conversation.tools)
        traits = read_traits(template)
        conversation = _fit_to_template(conversation, template=template, traits=traits)
        conversation = conversation.without_variables(self._special_tokens)
        conversation, answers = self._render_as_it_likes(conversation, template, traits)
        text = answers.text
        spans = self._find_marked_spans(conversation, text, template) if traits.has_marks else answers.find()
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        is_target = _mask_tokens(encoded["offset_mapping"], spans)
        return RenderedChat(text=text, input_ids=encoded["input_ids"], is_target=is_target)

    def _get_template(self, tools: Sequence[Any] | None) -> str:
        try:
            template: str = self._tokenizer.get_chat_template(None, tools)
        except ValueError as error:
            message = f"the tokenizer has several chat templates and none by default: {error}; set chat_template"
            raise ModelLoadError(message, param="chat_template") from error
        return template

    def _render_as_it_likes(
        self, conversation: Conversation, template: str, traits: TemplateTraits
    ) -> tuple[Conversation, AnswerSpans]:
        """The first form of the conversation that the template renders whole. Raises the first form's DataError."""
        refusal: DataError | None = None
        for form in iterate_forms(conversation):
            try:
                answers = AnswerSpans(
                    form,
                    self._render_text(form, template),
                    render=lambda shown, flag: self._render_text(shown, template, add_generation_prompt=flag),
                    has_prompt="add_generation_prompt" in traits.variables,
                    added_tokens=self._added_tokens,
                )
                self._check_shown(form, answers)
            except DataError as error:
                refusal = refusal or error
                continue
            if not looks_like_python(form, answers.text):
                return form, answers
        raise refusal or DataError("the chat template writes calls as Python does, not as JSON; give a chat_template")

    def _render_text(self, conversation: Conversation, template: str, *, add_generation_prompt: bool = False) -> str:
        return self._render_once(conversation, template, add_generation_prompt=add_generation_prompt)[0]

    def _render_once(
        self,
        conversation: Conversation,
        template: str,
        *,
        add_generation_prompt: bool = False,
        return_assistant_tokens_mask: bool = False,
    ) -> tuple[str, list[tuple[int, int]]]:
        try:
            # transformers' annotation says str, but what comes back is a pair of lists, one entry a conversation.
            answer: Any = render_jinja_template(
                conversations=[[dict(message.fields) for message in conversation.messages]],
                tools=conversation.tools,  # type: ignore[arg-type]
                documents=conversation.documents,
                chat_template=template,
                add_generation_prompt=add_generation_prompt,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
                **self._special_tokens,
                **conversation.variables,
            )
        except ERRORS_OF_TEMPLATES as error:
            message = f"the chat template refuses the messages: {error}; chat_template can name another one"
            raise DataError(message) from error
        (text,), positions = answer
        return text, positions[0] if positions else []

    def _check_shown(self, conversation: Conversation, answers: AnswerSpans) -> None:
        """A template may pass over a role, or a form of content, that it does not know."""
        for index, message in enumerate(conversation.messages):
            content = message.fields["content"]
            is_seen = isinstance(content, str) and content.strip() in answers.text
            if not content or (is_seen and message.role in self._shown_roles):
                continue
            if not answers.shows(index):
                raise DataError(
                    f"the chat template leaves out messages[{index}] of the role {message.role!r}; "
                    "give a chat_template that knows it"
                )
            self._shown_roles.add(message.role)

    def _find_marked_spans(self, conversation: Conversation, text: str, template: str) -> list[Span]:
        rendered, positions = self._render_once(conversation, template, return_assistant_tokens_mask=True)
        if rendered != text:
            raise DataError("the chat template renders the same messages differently each time")
        spans = self._extend_over_turn_ends([Span(start, end) for start, end in positions if start < end], text)
        answers = [message for message in conversation.messages if message.role == "assistant"]
        if all(message.is_learned for message in answers):
            return spans
        if len(spans) != len(answers):
            raise DataError("'weight' cannot be honoured: the chat template does not mark one span for each answer")
        return [span for span, message in zip(spans, answers, strict=True) if message.is_learned]

    def _extend_over_turn_ends(self, spans: Sequence[Span], text: str) -> list[Span]:
        """Marks may leave out the token that ends a turn, without which a model never learns to stop.

        It is the end-of-text token, or the one added token that follows every mark.
        """
        followers = [self._find_follower(span, text) for span in spans]
        is_common = len(set(followers)) == 1
        eos = self._special_tokens.get("eos_token")
        return [
            Span(span.start, span.end + len(follower)) if is_common or follower == eos else span
            for span, follower in zip(spans, followers, strict=True)
        ]

    def _find_follower(self, span: Span, text: str) -> str:
        """The added token right behind a mark that does not end in one itself; empty when there is none."""
        if text[span.start : span.end].rstrip().endswith(self._added_tokens):
            return ""
        following = [token for token in self._added_tokens if text.startswith(token, span.end)]
        return max(following, key=len, default="")


def _fit_to_template(conversation: Conversation, *, template: str, traits: TemplateTraits) -> Conversation:
    """Leaves out variables that the template does not know, and refuses what it would drop without a word."""
    if conversation.tools and "tools" not in traits.variables:
        raise DataError("the chat template does not render 'tools'; give a chat_template that does")
    if conversation.documents and "documents" not in traits.variables:
        raise DataError("the chat template does not render 'documents'; leave them out")
    for index, message in enumerate(conversation.messages):
        for key in ("tool_calls", *KEYS_OF_REASONING):
            if message.fields.get(key) and key not in template:
                raise DataError(
                    f"the chat template does not render messages[{index}].{key}; give a chat_template that does"
                )
    if "developer" not in template:
        conversation = conversation.with_fields(_name_developer_system)
    known = {name: value for name, value in conversation.variables.items() if name in traits.variables}
    return replace(conversation, variables=known)


def _name_developer_system(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**fields, "role": "system"} if fields["role"] == "developer" else fields


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
