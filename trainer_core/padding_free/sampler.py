"""Rows of a token budget in place of a count of samples: which samples share a row, and the order of rows."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from trainer_core.padding_free.best_fit import pack_best_fit

_OPEN_ROWS = 16
_SPARE_ROWS = 200
"""One row in so many is there to spare, so that passes come out at the same number of rows."""


class TokenBudgetSampler(Sampler[list[int]]):
    """Yields the indices of one row after another.

    Samples come in a shuffled order, each into the fullest of a few open rows that has room for it: a row holds long
    and short ones as they come. Each pass has as many rows, because that number follows from the lengths alone; all
    else follows from seed and pass, so that a training that is resumed finds its place again.
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
        fewest = len(pack_best_fit(lengths, capacity=capacity))
        self._num_rows = min(fewest + max(1, fewest // _SPARE_ROWS), len(lengths))

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each sample."""
        return self._lengths

    def __len__(self) -> int:
        return -(-self._num_rows // self._num_ranks)

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rows = self._plan()
        for number in range(self._rank, len(self) * self._num_ranks, self._num_ranks):
            yield rows[number % len(rows)]

    def _plan(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        rows = self._lay(torch.randperm(len(self._lengths), generator=generator).tolist())
        num_laid_anew = 16
        while len(rows) > self._num_rows:
            # Of the emptiest rows fewer are made; of all of them, the fewest that there can be.
            rows.sort(key=self._count_tokens)
            emptiest = [index for row in rows[:num_laid_anew] for index in row]
            groups = pack_best_fit([self._lengths[index] for index in emptiest], capacity=self._capacity)
            rows = rows[num_laid_anew:] + [[emptiest[place] for place in group] for group in groups]
            num_laid_anew *= 2
        _split_until(rows, count=self._num_rows)
        return [rows[row] for row in torch.randperm(len(rows), generator=generator).tolist()]

    def _lay(self, order: Sequence[int]) -> list[list[int]]:
        rows: list[list[int]] = []
        open_rows: list[tuple[int, int]] = []
        for index in order:
            length = self._lengths[index]
            place = bisect_left(open_rows, (length, -1))
            if place < len(open_rows):
                room, row = open_rows.pop(place)
            else:
                room, row = max(self._capacity, length), len(rows)
                rows.append([])
                # The fullest is closed.
                del open_rows[: max(0, len(open_rows) + 1 - _OPEN_ROWS)]
            rows[row].append(index)
            if room > length:
                insort(open_rows, (room - length, row))
        return rows

    def _count_tokens(self, row: Sequence[int]) -> int:
        return sum(self._lengths[index] for index in row)


def _split_until(rows: list[list[int]], *, count: int) -> None:
    """Halves the rows of the most samples, in place, until there are so many."""
    while len(rows) < count:
        row = max(rows, key=len)
        rows.remove(row)
        rows += [row[::2], row[1::2]]
