"""Attention over rows: each sample to itself alone, by boundaries in place of a mask."""

import inspect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.nn.attention import varlen
from transformers import AttentionInterface, PreTrainedModel

NAME = "padding_free"
"""What transformers knows this attention by."""
NAME_OF_ONE = "padding_free_one_sample"
"""And that of a row that is one sample."""

_UNKNOWN_ARGUMENTS = ("softcap", "s_aux", "position_bias", "sinks")
"""Arguments of other models' attention that change its result, and that the kernels here do not take."""
_attend_by_kernel: Any = varlen.varlen_attn
_KERNEL_PARAMETERS = frozenset(inspect.signature(_attend_by_kernel).parameters)
_KERNEL_CAPABILITY = (8, 0)


_recorded: ContextVar[list[int | None] | None] = ContextVar("recorded_windows", default=None)


class BoundaryError(ValueError):
    """A model asked this attention for what it cannot do exactly: raised in its first forward pass."""


class RowAttention:
    """Switches a model to attention over rows and back: at any other time it takes padded batches as before."""

    def __init__(self, model: nn.Module) -> None:
        """Raises BoundaryError for a model whose attention cannot be chosen."""
        parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
        if not parts or not all(part._can_set_attn_implementation() for part in parts):
            raise BoundaryError("the model's attention is its own, not one of transformers' functions")
        # No function that builds masks goes with the name: for such a one transformers builds none.
        AttentionInterface.register(NAME, attend)
        AttentionInterface.register(NAME_OF_ONE, attend_to_one_sample)
        self._settings: list[Any] = list({id(part.config): part.config for part in parts}.values())

    @contextmanager
    def active(self, *, has_one_sample: bool = False) -> Iterator[None]:
        """Within, the model takes rows; with checkpoints of activations its backward pass belongs within as well.

        `has_one_sample`: each row is one sample, which may be filled up behind.
        """
        previous = [settings._attn_implementation for settings in self._settings]
        try:
            for settings in self._settings:
                settings._attn_implementation_internal = NAME_OF_ONE if has_one_sample else NAME
            yield
        finally:
            for settings, name in zip(self._settings, previous, strict=True):
                settings._attn_implementation_internal = name


@contextmanager
def record_windows() -> Iterator[list[int | None]]:
    """Collects the `sliding_window` of each call within."""
    windows: list[int | None] = []
    token = _recorded.set(windows)
    try:
        yield windows
    finally:
        _recorded.reset(token)


def attend(  # noqa: PLR0913 - transformers' signature
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample of one row.

    Shapes: H heads, G key-value heads, T tokens, D numbers a head; `query` (1, H, T, D), `key` and `value`
    (1, G, T, D), the result (1, T, H, D). `sliding_window` counts the tokens that one attends to, itself included.
    Raises BoundaryError without boundaries, and for what would change the result and is not done here.
    """
    _check(attention_mask, batch_size=query.shape[0], dropout=dropout, is_causal=is_causal, kwargs=kwargs)
    if cu_seq_lens_q is None or max_length_q is None:
        raise BoundaryError("the model does not hand the samples' boundaries on to its attention")
    query_THD, key_TGD, value_TGD = (each.transpose(1, 2).squeeze(0) for each in (query, key, value))
    if not torch.compiler.is_compiling() and (recorded := _recorded.get()) is not None:
        recorded.append(sliding_window)
    # Where the window is at least as long as every sample, it is none.
    window = None if sliding_window is None or sliding_window >= max_length_q else sliding_window
    if _has_kernel(query):
        # torch 2.11 takes fewer key-value heads without being told.
        options = {"enable_gqa": query.shape[1] != key.shape[1]} if "enable_gqa" in _KERNEL_PARAMETERS else {}
        result_THD = _attend_by_kernel(
            *(query_THD, key_TGD, value_TGD, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q),
            # The kernel counts the tokens before the own one.
            window_size=(-1 if window is None else window - 1, 0),
            scale=scaling,
            **options,
        )
    else:
        result_THD = attend_by_sample(
            query_THD, key_TGD, value_TGD, cu_seq_lens_q.tolist(), scale=scaling, window=window
        )
    return result_THD.unsqueeze(0), None


def attend_to_one_sample(  # noqa: PLR0913 - transformers' signature
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What `attend` does, of a row that is one sample: by torch's own choice of a kernel, of which some are faster
    than the one that knows boundaries. What the row is filled up with attends to the sample, and nothing to it."""
    has_window = sliding_window is not None and sliding_window < query.shape[2]
    if has_window or not _has_kernel(query):
        return attend(module, query, key, value, attention_mask, scaling, dropout, sliding_window, **kwargs)
    is_causal = kwargs.get("is_causal")
    _check(attention_mask, batch_size=query.shape[0], dropout=dropout, is_causal=is_causal, kwargs=kwargs)
    result = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return result.transpose(1, 2), None


def attend_by_sample(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    boundaries: list[int],
    *,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """The plain way, exact on any device: one call of torch's attention a sample. Shape (T, H, D)."""
    has_fewer_key_heads = key_TGD.shape[1] != query_THD.shape[1]
    lengths = [end - start for start, end in itertools.pairwise(boundaries) if end > start]
    # Splitting, and not slicing: the gradient of each slice would be as large as the row.
    parts = (torch.split(each.transpose(0, 1), lengths, dim=1) for each in (query_THD, key_TGD, value_TGD))
    results = []
    for length, query_HLD, key_GLD, value_GLD in zip(lengths, *parts, strict=True):
        mask_LL = None if window is None or window >= length else _build_window(length, window, query_THD)
        result_1HLD = nn.functional.scaled_dot_product_attention(
            query_HLD[None],
            key_GLD[None],
            value_GLD[None],
            attn_mask=mask_LL,
            is_causal=mask_LL is None,
            scale=scale,
            enable_gqa=has_fewer_key_heads,
        )
        results.append(result_1HLD[0].transpose(0, 1))
    return torch.cat(results)


def _has_kernel(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype != torch.float32 and _is_new_enough(query.device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_new_enough(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= _KERNEL_CAPABILITY


def _build_window(length: int, window: int, like: torch.Tensor) -> torch.Tensor:
    places = torch.arange(length, device=like.device)
    distance_LL = places[:, None] - places[None, :]
    return (distance_LL >= 0) & (distance_LL < window)


def _check(
    attention_mask: torch.Tensor | None,
    *,
    batch_size: int,
    dropout: float,
    is_causal: bool | None,
    kwargs: dict[str, Any],
) -> None:
    if attention_mask is not None:
        raise BoundaryError("the model brings an attention mask of its own")
    if batch_size != 1:
        raise BoundaryError(f"the samples lie in one row, not in {batch_size}")
    if dropout:
        raise BoundaryError("the model drops attention weights at random")
    if is_causal is False:
        raise BoundaryError("the model attends to what follows, too")
    if unknown := [name for name in _UNKNOWN_ARGUMENTS if kwargs.get(name) is not None]:
        raise BoundaryError(f"the model's attention takes {', '.join(unknown)}")
