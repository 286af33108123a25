"""Rendering of conversations: exact tokens, and a loss on what the assistant says."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tiny_models import (
    CHAT_TEMPLATE,
    CHAT_TEMPLATE_WITH_GENERATION,
    build_tiny_tokenizer,
)
from trainer_core.collators import ChatCollator
from trainer_core.collators.sample_error import SampleError
from trainer_core.errors import DataError, ModelLoadError
from trainer_core.tokenizers.chat_rendering import ChatRenderer

NO_PROMPT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} </s>"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
FORGETFUL_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
REFUSING_TEMPLATE = "{% for m in messages %}{{ raise_exception('no ' + m['role']) }}{% endfor %}"
TEMPLATES = {
    "prompt": CHAT_TEMPLATE,
    "marks": CHAT_TEMPLATE_WITH_GENERATION,
    "no prompt": NO_PROMPT_TEMPLATE,
}
RENDERERS = {name: ChatRenderer(build_tiny_tokenizer(chat_template=text)) for name, text in TEMPLATES.items()}


def say(role: str, content: Any, **keys: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **keys}


def list_learned_texts(renderer: ChatRenderer, messages: list[dict[str, Any]]) -> list[str]:
    """The runs of learned tokens, as text."""
    chat = renderer.render(messages)
    runs: list[list[int]] = [[]]
    for token, is_target in zip(chat.input_ids, chat.is_target, strict=True):
        if is_target:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [renderer._tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


CONVERSATION = [
    say("system", "Be short."),
    say("user", "Hello"),
    say("assistant", "Hi, I am Bob."),
    say("user", "the cat?"),
    say("assistant", "the cat reads\n\na letter"),
]


@pytest.mark.parametrize(
    ("template", "learned"),
    [
        # The newline behind the end of the turn is not: at inference the model has stopped by then.
        ("prompt", ["Hi, I am Bob.<|im_end|>", "the cat reads\n\na letter<|im_end|>"]),
        # Marks are the template's own word, newline included.
        ("marks", ["Hi, I am Bob.<|im_end|>\n", "the cat reads\n\na letter<|im_end|>\n"]),
        # The blank in front belongs to the prompt, as far as the tokens let it.
        ("no prompt", ["Hi, I am Bob. </s>", " the cat reads\n\na letter </s>"]),
    ],
)
def test_what_the_assistant_says_and_its_end_of_turn_is_learned(template: str, learned: list[str]) -> None:
    assert list_learned_texts(RENDERERS[template], CONVERSATION) == learned


contents = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() == text and "<" not in text)


@pytest.mark.parametrize("template", list(TEMPLATES))
@given(turns=st.lists(st.tuples(contents, contents), min_size=1, max_size=3), system=st.none() | contents)
@settings(max_examples=40, deadline=None)
def test_the_tokens_are_those_of_apply_chat_template(
    template: str, turns: list[tuple[str, str]], system: str | None
) -> None:
    renderer = RENDERERS[template]
    messages = [say("system", system)] if system else []
    for question, answer in turns:
        messages += [say("user", question), say("assistant", answer)]

    chat = renderer.render(messages)

    exact = renderer._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert chat.input_ids == exact["input_ids"]
    assert any(chat.is_target)


def test_marks_give_transformers_own_mask() -> None:
    renderer = RENDERERS["marks"]
    exact = renderer._tokenizer.apply_chat_template(
        CONVERSATION, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert renderer.render(CONVERSATION).is_target == [bool(value) for value in exact["assistant_masks"]]


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_an_answer_of_weight_zero_is_context_only(template: str) -> None:
    messages = [*CONVERSATION[:2], say("assistant", "not this", weight=0), *CONVERSATION[3:]]
    (learned,) = list_learned_texts(RENDERERS[template], messages)
    assert "a letter" in learned
    assert "not this" not in learned


def test_parts_of_a_content_are_joined() -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]
    assert list_learned_texts(RENDERERS["prompt"], [say("user", "x"), say("assistant", parts)]) == ["the cat<|im_end|>"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "must be a list"),
        ([], "must be a list"),
        (["hello"], r"messages\[0\] must be an object"),
        ([say("user", "a")], "no assistant message"),
        ([say("user", "a"), say("assistant", "b", weight=0)], "no assistant message to learn from"),
        ([say("user", "a"), say("assistant", None)], r"messages\[1\]\.content must be a text, not NoneType"),
        ([say("user", [{"type": "image_url"}]), say("assistant", "b")], r"messages\[0\]\.content holds a part"),
        ([say("bot", "a"), say("assistant", "b")], r"messages\[0\]\.role must be one of"),
        ([say("user", "a"), say("system", "b"), say("assistant", "c")], r"messages\[1\]\.role is 'system'"),
        ([say("system", "a"), say("developer", "b"), say("assistant", "c")], r"messages\[1\]\.role is 'developer'"),
        ([say("user", "a"), say("assistant", " ")], r"messages\[1\]\.content is empty"),
        ([say("user", "a"), say("assistant", "b", audio={"id": "c"})], r"messages\[1\]\.audio is not supported"),
        ([say("user", "a"), say("assistant", "b", weight=0.5)], r"messages\[1\]\.weight must be 0 or 1"),
        ([say("user", "a"), say("assistant", "b", weight=True)], r"messages\[1\]\.weight must be 0 or 1"),
    ],
)
def test_wrong_messages_are_named(messages: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        RENDERERS["prompt"].render(messages)


def test_turns_that_a_template_changes_afterwards_are_found_as_they_stand() -> None:
    renderer = ChatRenderer(build_tiny_tokenizer(chat_template=FORGETFUL_TEMPLATE))

    assert list_learned_texts(renderer, CONVERSATION) == ["Hi, I am Bob.</s>", " the cat reads\n\na letter</s>"]
    only_last = [*CONVERSATION[:2], say("assistant", "x", weight=0), *CONVERSATION[3:]]
    assert list_learned_texts(renderer, only_last) == [" the cat reads\n\na letter</s>"]


def test_a_template_that_refuses_the_messages_is_named() -> None:
    renderer = ChatRenderer(build_tiny_tokenizer(chat_template=REFUSING_TEMPLATE))
    with pytest.raises(DataError, match="chat template refuses the messages: no system"):
        renderer.render(CONVERSATION)


def test_a_tokenizer_without_a_chat_template_is_named() -> None:
    tokenizer = build_tiny_tokenizer(chat_template=None)
    tokenizer.name_or_path = "some/base-model"
    with pytest.raises(ModelLoadError, match="'some/base-model' has no chat template") as caught:
        ChatCollator(tokenizer, 64)
    assert 'chat_template="chatml"' in caught.value.message
    assert caught.value.param == "chat_template"


def test_a_long_question_leaves_room_for_the_answer(bpe_tokenizer: Any) -> None:
    messages = [say("user", "the cat " * 200), say("assistant", "a letter")]

    batch = ChatCollator(bpe_tokenizer, 48)([{"messages": messages}])

    assert batch["input_ids"].shape == (1, 48)
    assert batch["input_ids"][0, 0] == bpe_tokenizer.bos_token_id
    learned = batch["labels"][0][batch["labels"][0] != -100]
    assert bpe_tokenizer.decode(learned) == "a letter<|im_end|>"


def test_the_collator_names_the_sample_whose_messages_are_wrong(bpe_tokenizer: Any) -> None:
    fine = {"messages": [say("user", "a"), say("assistant", "b")]}
    with pytest.raises(SampleError, match="no assistant message") as caught:
        ChatCollator(bpe_tokenizer, 64)([fine, {"messages": [say("user", "a")]}])
    assert caught.value.position == 1
