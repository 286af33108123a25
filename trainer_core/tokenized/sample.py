"""One sample as tokens in arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedSample:
    """Tokens of one sample, cut to `max_length` and not padded; both arrays have one entry a token, and are read-only.

    They are what the collator's `encode` gives for the sample.
    """

    input_ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]
    """Whether the token is learned, given all tokens before it."""

    @property
    def num_targets(self) -> int:
        """How many tokens are learned."""
        return int(np.count_nonzero(self.is_target))
