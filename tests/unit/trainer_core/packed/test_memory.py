"""What packed layers keep in memory while they are trained over."""

import gc
import weakref
from typing import Any

import pytest
import torch

from tests.support.packed_models import Rounding, round_weight
from trainer_core.models.packed.linear import PackedLinear
from trainer_core.models.packed.packed_weight import PackedWeight

WIDTH = 256
NUM_LAYERS = 4
NUM_ROWS = 3


def build_layers(*, device: str = "cpu", width: int = WIDTH, num_layers: int = NUM_LAYERS) -> torch.nn.Sequential:
    random = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(num_layers):
        weight = round_weight(torch.randn(width, width, generator=random), Rounding(4, 128))
        layer = PackedLinear(width, width, bias=None)
        layer.adopt(weight)
        layers.append(layer.to(device))
    return torch.nn.Sequential(*layers)


def test_the_backward_pass_keeps_no_weight_and_makes_one_at_a_time(monkeypatch) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    most_alive = 0
    dequantize = PackedWeight.dequantize

    # Counts what the real method returns.
    def count(weight: PackedWeight, dtype: torch.dtype | None = None) -> torch.Tensor:
        nonlocal most_alive
        result = dequantize(weight, dtype)
        made.append(weakref.ref(result))
        most_alive = max(most_alive, sum(reference() is not None for reference in made))
        return result

    monkeypatch.setattr(PackedWeight, "dequantize", count)
    saved_bytes = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved_bytes
        saved_bytes += tensor.nbytes
        return tensor

    layers = build_layers()
    inputs = torch.randn(NUM_ROWS, WIDTH, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = layers(inputs).square().sum()
    gc.collect()
    assert [reference() for reference in made] == [None] * NUM_LAYERS
    # What squaring keeps: nothing of the layers.
    assert saved_bytes <= NUM_ROWS * WIDTH * 4
    loss.backward()
    gc.collect()
    assert len(made) == 2 * NUM_LAYERS
    assert most_alive == 1
    assert all(reference() is None for reference in made)


def test_gradients_are_those_of_the_dequantized_weight() -> None:
    layers = build_layers(num_layers=2)
    inputs = torch.randn(NUM_ROWS, WIDTH, requires_grad=True)
    copy = inputs.detach().clone().requires_grad_()
    layers(inputs).square().sum().backward()
    first, second = (layer.packed_weight.dequantize() for layer in layers if isinstance(layer, PackedLinear))
    (copy @ first.t() @ second.t()).square().sum().backward()
    torch.testing.assert_close(inputs.grad, copy.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_have_the_inputs_number_format_or_autocasts(dtype) -> None:
    layer: Any = build_layers(num_layers=1)[0]
    inputs = torch.randn(NUM_ROWS, WIDTH, dtype=dtype, requires_grad=True)
    assert layer(inputs).dtype is dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(inputs)
    assert output.dtype is torch.bfloat16
    output.sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.dtype is dtype


def test_a_cast_of_the_whole_model_leaves_the_weights_as_they_are() -> None:
    layer: Any = build_layers(num_layers=1)[0]
    weight = layer.weight
    layer.bfloat16()
    assert layer.packed_scales.dtype is torch.float32
    assert not layer.packed_scales.requires_grad
    assert torch.equal(layer.weight, weight)


@pytest.mark.gpu
def test_on_a_gpu_a_step_needs_packed_bytes_and_one_weight() -> None:
    width, num_layers = 4096, 24
    layers = build_layers(device="cuda", width=width, num_layers=num_layers)
    packed_bytes = sum(parameter.nbytes for parameter in layers.parameters())
    inputs = torch.randn(16, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    layers(inputs).square().sum().backward()
    one_weight, activations = width * width * 2, (num_layers + 8) * inputs.nbytes
    # One layer's integers and their products with the scales, before they are rounded to 16 bits.
    scratch = 4 * width * width * 4
    assert torch.cuda.max_memory_allocated() <= packed_bytes + one_weight + activations + scratch
    assert num_layers * one_weight > packed_bytes + one_weight + activations + scratch
