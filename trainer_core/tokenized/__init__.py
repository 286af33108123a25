"""Samples that were tokenised once, kept in files and mapped into memory: what training reads instead of texts.

`find_obstacle` says whether that is exact, `tokenize_rows` does it; the collator of the tokens makes batches of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer_core.tokenized.cache_folder import MAX_CACHE_BYTES, find_token_cache, prune_token_cache
    from trainer_core.tokenized.epoch_callback import SamplerEpochCallback
    from trainer_core.tokenized.length_groups import LengthGroupedSampler
    from trainer_core.tokenized.obstacles import find_obstacle
    from trainer_core.tokenized.rows import TokenizedRows
    from trainer_core.tokenized.sample import TokenizedSample
    from trainer_core.tokenized.tokenizing import tokenize_rows

__all__ = [
    "MAX_CACHE_BYTES",
    "LengthGroupedSampler",
    "SamplerEpochCallback",
    "TokenizedRows",
    "TokenizedSample",
    "find_obstacle",
    "find_token_cache",
    "prune_token_cache",
    "tokenize_rows",
]

_MODULES = {
    "MAX_CACHE_BYTES": "cache_folder",
    "LengthGroupedSampler": "length_groups",
    "SamplerEpochCallback": "epoch_callback",
    "TokenizedRows": "rows",
    "TokenizedSample": "sample",
    "find_obstacle": "obstacles",
    "find_token_cache": "cache_folder",
    "prune_token_cache": "cache_folder",
    "tokenize_rows": "tokenizing",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that a process that tokenises does not import what only a training needs: 5 of 7 s.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
