"""Sampling that puts samples of like lengths into one batch, so that little is padded."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

MEGA_BATCHES = 50


class LengthGroupedSampler(Sampler[int]):
    """Shuffles, then sorts within runs of 50 optimizer steps: what stands together is alike, and what follows is not.

    The order depends on seed and epoch alone, so that a resumed run goes on in it. As transformers' sampler of the same
    name: fewer steps a run where data are few, and the longest sample first, so that memory runs out at once or never.
    """

    def __init__(self, lengths: ArrayLike, *, step_size: int, seed: int) -> None:
        """`lengths` in tokens; `step_size`: samples of an optimizer step, batch × accumulation × processes.

        Raises ValueError for a step without a sample.
        """
        if step_size < 1:
            raise ValueError("step_size: a step has at least one sample")
        super().__init__()
        self._lengths = np.asarray(lengths)
        self._step_size = step_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass; without a call each pass takes the next one."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        order = group_by_length(
            self._lengths, step_size=self._step_size, generator=np.random.default_rng([self._seed, self._epoch])
        )
        self._epoch += 1
        return iter(order.tolist())


def group_by_length(
    lengths: NDArray[np.integer], *, step_size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """A permutation of the samples, sorted from long to short within each mega-batch."""
    if not len(lengths):
        return np.empty(0, dtype=np.int64)
    num_steps = max(1, min(len(lengths) // (step_size * 4), MEGA_BATCHES))
    shuffled = generator.permutation(len(lengths))
    mega_batches = np.arange(len(lengths)) // (step_size * num_steps)
    order: NDArray[np.int64] = shuffled[np.lexsort((-lengths[shuffled].astype(np.int64), mega_batches))]
    longest = int(np.argmax(lengths[order]))
    order[[0, longest]] = order[[longest, 0]]
    return order
