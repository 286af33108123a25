"""Which samples share a row, and what a row holds."""

import random
from dataclasses import dataclass

import pytest
import torch

from trainer_core.padding_free.best_fit import pack_best_fit
from trainer_core.padding_free.rows import Row, RowShape, build_row, split_row
from trainer_core.padding_free.sampler import TokenBudgetSampler


@dataclass(frozen=True)
class Sample:
    input_ids: list[int]
    is_target: list[bool]


def make_sample(length: int, *, first: int, num_context: int = 1) -> Sample:
    return Sample(list(range(first, first + length)), [place >= num_context for place in range(length)])


@pytest.mark.parametrize(
    ("lengths", "capacity", "rows"),
    [
        ([3, 5, 2], 10, [[1, 0, 2]]),
        ([6, 5, 4, 5], 10, [[0, 2], [1, 3]]),
        ([4, 12, 4], 10, [[1], [0, 2]]),
        ([10], 10, [[0]]),
        ([], 10, []),
    ],
    ids=["all fit", "the fullest row that has room", "longer than a row", "exactly full", "nothing"],
)
def test_samples_share_rows_by_best_fit(lengths: list[int], capacity: int, rows: list[list[int]]) -> None:
    assert pack_best_fit(lengths, capacity=capacity) == rows


def test_every_sample_has_one_row_and_no_row_is_too_long() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(1, 400) for _ in range(2_000)]
    rows = pack_best_fit(lengths, capacity=1_024)
    assert sorted(index for row in rows for index in row) == list(range(2_000))
    assert all(sum(lengths[index] for index in row) <= 1_024 for row in rows)
    assert sum(lengths) / (1_024 * len(rows)) > 0.98


def test_the_number_of_rows_does_not_depend_on_the_order() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(1, 60) for _ in range(300)]
    counts = set()
    for _ in range(5):
        rng.shuffle(lengths)
        counts.add(len(pack_best_fit(lengths, capacity=100)))
    assert len(counts) == 1


def test_a_row_has_positions_and_boundaries_of_its_samples() -> None:
    row = build_row(
        [make_sample(3, first=10), make_sample(4, first=20, num_context=2)],
        shape=RowShape(capacity=16, longest=8),
        fill_token_id=0,
    )
    assert row.inputs["input_ids"].tolist() == [[10, 11, 12, 20, 21, 22, 23]]
    assert row.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert row.inputs["labels"].tolist() == [[-100, 11, 12, -100, -100, 22, 23]]
    assert row.inputs["cu_seq_lens_q"].unique().tolist() == [0, 3, 7]
    assert row.inputs["max_length_q"] == 8
    assert (row.target_index_K.tolist(), row.target_ids_K.tolist()) == ([0, 1, 4, 5], [11, 12, 22, 23])
    assert (row.num_tokens, row.num_samples, row.num_targets) == (7, 2, 4)


def test_what_fills_a_row_up_is_ignored_samples_that_are_not_too_long() -> None:
    row = build_row([make_sample(5, first=10)], shape=RowShape(capacity=16, longest=4, multiple=16), fill_token_id=9)
    assert row.inputs["input_ids"].tolist() == [[10, 11, 12, 13, 14] + [9] * 11]
    assert row.inputs["labels"][0, 5:].tolist() == [-100] * 11
    assert row.inputs["cu_seq_lens_q"].unique().tolist() == [0, 5, 9, 13, 16]
    assert row.num_tokens == 5


def test_the_list_of_boundaries_has_few_different_lengths() -> None:
    shape = RowShape(capacity=1_000, longest=4)
    sizes = {
        build_row([make_sample(2, first=1)] * count, shape=shape, fill_token_id=0).inputs["cu_seq_lens_q"].shape[0]
        for count in range(1, 400)
    }
    assert sizes == {128, 256, 512}


def test_a_split_row_is_two_rows_of_whole_samples() -> None:
    samples = [make_sample(4, first=10), make_sample(3, first=20), make_sample(5, first=30)]
    row = build_row(samples, shape=RowShape(capacity=16, longest=8, multiple=16), fill_token_id=0)
    halves = split_row(row)
    assert halves is not None
    expected = [
        build_row(part, shape=RowShape(capacity=16, longest=8), fill_token_id=0) for part in (samples[:2], samples[2:])
    ]
    for found, wanted in zip(halves, expected, strict=True):
        assert_same(found, wanted)


def assert_same(found: Row, wanted: Row) -> None:
    for name, value in wanted.inputs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found.inputs[name], value), name
        else:
            assert found.inputs[name] == value
    assert torch.equal(found.target_index_K, wanted.target_index_K)
    assert torch.equal(found.target_ids_K, wanted.target_ids_K)
    assert (found.num_tokens, found.num_samples) == (wanted.num_tokens, wanted.num_samples)


def test_one_sample_is_not_split() -> None:
    row = build_row([make_sample(4, first=10)], shape=RowShape(capacity=16, longest=8, multiple=8), fill_token_id=0)
    assert split_row(row) is None


def test_each_pass_has_other_rows_and_the_same_number_of_them() -> None:
    rng = random.Random(2)
    lengths = [rng.randint(1, 12) for _ in range(200)]
    sampler = TokenBudgetSampler(lengths, capacity=32, seed=7)
    passes = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        passes.append(list(sampler))
    assert passes[0] == passes[2] != passes[1]
    assert {len(rows) for rows in passes} == {len(sampler)}
    assert all(sorted(index for row in rows for index in row) == list(range(200)) for rows in passes)


def test_rows_are_full_and_hold_long_and_short_samples() -> None:
    rng = random.Random(3)
    lengths = [min(2_048, max(32, int(rng.lognormvariate(5.4, 0.8)))) for _ in range(5_000)]
    sampler = TokenBudgetSampler(lengths, capacity=16_384, seed=0)
    rows = list(sampler)
    assert sum(lengths) / (16_384 * len(sampler)) > 0.98
    counts = sorted(len(row) for row in rows)
    assert counts[len(counts) // 20] > 25
    assert counts[-len(counts) // 20] < 110


def test_ranks_share_all_rows_and_have_as_many_as_each_other() -> None:
    lengths = [5] * 21
    ranks = [TokenBudgetSampler(lengths, capacity=15, seed=0, rank=rank, num_ranks=2) for rank in (0, 1)]
    taken = [list(rank) for rank in ranks]
    assert [len(rows) for rows in taken] == [len(ranks[0])] * 2
    assert {index for rows in taken for row in rows for index in row} == set(range(21))
