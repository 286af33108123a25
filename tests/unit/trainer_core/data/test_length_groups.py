"""Sampling by length: little padding, every sample once a pass, the same order after a resume."""

import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState, TrainingArguments

from trainer_core.tokenized import LengthGroupedSampler, SamplerEpochCallback

BATCH = 8
ARGUMENTS = TrainingArguments(report_to="none")
LENGTHS = np.clip(np.random.default_rng(7).lognormal(5.5, 0.9, 20_000), 8, 4096).astype(np.int32)
"""As those of conversations: most are short, some ten times as long."""


def measure_padding(order: list[int]) -> float:
    """The share of a pass that is padding, in batches of 8."""
    batches = LENGTHS[order[: len(order) // BATCH * BATCH]].reshape(-1, BATCH)
    return float(1 - batches.sum() / (batches.max(axis=1) * BATCH).sum())


def test_padding_nearly_vanishes() -> None:
    shuffled = np.random.default_rng(1).permutation(len(LENGTHS)).tolist()
    grouped = list(LengthGroupedSampler(LENGTHS, step_size=4 * BATCH, seed=1))

    assert measure_padding(shuffled) > 0.5
    assert measure_padding(grouped) < 0.05


@pytest.mark.parametrize("num_samples", [0, 1, 31, 32, 33, 1000, 20_000])
def test_each_pass_takes_every_sample_once(num_samples: int) -> None:
    sampler = LengthGroupedSampler(LENGTHS[:num_samples], step_size=32, seed=1)

    assert len(sampler) == num_samples
    assert sorted(sampler) == list(range(num_samples))


def test_the_longest_comes_first_and_batches_do_not_come_sorted_over_all() -> None:
    order = list(LengthGroupedSampler(LENGTHS, step_size=32, seed=1))

    assert LENGTHS[order[0]] == LENGTHS.max()
    lengths = LENGTHS[order]
    mega = 32 * 50
    assert all((np.diff(lengths[start + 1 : start + mega]) <= 0).all() for start in range(0, len(lengths), mega))
    means = [lengths[start : start + mega].mean() for start in range(0, len(lengths) // mega * mega, mega)]
    assert max(means) < 1.5 * min(means)


def test_the_order_depends_on_seed_and_pass_alone() -> None:
    straight = LengthGroupedSampler(LENGTHS, step_size=32, seed=1)
    passes = [list(straight) for _ in range(3)]
    resumed = LengthGroupedSampler(LENGTHS, step_size=32, seed=1)
    resumed.set_epoch(2)

    assert list(resumed) == passes[2]
    assert passes[0] != passes[1]
    assert list(LengthGroupedSampler(LENGTHS, step_size=32, seed=2)) != passes[0]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_run_resumed_within_a_pass_goes_on_where_it_was(num_processes: int) -> None:
    def load(process: int, *, num_skipped: int) -> list[list[int]]:
        sampler = LengthGroupedSampler(LENGTHS[:1000], step_size=32, seed=1)
        loader = DataLoader(
            range(1000),  # type: ignore[arg-type]
            batch_size=BATCH,
            sampler=sampler,
            collate_fn=list,
        )
        prepared = prepare_data_loader(
            loader, num_processes=num_processes, process_index=process, put_on_device=False, even_batches=True
        )
        if num_skipped:
            prepared = skip_first_batches(prepared, num_skipped)
        # What transformers' Trainer does at the start of each pass.
        state = TrainerState(epoch=3 + num_skipped / 63)
        SamplerEpochCallback(sampler).on_epoch_begin(ARGUMENTS, state, TrainerControl())
        prepared.set_epoch(3)
        return list(prepared)

    for process in range(num_processes):
        assert load(process, num_skipped=5) == load(process, num_skipped=0)[5:]
    taken = [index for process in range(num_processes) for batch in load(process, num_skipped=0) for index in batch]
    assert set(taken) == set(range(1000))


def test_a_step_without_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="step_size"):
        LengthGroupedSampler(LENGTHS, step_size=0, seed=1)
