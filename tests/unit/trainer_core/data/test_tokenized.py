"""Samples that were tokenised once are what the collator gives for them in training."""

import copy
import json
import multiprocessing
import pickle
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import CHAT_TEMPLATE, build_tiny_tokenizer
from trainer_core.collators import ChatCollator, CompletionCollator, LMCollator
from trainer_core.collators.sample_error import SampleError
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets import BaseDataset, ChatDataset, GeneralDataset, SodaDataset
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.tokenized import find_obstacle, tokenize_rows
from trainer_core.types import RawSample

TOKENIZERS = {with_bos: build_tiny_tokenizer(with_bos=with_bos) for with_bos in (True, False)}
texts = st.text(max_size=30)
general_rows = st.builds(lambda parts: {"text_parts": parts}, st.lists(texts, min_size=1, max_size=4))
soda_rows = st.builds(lambda header, dialog: {"header": header, "dialog": dialog}, texts, st.lists(texts, max_size=4))
chat_rows = st.builds(
    lambda pairs: {"messages": [{"role": role, "content": text} for pair in pairs for role, text in pair]},
    st.lists(
        st.tuples(st.tuples(st.just("user"), texts), st.tuples(st.just("assistant"), texts)), min_size=1, max_size=3
    ),
)
cases = st.one_of(
    st.tuples(st.just(GeneralDataset), st.sampled_from([LMCollator, CompletionCollator]), st.lists(general_rows)),
    st.tuples(st.just(SodaDataset), st.sampled_from([LMCollator, CompletionCollator]), st.lists(soda_rows)),
    st.tuples(st.just(ChatDataset), st.just(ChatCollator), st.lists(chat_rows)),
)


def build_rows(num_rows: int) -> list[RawSample]:
    return [{"text_parts": [f"question {index}", f"answer {index} " * (index % 7 + 1)]} for index in range(num_rows)]


def find_error(collator: TokenCollator, samples: list[RawSample]) -> str | None:
    """Why the first of the samples that cannot be trained on cannot."""
    for sample in samples:
        try:
            collator([sample])
        except SampleError as error:
            return error.reason
    return None


@given(case=cases, max_length=st.integers(1, 60), bos=st.booleans(), side=st.sampled_from(["left", "right"]))
@settings(max_examples=80, deadline=None)
def test_tokenised_once_is_encoded_on_the_fly(
    case: tuple[type[BaseDataset], type[TokenCollator], list[RawSample]], max_length: int, bos: bool, side: str
) -> None:
    dataset_class, collator_class, rows = case
    tokenizer = copy.deepcopy(TOKENIZERS[bos])
    tokenizer.padding_side = side
    collator = collator_class(tokenizer, max_length)
    samples = [dataset_class(rows)[index] for index in range(len(rows))]
    reason = find_error(collator, samples)
    with tempfile.TemporaryDirectory() as folder:
        if reason is not None:
            with pytest.raises(SampleError) as raised:
                tokenize_rows(dataset_class(rows), collator, folder=Path(folder), num_processes=1)
            assert find_error(collator, [samples[raised.value.position]]) == raised.value.reason
            return
        kept = tokenize_rows(dataset_class(rows), collator, folder=Path(folder), num_processes=1)
        read = [kept[index] for index in range(len(kept))]
        encoded = collator.encode(samples)

    assert [list(sample.input_ids) for sample in read] == [sample.input_ids for sample in encoded]
    assert [list(sample.is_target) for sample in read] == [sample.is_target for sample in encoded]
    assert kept.lengths.tolist() == [len(sample.input_ids) for sample in encoded]
    assert kept.num_target_tokens == sum(sample.num_targets for sample in encoded)
    assert kept.num_tokens == kept.lengths.sum()
    if samples:
        batch, expected = collator.pad(read), collator(samples)
        assert batch.keys() == expected.keys()
        for name in expected:
            assert batch[name].dtype == expected[name].dtype == torch.int64
            assert torch.equal(batch[name], expected[name]), name


