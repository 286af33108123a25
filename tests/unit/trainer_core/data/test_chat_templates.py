"""Masks on templates that behave as the families of models do: tokens are the template's own, targets the answers."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import chat_templates as templates
from tests.support.tiny_models import build_tiny_tokenizer
from trainer_core.errors import DataError
from trainer_core.tokenizers.chat_rendering import ChatRenderer

TOKENIZER = build_tiny_tokenizer()
TOKENIZER.add_special_tokens({"additional_special_tokens": list(templates.SPECIAL_TOKENS)})
LETTERS_OF_ANSWERS = "nopqrstuvwxyz éß🙂"
LETTERS_OF_OTHERS = "ABCDEFGHIJK ÄÖ"


def render_with(template: str) -> ChatRenderer:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = template
    return ChatRenderer(tokenizer)


RENDERERS = {
    name: render_with(getattr(templates, name))
    for name in (
        "QWEN3_LIKE",
        "LLAMA3_LIKE",
        "MISTRAL_LIKE",
        "GEMMA_LIKE",
        "PHI3_LIKE",
        "DEEPSEEK_LIKE",
        "LLAMA2_LIKE",
        "HARMONY_LIKE",
        "PARTS_ALONE",
        "MARKED_WITHOUT_END",
        "MIXED_TURNS",
    )
}


def say(role: str, content: Any, **keys: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **keys}


def call(name: str, arguments: Any, call_id: str = "abcdefghi") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def list_learned_texts(renderer: ChatRenderer, messages: list[Any], **others: Any) -> list[str]:
    """The runs of learned tokens, as text."""
    chat = renderer.render(messages, others)
    runs: list[list[int]] = [[]]
    for token, is_target in zip(chat.input_ids, chat.is_target, strict=True):
        if is_target:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [renderer._tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


THINKING = "<think>\nhm\n</think>\n\nit reads"
TALK = [say("user", "Hello"), say("assistant", "Hi, Bob."), say("user", "the cat?"), say("assistant", "it reads")]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
TOOL_TALK = [
    say("user", "Hello"),
    say("assistant", None, tool_calls=[call("f", '{"x": "1"}')]),
    say("tool", "42", tool_call_id="abcdefghi", name="f"),
    say("assistant", "It is 42."),
    say("user", "thanks"),
    say("assistant", "ok"),
]


@pytest.mark.parametrize(
    ("template", "learned"),
    [
        # What the template writes in front of the last answer is generated, too.
        ("QWEN3_LIKE", ["Hi, Bob.<|im_end|>", "<think>\n\n</think>\n\nit reads<|im_end|>"]),
        ("LLAMA3_LIKE", ["Hi, Bob.<|eot_id|>", "it reads<|eot_id|>"]),
        ("MISTRAL_LIKE", ["Hi, Bob.</s>", "it reads</s>"]),
        ("GEMMA_LIKE", ["Hi, Bob.<end_of_turn>", "it reads<end_of_turn>"]),
        ("PHI3_LIKE", ["Hi, Bob.<|end|>", "it reads<|end|>\n</s>"]),
        ("DEEPSEEK_LIKE", ["Hi, Bob.</s>", "it reads</s>"]),
        ("LLAMA2_LIKE", ["Hi, Bob. </s>", "it reads </s>"]),
        (
            "HARMONY_LIKE",
            [
                "<|channel|>final<|message|>Hi, Bob.<|end|>",
                "<|channel|>final<|message|>it reads<|return|>",
            ],
        ),
        ("PARTS_ALONE", ["Hi, Bob.<|im_end|>", "it reads<|im_end|>"]),
        ("MARKED_WITHOUT_END", ["Hi, Bob.<|im_end|>", "it reads<|im_end|>"]),
    ],
)
def test_every_answer_and_its_end_of_turn_is_learned(template: str, learned: list[str]) -> None:
    assert list_learned_texts(RENDERERS[template], TALK) == learned


@pytest.mark.parametrize(
    ("template", "learned"),
    [
        ("QWEN3_LIKE", '<tool_call>\n{"name": "f", "arguments": {"x": "1"}}\n</tool_call><|im_end|>'),
        ("LLAMA3_LIKE", '{"name": "f", "parameters": {"x": "1"}}<|eot_id|>'),
        ("MISTRAL_LIKE", '[TOOL_CALLS][{"name": "f", "arguments": {"x": "1"}, "id": "abcdefghi"}]</s>'),
    ],
)
def test_a_call_is_learned_whole_with_its_name(template: str, learned: str) -> None:
    runs = list_learned_texts(RENDERERS[template], TOOL_TALK, tools=TOOLS)
    assert runs[0] == learned
    assert len(runs) == 3
    assert "It is 42." in runs[1]


def test_a_template_that_wants_arguments_as_text_gets_them_as_text() -> None:
    runs = list_learned_texts(RENDERERS["DEEPSEEK_LIKE"], TOOL_TALK)
    assert runs == ['<|call|>f\n{"x": "1"}<|end_call|></s>', "It is 42.</s>", "ok</s>"]


def test_arguments_without_a_tojson_are_not_written_as_python_writes_them() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments }}</tool_call>{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    runs = list_learned_texts(render_with(template), TOOL_TALK[:2])
    assert runs == [' <tool_call>{"x": "1"}</tool_call></s>']


def test_several_calls_and_a_text_are_one_answer() -> None:
    calls = [call("f", {"x": 1}), call("g", "", "ihgfedcba")]
    messages = [
        say("user", "Hello"),
        say("assistant", "Let me see.", tool_calls=calls),
        say("tool", "1"),
        say("tool", "2"),
    ]
    (learned,) = list_learned_texts(RENDERERS["QWEN3_LIKE"], messages, tools=TOOLS)
    assert learned.startswith("Let me see.\n<tool_call>")
    assert learned.endswith('"g", "arguments": {}}\n</tool_call><|im_end|>')


def test_older_functions_are_tools() -> None:
    older = [
        say("user", "Hello"),
        say("assistant", None, function_call={"name": "f", "arguments": '{"x": "1"}'}),
        say("function", "42", name="f"),
        say("assistant", "It is 42."),
    ]
    functions = [TOOLS[0]["function"]]
    renderer = RENDERERS["QWEN3_LIKE"]
    newer = [older[0], say("assistant", None, tool_calls=[call("f", {"x": "1"})]), say("tool", "42"), older[3]]
    assert renderer.render(older, {"functions": functions}).text == renderer.render(newer, {"tools": TOOLS}).text


def test_reasoning_is_learned_where_the_template_shows_it() -> None:
    messages = [*TALK[:3], say("assistant", THINKING)]
    assert list_learned_texts(RENDERERS["QWEN3_LIKE"], messages)[1] == THINKING + "<|im_end|>"
    apart = [*TALK[:3], say("assistant", "it reads", reasoning_content="hm")]
    assert list_learned_texts(RENDERERS["QWEN3_LIKE"], apart)[1] == THINKING + "<|im_end|>"
    thinking = [TALK[0], say("assistant", "Hi", thinking="a"), TALK[2], say("assistant", "it reads", thinking="hm")]
    assert list_learned_texts(RENDERERS["HARMONY_LIKE"], thinking) == [
        "<|channel|>final<|message|>Hi<|end|>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>it reads<|return|>",
    ]
    # Of an earlier answer the template drops it: what stands there is learned.
    earlier = [TALK[0], say("assistant", THINKING), *TALK[2:]]
    assert list_learned_texts(RENDERERS["QWEN3_LIKE"], earlier)[0] == "it reads<|im_end|>"


def test_assistant_messages_in_a_row_are_each_learned() -> None:
    messages = [TALK[0], say("assistant", "one"), say("assistant", "not", weight=0), say("assistant", "two")]
    learned = list_learned_texts(RENDERERS["LLAMA3_LIKE"], messages)
    assert learned == ["one<|eot_id|>", "two<|eot_id|>"]


def test_keys_that_the_template_knows_reach_it_and_others_do_not() -> None:
    renderer = RENDERERS["LLAMA3_LIKE"]
    assert "date: 1999" in renderer.render(TALK, {"date_string": "1999", "bos_token": "?", "source": "x"}).text
    assert "date: 2001" in renderer.render(TALK, {"chat_template_kwargs": {"date_string": "2001"}}).text
    assert renderer.render(TALK, {"bos_token": "?"}).text.startswith("<s>")


def test_a_switch_of_the_template_moves_the_prompt() -> None:
    learned = list_learned_texts(RENDERERS["QWEN3_LIKE"], TALK, enable_thinking=False)
    assert learned == ["Hi, Bob.<|im_end|>", "it reads<|im_end|>"]


def test_developer_is_system_to_a_template_that_knows_no_developer() -> None:
    renderer = RENDERERS["PHI3_LIKE"]
    assert renderer.render([say("developer", "Be short."), *TALK]).text.startswith("<|system|>\nBe short.")
    assert "'developer'" not in renderer.render([say("developer", "x"), *TALK]).text


@pytest.mark.parametrize(
    ("template", "messages", "others", "reason"),
    [
        ("GEMMA_LIKE", [say("system", "a"), *TALK], {}, "refuses the messages: System role not supported"),
        ("GEMMA_LIKE", TALK, {"tools": TOOLS}, "does not render 'tools'"),
        ("GEMMA_LIKE", TOOL_TALK, {}, r"does not render messages\[1\]\.tool_calls"),
        (
            "LLAMA3_LIKE",
            [TALK[0], say("assistant", "a", reasoning="b")],
            {},
            r"does not render messages\[1\]\.reasoning",
        ),
        ("LLAMA3_LIKE", TALK, {"documents": [{"text": "a"}]}, "does not render 'documents'"),
        ("DEEPSEEK_LIKE", [say("system", "a"), *TALK], {}, r"leaves out messages\[0\] of the role 'system'"),
        ("MIXED_TURNS", TALK, {}, r"what messages\[1\] says cannot be told apart"),
        ("QWEN3_LIKE", TALK, {"tools": "[{"}, "'tools' is not JSON"),
        ("QWEN3_LIKE", TALK, {"tools": {"a": 1}}, "'tools' must be a list of functions"),
        ("QWEN3_LIKE", TALK, {"tools": ["f"]}, r"tools\[0\] must be an object"),
        ("QWEN3_LIKE", TALK, {"tools": [{"type": "function"}]}, r"tools\[0\] must be a function with a 'name'"),
        ("QWEN3_LIKE", TALK, {"tools": TOOLS, "functions": [{"name": "f"}]}, "both 'tools' and 'functions'"),
        ("QWEN3_LIKE", TALK, {"documents": "a"}, "'documents' must be a list of objects"),
        ("QWEN3_LIKE", TALK, {"chat_template_kwargs": 3}, "'chat_template_kwargs' must be an object"),
        ("QWEN3_LIKE", TALK, {"chat_template_kwargs": {"messages": []}}, "must not hold 'messages'"),
        ("QWEN3_LIKE", [say("user", "a", tool_calls=[call("f", {})])], {}, "only an assistant message may call tools"),
    ],
)
def test_what_would_be_lost_or_is_wrong_is_named(template: str, messages: Any, others: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        RENDERERS[template].render(messages, others)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ({"name": "f"}, r"messages\[0\]\.tool_calls must be a list of calls"),
        (["f"], r"tool_calls\[0\] must be an object"),
        ([{}], r"tool_calls\[0\] must be an object with 'name' and 'arguments'"),
        ([{"function": {"name": ""}}], r"tool_calls\[0\]\.function must be an object with 'name'"),
        ([{"type": "code", "function": {"name": "f"}}], r"tool_calls\[0\]\.type must be 'function'"),
        ([call("f", "{x: 1}")], r"tool_calls\[0\]\.function\.arguments is not JSON"),
        ([call("f", "[1]")], r"tool_calls\[0\]\.function\.arguments must be a JSON object, not list"),
    ],
)
def test_wrong_calls_are_named(calls: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        RENDERERS["QWEN3_LIKE"].render([say("assistant", None, tool_calls=calls)])


answers = st.text(LETTERS_OF_ANSWERS, min_size=1, max_size=12).filter(lambda text: text.strip() == text)
questions = st.text(LETTERS_OF_OTHERS, min_size=1, max_size=12).filter(lambda text: text.strip() == text)


@pytest.mark.parametrize(
    "template",
    [
        "QWEN3_LIKE",
        "LLAMA3_LIKE",
        "MISTRAL_LIKE",
        "GEMMA_LIKE",
        "PHI3_LIKE",
        "DEEPSEEK_LIKE",
        "LLAMA2_LIKE",
        "HARMONY_LIKE",
    ],
)
@given(turns=st.lists(st.tuples(questions, answers), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_tokens_are_exact_and_masks_hold_the_answers_and_nothing_of_the_questions(
    template: str, turns: list[tuple[str, str]]
) -> None:
    renderer = RENDERERS[template]
    messages = [say(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]

    runs = list_learned_texts(renderer, messages)

    exact = renderer._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert renderer.render(messages).input_ids == exact["input_ids"]
    assert len(runs) == len(turns)
    for run, (_, answer) in zip(runs, turns, strict=True):
        assert answer in run
        assert not set(run) & (set(LETTERS_OF_OTHERS) - {" "})


def test_a_conversation_with_calls_has_the_tokens_of_apply_chat_template() -> None:
    messages = copy.deepcopy(TOOL_TALK)
    messages[1]["tool_calls"][0]["function"]["arguments"] = {"x": "1"}
    for name in ("QWEN3_LIKE", "LLAMA3_LIKE", "MISTRAL_LIKE"):
        tokenizer = RENDERERS[name]._tokenizer
        exact = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=True, return_dict=True)
        assert RENDERERS[name].render(TOOL_TALK, {"tools": TOOLS}).input_ids == exact["input_ids"]


def test_the_template_for_tools_is_used_where_there_are_tools() -> None:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = {"default": templates.GEMMA_LIKE, "tool_use": templates.QWEN3_LIKE}
    renderer = ChatRenderer(tokenizer)
    assert "<start_of_turn>" in renderer.render(TALK).text
    assert "<|im_start|>" in renderer.render(TOOL_TALK, {"tools": TOOLS}).text
