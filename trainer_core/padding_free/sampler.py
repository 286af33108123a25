"""Rows of a token budget in place of a count of samples: which samples share a row, and the order of rows."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from trainer_core.padding_free.best_fit import pack_best_fit


class TokenBudgetSampler(Sampler[list[int]]):
    """Yields the indices of one row after another.

    Every epoch has the same number of rows, because that follows from the lengths alone; which samples of one length
    share a row with which, and the order of the rows, are drawn anew by seed and epoch. So a training that is resumed
    finds its place again.
    """

    def __init__(self, lengths: Sequence[int], *, capacity: int, seed: int, rank: int = 0, num_ranks: int = 1) -> None:
        """`lengths` in tokens, `capacity` in tokens a row. Each rank gets as many rows as the others: where they do
        not come out even, the first ones are taken again."""
        self._lengths = lengths
        self._capacity = capacity
        self._seed = seed
        self._epoch = 0
        self._rank = rank
        self._num_ranks = num_ranks
        self._num_rows = -(-len(pack_best_fit(lengths, capacity=capacity)) // num_ranks)

    def __len__(self) -> int:
        return self._num_rows

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        rows = pack_best_fit([self._lengths[index] for index in order], capacity=self._capacity)
        turns = torch.randperm(len(rows), generator=generator).tolist()
        for number in range(self._rank, self._num_rows * self._num_ranks, self._num_ranks):
            yield [order[index] for index in rows[turns[number % len(turns)]]]
