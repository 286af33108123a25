"""Whether there are enough calibration samples to tell anything about a layer's inputs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer_core.errors import StepInputError

if TYPE_CHECKING:
    from trainer_core.types import Batch

LEAST_TOKENS_PER_COLUMN = 1 / 16
"""Fewer leave a layer's statistics to dampening, so that the result is a guess."""
GOOD_TOKENS_PER_COLUMN = 1
"""Fewer leave the statistics of a layer without full rank."""


def check_calibration_size(batches: "Sequence[Batch]", *, num_columns: int) -> str | None:
    """A warning for samples that say little about a layer of `num_columns` inputs; None when there are enough.

    Raises StepInputError, naming the options, for samples that say next to nothing.
    """
    num_tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    if num_tokens >= GOOD_TOKENS_PER_COLUMN * num_columns:
        return None
    message = (
        f"the {len(batches)} calibration samples hold {num_tokens} tokens, and the widest layer has {num_columns} "
        "inputs: raise quantization_max_samples or max_length, or give more rows in quantization_dataset_id"
    )
    if num_tokens < LEAST_TOKENS_PER_COLUMN * num_columns:
        message = f"{message}; quantizer_key='fp8' and 'bnb' need no calibration"
        raise StepInputError(message, param="quantization_max_samples")
    return message
