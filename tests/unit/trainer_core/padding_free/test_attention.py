"""Attention to a row that is one sample is what the way for all rows gives."""

from typing import Any

import pytest
import torch

from tests.unit.trainer_core.padding_free.test_rows import make_sample
from trainer_core.padding_free import attention
from trainer_core.padding_free.attention import BoundaryError, attend, attend_to_one_sample
from trainer_core.padding_free.rows import RowShape, build_row


def make_inputs(length: int, *, num_heads: int = 4, num_key_heads: int = 2) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(1, heads, length, 8) for heads in (num_heads, num_key_heads, num_key_heads)]
    return [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("window", [None, 5, 64])
@pytest.mark.parametrize("num_key_heads", [2, 4])
def test_one_sample_is_attended_to_as_any_other(monkeypatch: Any, window: int | None, num_key_heads: int) -> None:
    inputs = make_inputs(30, num_key_heads=num_key_heads)
    options = {
        "scaling": 0.3,
        "sliding_window": window,
        "cu_seq_lens_q": torch.tensor([0, 26, 30], dtype=torch.int32),
        "max_length_q": 26,
    }
    expected, _ = attend(torch.nn.Identity(), *inputs, None, **options)
    weights = torch.rand_like(expected)
    weights[:, 26:] = 0
    if window is None or window >= 30:
        # A CPU takes the way of a GPU, whose kernels are torch's own here too.
        monkeypatch.setattr(attention, "_has_kernel", lambda query: True)
    found, _ = attend_to_one_sample(torch.nn.Identity(), *inputs, None, **options)

    torch.testing.assert_close(found[:, :26], expected[:, :26])
    gradients = (torch.autograd.grad((result * weights).sum(), inputs) for result in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_what_one_sample_cannot_be_given_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(attention, "_has_kernel", lambda query: True)
    inputs = make_inputs(8)
    for options in ({"softcap": 30.0}, {"is_causal": False}, {"dropout": 0.1}):
        with pytest.raises(BoundaryError):
            attend_to_one_sample(torch.nn.Identity(), *inputs, None, **options)


@pytest.mark.parametrize(
    ("lengths", "multiple", "is_one"),
    [([5000], 1, True), ([4000], 1, False), ([5000], 8192, False), ([7900], 8192, True), ([5000, 10], 1, False)],
    ids=["long", "short", "half filled up", "nearly full", "two"],
)
def test_which_rows_are_one_long_sample(lengths: list[int], multiple: int, is_one: bool) -> None:
    shape = RowShape(capacity=8192, longest=8192, multiple=multiple)
    row = build_row([make_sample(length, first=1) for length in lengths], shape=shape, fill_token_id=0)
    assert row.is_one_long_sample is is_one
