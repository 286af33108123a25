"""The two shapes of data that datasets and collators exchange."""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

RawSample: TypeAlias = dict[str, Any]
"""One row as stored: keys are strings; values str, int, float, a list of str, or what a dataset of yours stores."""

Batch: TypeAlias = "dict[str, Tensor]"
"""What a collator hands to the model: `input_ids`, `attention_mask` and `labels`, each of shape (batch, length)."""

JsonValue: TypeAlias = Any
"""Anything that JSON can hold."""

JsonScalar: TypeAlias = bool | int | float | str | None
"""One value of JSON that holds no others."""
