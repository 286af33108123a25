"""Previews show what the collator gives the model, and count every row."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_models import build_tiny_llama
from trainer_core.collators import BaseCollator, collators_registry
from trainer_core.config import Config
from trainer_core.errors import DataError, StepInputError
from trainer_core.preview import render_preview
from trainer_core.preview_page import format_preview
from trainer_core.tokenizers import build_tokenizer
from trainer_core.tokenizers.token_pieces import split_into_pieces
from trainer_core.types import Batch, RawSample


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[Any]], Path]:
    def write_rows(rows: list[Any]) -> Path:
        path = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write_rows


def talk(answer: str, **keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer, **keys}]}


def test_tokens_and_targets_are_the_models(model: Path, write: Any) -> None:
    config = Config(model_name_or_path=str(model))
    preview = render_preview(config, write([talk("Hi 🙂 there"), talk("no")]), num_samples=1)

    (sample,) = preview.samples
    tokenizer = build_tokenizer(config)
    assert "".join(token.text for token in sample.tokens) == sample.text
    assert [token.id for token in sample.tokens] == tokenizer(sample.text, add_special_tokens=False)["input_ids"]
    assert "".join(token.text for token in sample.tokens if token.is_target) == "Hi 🙂 there<|im_end|>"
    assert sample.num_tokens == len(sample.tokens)
    assert sample.num_target_tokens == sum(token.is_target for token in sample.tokens)
    assert (sample.row, sample.is_truncated, preview.num_rows) == (1, False, 2)


def test_every_row_is_counted_and_bad_ones_are_told_by_line(model: Path, write: Any) -> None:
    rows = ["", talk("Hi"), talk("x" * 400), talk("Hi", weight=0), '{"messages": ', {"messages": "?"}, talk("a")]
    config = Config(model_name_or_path=str(model), max_length=64)

    preview = render_preview(config, write(rows), num_samples=5)

    assert [sample.row for sample in preview.samples] == [2, 3, 7]
    assert (preview.num_rows, preview.num_rows_counted, preview.num_errors) == (6, 6, 3)
    assert (preview.num_truncated_rows, preview.num_rows_without_target) == (1, 1)
    assert preview.longest_row_tokens > 400
    assert preview.num_tokens == sum(sample.num_tokens for sample in preview.samples)
    assert preview.num_target_tokens == sum(sample.num_target_tokens for sample in preview.samples)
    assert [error.row for error in preview.errors] == [4, 5, 6]
    assert preview.errors[0].message == "'messages' has no assistant message to learn from"
    assert preview.errors[1].message.startswith("not JSON")
    assert preview.samples[1].is_truncated


def test_only_ten_errors_are_listed(model: Path, write: Any) -> None:
    preview = render_preview(Config(model_name_or_path=str(model)), write([talk("a"), *[talk("", weight=1)] * 300]))
    assert (preview.num_errors, len(preview.errors)) == (300, 10)


@pytest.mark.parametrize(
    ("row", "keys", "collator_key", "learned"),
    [
        ({"text": "the cat"}, {}, "lm", "the cat"),
        (
            {"text_parts": ["a:", "b: c"]},
            {"collator_key": "completion", "collator_prefix_end": ": "},
            "completion",
            "c\n",
        ),
    ],
)
def test_other_collators_are_shown_too(
    model: Path, write: Any, row: Any, keys: dict[str, Any], collator_key: str, learned: str
) -> None:
    preview = render_preview(Config(model_name_or_path=str(model), **keys), write([row]))
    assert (preview.dataset_key, preview.collator_key) == ("general", collator_key)
    assert "".join(token.text for token in preview.samples[0].tokens if token.is_target).lstrip() == learned


class EvenCollator(BaseCollator):
    """Learns every other token, pads by hand, and lets one row fail."""

    def parse_batch(self, raw_batch: list[RawSample]) -> Batch:
        (sample,) = raw_batch
        if sample["text_parts"] == ["bad"]:
            raise KeyError("bad row")
        ids = torch.tensor([[*self.tokenizer(sample["text_parts"][0])["input_ids"], 2]])
        labels = torch.where(torch.arange(ids.shape[1]) % 2 == 1, ids, -100)
        mask = torch.ones_like(ids)
        mask[0, -1], labels[0, -1] = 0, -100
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_a_users_collator_is_shown_by_its_own_batch(model: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(collators_registry._values, "even", EvenCollator)
    config = Config(model_name_or_path=str(model), collator_key="even")

    preview = render_preview(config, write([{"text": "the cat reads"}, {"text": "bad"}]))

    (sample,) = preview.samples
    assert [token.is_target for token in sample.tokens] == [index % 2 == 1 for index in range(sample.num_tokens)]
    assert "<pad>" not in sample.text
    assert preview.errors[0].message.startswith("EvenCollator.parse_batch failed: KeyError")


def test_a_bound_of_time_leaves_rows_uncounted_and_says_so(model: Path, write: Any) -> None:
    preview = render_preview(
        Config(model_name_or_path=str(model)), write([{"text": "a"}] * 2000), num_samples=1, max_seconds=0.0
    )
    assert preview.num_rows == 2000
    assert preview.num_rows_counted < 2000
    assert len(preview.samples) == 1


def test_a_huge_sample_is_listed_in_part(model: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_core.preview.MAX_TOKENS_SHOWN", 10)
    preview = render_preview(Config(model_name_or_path=str(model)), write([{"text": "x" * 50}, {"text": "b"}]))
    first, second = preview.samples
    assert (len(first.tokens), first.num_tokens, first.is_shortened) == (10, 51, True)
    assert (len(second.tokens), second.is_shortened) == (0, True)


@pytest.mark.parametrize("num_samples", [-1, 101])
def test_a_number_out_of_bounds_is_named(model: Path, write: Any, num_samples: int) -> None:
    with pytest.raises(StepInputError, match="num_samples must be 0 to 100"):
        render_preview(Config(model_name_or_path=str(model)), write([{"text": "a"}]), num_samples=num_samples)


def test_a_file_that_holds_nothing_to_train_on_is_named(model: Path, write: Any, tmp_path: Path) -> None:
    config = Config(model_name_or_path=str(model))
    with pytest.raises(StepInputError, match="there is no file"):
        render_preview(config, tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has no rows"):
        render_preview(config, write([""]))
    with pytest.raises(DataError, match="the first row has 'prompt'; rows need 'messages'"):
        render_preview(config, write([{"prompt": "a"}]))


@pytest.mark.parametrize("text", ["", "é", "🙂🙂", "a🙂b é ü 漢字\n\tx", "\u200d👩‍👩‍👧"])
def test_pieces_of_tokens_give_the_text(bpe: Any, text: str) -> None:
    ids = bpe(text, add_special_tokens=False)["input_ids"]
    pieces = split_into_pieces(bpe, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_bytes_that_are_no_character_are_shown_as_such(bpe: Any) -> None:
    ids = bpe("🙂 a🙂", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(split_into_pieces(bpe, ids)) == "🙂 a\ufffd"
    assert len(split_into_pieces(bpe, ids)) == len(ids)


@pytest.fixture(scope="module")
def bpe(model: Path) -> Any:
    return build_tokenizer(Config(model_name_or_path=str(model)))


def test_the_page_marks_targets_and_hides_commands_to_the_terminal(model: Path, write: Any) -> None:
    preview = render_preview(Config(model_name_or_path=str(model)), write([talk("Hi \u001b[31mred"), {"messages": []}]))

    page = format_preview(preview, has_colour=False)
    assert "⟦Hi \\x1b[31mred<|im_end|>⟧" in page
    assert "line 2: 'messages' must be a list of at least one message" in page
    assert "\x1b" not in page
    assert "\x1b[30;42mHi \\x1b[31mred<|im_end|>\x1b[0m" in format_preview(preview, has_colour=True)


def test_a_preview_is_json(model: Path, write: Any) -> None:
    preview = render_preview(Config(model_name_or_path=str(model)), write([talk("Hi")]))
    fields = json.loads(json.dumps(asdict(preview)))
    assert set(fields["samples"][0]["tokens"][0]) == {"id", "text", "is_target"}
