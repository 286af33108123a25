"""The key chat_template: a template of one's own, and the built-in ChatML."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.support.tiny_models import CHAT_TEMPLATE, build_tiny_llama, build_tiny_tokenizer
from trainer_core.collators import ChatCollator
from trainer_core.config import Config, ConfigError, build_config
from trainer_core.errors import ModelLoadError
from trainer_core.tokenizers import build_tokenizer
from trainer_core.tokenizers.chat_rendering import ChatRenderer
from trainer_core.tokenizers.chat_template import describe_chatml, set_chat_template

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, Bob."}]
OWN_TEMPLATE = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"


def build_tokenizer_without_markers(*, with_bos: bool = True) -> PreTrainedTokenizerFast:
    """Knows `<s>`, `</s>` and `<pad>` alone."""
    tokenizer = build_tiny_tokenizer(with_bos=with_bos, chat_template=None)
    text = tokenizer._tokenizer.to_str().replace("<|im_start|>", "<unused_1>").replace("<|im_end|>", "<unused_2>")
    backend = type(tokenizer._tokenizer).from_str(text)
    bos = {"bos_token": "<s>"} if with_bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", **bos)


def list_learned_texts(tokenizer: Any, messages: list[Any]) -> list[str]:
    chat = ChatRenderer(tokenizer).render(messages)
    learned = [token for token, is_target in zip(chat.input_ids, chat.is_target, strict=True) if is_target]
    return [tokenizer.decode(learned, skip_special_tokens=False)]


def test_a_template_is_used_and_saved_with_the_tokenizer(tmp_path: Path) -> None:
    model = build_tiny_llama(tmp_path / "model", tokenizer=build_tiny_tokenizer(chat_template=None))
    tokenizer = build_tokenizer(Config(model_name_or_path=str(model), chat_template=OWN_TEMPLATE))

    tokenizer.save_pretrained(tmp_path / "saved")

    assert ChatRenderer(tokenizer).render(TALK).text == "user: Hello</s>assistant: Hi, Bob.</s>"
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == OWN_TEMPLATE


def test_a_template_takes_the_place_of_the_tokenizers_own(tmp_path: Path) -> None:
    model = build_tiny_llama(tmp_path / "model", tokenizer=build_tiny_tokenizer(chat_template=CHAT_TEMPLATE))
    tokenizer = build_tokenizer(Config(model_name_or_path=str(model), chat_template=OWN_TEMPLATE))
    assert tokenizer.chat_template == OWN_TEMPLATE


def test_chatml_uses_the_markers_of_the_vocabulary() -> None:
    tokenizer = build_tiny_tokenizer(chat_template=None)
    num_tokens = len(tokenizer)

    set_chat_template(tokenizer, "chatml")

    chat = ChatRenderer(tokenizer).render(TALK)
    assert chat.text == "<s><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi, Bob.<|im_end|>\n"
    assert list_learned_texts(tokenizer, TALK) == ["Hi, Bob.<|im_end|>"]
    assert len(tokenizer) == num_tokens
    assert "let generation stop at <|im_end|>" in describe_chatml(tokenizer)


@pytest.mark.parametrize("with_bos", [True, False])
def test_chatml_without_markers_ends_answers_in_the_end_of_text(with_bos: bool) -> None:
    tokenizer = build_tokenizer_without_markers(with_bos=with_bos)
    num_tokens = len(tokenizer)

    set_chat_template(tokenizer, "chatml")

    chat = ChatRenderer(tokenizer).render(TALK)
    assert chat.text.startswith("<s><|im_start|>user\n" if with_bos else "<|im_start|>user\n")
    assert chat.text.endswith("assistant\nHi, Bob.<|im_end|></s>\n")
    assert list_learned_texts(tokenizer, TALK) == ["Hi, Bob.<|im_end|></s>"]
    assert len(tokenizer) == num_tokens
    assert "plain text of several tokens; an assistant's turn also ends in '</s>'" in describe_chatml(tokenizer)


def test_chatml_writes_tools_and_calls() -> None:
    tokenizer = build_tiny_tokenizer(chat_template=None)
    set_chat_template(tokenizer, "chatml")
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "system", "content": "Be short."},
        *TALK[:1],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]
    chat = ChatRenderer(tokenizer).render(messages, {"tools": [{"type": "function", "function": {"name": "f"}}]})

    assert chat.text.count("<|im_start|>system") == 1
    assert 'one JSON object each:\n{"type": "function", "function": {"name": "f"}}\n' in chat.text
    learned = [token for token, is_target in zip(chat.input_ids, chat.is_target, strict=True) if is_target]
    assert tokenizer.decode(learned) == (
        '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call><|im_end|>It is 42.<|im_end|>'
    )


def test_a_generation_prompt_is_a_prefix_of_the_conversation() -> None:
    tokenizer = build_tiny_tokenizer(chat_template=None)
    set_chat_template(tokenizer, "chatml")
    prompt = tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    assert ChatRenderer(tokenizer).render(TALK).text.startswith(prompt)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}", r"chat_template: line 1 is no Jinja template: Unexpected end"),
        ("{{ messages\n| nofilter }}", r"chat_template: line 2 is no Jinja template: No filter named 'nofilter'"),
        ("{{ messages", "chat_template: line 1 is no Jinja template"),
    ],
)
def test_a_template_with_a_wrong_syntax_is_named_with_its_line(tmp_path: Path, template: str, reason: str) -> None:
    model = build_tiny_llama(tmp_path / "model")
    with pytest.raises(ModelLoadError, match=reason) as caught:
        build_tokenizer(Config(model_name_or_path=str(model), chat_template=template))
    assert caught.value.param == "chat_template"


def test_a_name_that_is_no_template_is_refused_with_the_config() -> None:
    with pytest.raises(ConfigError, match="'chatlm' is neither 'chatml' nor the text of a Jinja template") as caught:
        build_config({"chat_template": "chatlm"})
    assert caught.value.param == "chat_template"


def test_several_templates_without_a_default_are_named() -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = {"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}
    with pytest.raises(ModelLoadError, match=r"several chat templates and none by default.*set chat_template"):
        ChatCollator(tokenizer, 64)