def test_rows_read_in_loader_processes_are_the_same(tmp_path: Path) -> None:
    collator = LMCollator(TOKENIZERS[True], 32)
    rows = tokenize_rows(GeneralDataset(build_rows(40)), collator, folder=tmp_path, num_processes=1)
    collate = collator.pad
    here = list(DataLoader(rows, batch_size=7, collate_fn=collate))

    # Spawned: the data set goes there as a pickle, which holds no token.
    there = DataLoader(
        rows,
        batch_size=7,
        collate_fn=collate,
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    for batch, expected in zip(there, here, strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert len(pickle.dumps(rows)) < 1000


def test_samples_are_found_from_the_end_and_not_beyond_it(tmp_path: Path) -> None:
    collator = LMCollator(TOKENIZERS[True], 32)
    rows = tokenize_rows(GeneralDataset(build_rows(3)), collator, folder=tmp_path, num_processes=1)

    assert rows[-1].input_ids.tolist() == rows[2].input_ids.tolist()
    assert rows[int(np.argmin(rows.lengths))].num_targets == min(
        sample.num_targets for sample in collator.encode(build_rows(3))
    )
    assert rows[1].num_targets == collator.encode(build_rows(3))[1].num_targets
    for index in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            rows[index]
    with pytest.raises(ValueError, match="read-only"):
        rows[0].input_ids[0] = 1


def test_a_row_without_anything_to_learn_is_told_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(row) for row in build_rows(300)]
    # A blank line is no row, but it is a line.
    lines[200:201] = ["", json.dumps({"text_parts": [""]})]
    path.write_text("\n".join(lines))
    folder = tmp_path / "cache"

    with pytest.raises(SampleError) as raised:
        tokenize_rows(
            GeneralDataset(RowsOnDisk(path)), LMCollator(TOKENIZERS[True], 32), folder=folder, num_processes=1
        )

    assert raised.value.message == f"train.jsonl line 202: {raised.value.reason}"
    assert raised.value.position == 200
    assert raised.value.is_without_target
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.message, again.position) == (raised.value.message, 200)
    assert [path.name for path in folder.iterdir() if not path.name.endswith(".lock")] == []


class RandomDataset(GeneralDataset):
    """Says nothing of its samples."""


class OwnCollate(LMCollator):
    """Has batches of its own."""

    gives_same_tokens: ClassVar[bool] = True

    def parse_batch(self, raw_batch: list[RawSample]) -> dict[str, torch.Tensor]:
        return super().parse_batch(raw_batch)


class Augmenting(LMCollator):
    """Says nothing of its tokens."""


class Unreadable(GeneralDataset):
    """Has an attribute that nothing tells from another."""

    gives_same_samples: ClassVar[bool] = True

    def __init__(self, data: list[RawSample]) -> None:
        super().__init__(data)
        self.pick = lambda row: row


def build_chat(template: str) -> ChatCollator:
    return ChatCollator(build_tiny_tokenizer(chat_template=template), 64)


def build_dropout_collator() -> LMCollator:
    tokenizer = copy.deepcopy(TOKENIZERS[True])
    tokenizer.backend_tokenizer.model.dropout = 0.1
    return LMCollator(tokenizer, 32)


def build_with_keys() -> LMCollator:
    return LMCollator(TOKENIZERS[True], 32, batch_must_have_keys=["input_ids", "weights"])


TODAY = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
PLAIN = GeneralDataset([])


@pytest.mark.parametrize(
    ("dataset", "collator", "obstacle"),
    [
        (PLAIN, LMCollator(TOKENIZERS[True], 32), None),
        (ChatDataset([]), build_chat(CHAT_TEMPLATE), None),
        (ChatDataset([]), build_chat(TODAY), None),
        ([], LMCollator(TOKENIZERS[True], 32), "a list, not a BaseDataset"),
        (RandomDataset([]), LMCollator(TOKENIZERS[True], 32), "RandomDataset does not declare gives_same_samples"),
        (PLAIN, OwnCollate(TOKENIZERS[True], 32), "a way of its own"),
        (PLAIN, Augmenting(TOKENIZERS[True], 32), "Augmenting does not declare gives_same_tokens"),
        (PLAIN, build_with_keys(), "must have 'weights'"),
        (PLAIN, build_dropout_collator(), "dropout"),
        (ChatDataset([]), build_chat("{{ strftime_now('%H:%M') }}" + CHAT_TEMPLATE), "time of day"),
        (ChatDataset([]), build_chat("{% set f = '%S' %}{{ strftime_now(f) }}" + CHAT_TEMPLATE), "time of day"),
        (ChatDataset([]), build_chat("{{ ['a', 'b'] | random }}" + CHAT_TEMPLATE), "draws at random"),
        (Unreadable([]), LMCollator(TOKENIZERS[True], 32), "Unreadable.pick is a function"),
    ],
)
def test_only_what_is_exact_is_tokenised_once(
    dataset: Any, collator: Any, obstacle: str | None, tmp_path: Path
) -> None:
    found = find_obstacle(dataset, collator)

    if obstacle is None:
        assert found is None
        return
    assert found is not None
    assert obstacle in found
    with pytest.raises(ValueError, match="cannot be tokenised once"):
        tokenize_rows(dataset, collator, folder=tmp_path)


def test_an_end_of_text_that_is_also_padding_is_still_learned(
    falcon_like: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    collator = CompletionCollator(falcon_like, 32, separator="</s>")
    rows = [{"text_parts": ["Hi there", "I am Bob"]}, {"text_parts": ["Hi", "Yes"]}]
    kept = tokenize_rows(GeneralDataset(rows), collator, folder=tmp_path, num_processes=1)

    batch = collator.pad([kept[0], kept[1]])

    assert torch.equal(batch["labels"], collator(rows)["labels"])
