"""Tokenizers made on the spot, and rows in files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, Split
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import build_tiny_llama, build_tiny_tokenizer

WORDS = ["Hi", "there", "I", "am", "Bob", "Yes", "User", "Bot", "hello", "fine", "thanks"]


def build_word_tokenizer(vocabulary: list[str], pre_tokenizer: Any, *, bos: bool) -> PreTrainedTokenizerFast:
    """One token a word; `</s>` is both end of text and padding, as X-LLM's users have it."""
    tokens = ["<unk>", "<s>", "</s>", *vocabulary]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizer
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="</s>",
    )


@pytest.fixture
def llama_like() -> PreTrainedTokenizerFast:
    """Puts a BOS in front and marks the start of a word by ▁, also at the start of a text."""
    words = [form for word in WORDS for form in (f"▁{word}", word)]
    splitter = pre_tokenizers.Sequence([Metaspace(), Split(Regex("\n"), "isolated"), Split(":", "isolated")])
    return build_word_tokenizer([*words, "\n", ":", "▁"], splitter, bos=True)


@pytest.fixture
def falcon_like() -> PreTrainedTokenizerFast:
    """Byte-level, and nothing in front of a text."""
    words = [form for word in WORDS for form in (f"Ġ{word}", word)]
    return build_word_tokenizer([*words, "Ċ", ":"], ByteLevel(add_prefix_space=False), bos=False)


@pytest.fixture(scope="session")
def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with BOS, padding and a chat template; copy it before changing it."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama with its tokenizer."""
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows into a file below the test's folder."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
