"""A lean adapter gives what peft's own layer gives: results and all gradients."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from trainer_core.kernels import lora_linear
from trainer_core.kernels.lora_linear import find_lora_layers, make_lean


class TwoProducts(nn.Module):
    def __init__(self, *, has_bias: bool) -> None:
        super().__init__()
        self.config = {"model_type": "custom"}
        self.up, self.down = nn.Linear(12, 20, bias=has_bias), nn.Linear(20, 12, bias=has_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(nn.functional.silu(self.up(x)))
        return result


def build_model(*, dropout: float, has_bias: bool, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    settings = LoraConfig(r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["up", "down"])
    model = get_peft_model(TwoProducts(has_bias=has_bias), settings)  # type: ignore[arg-type]
    for name, weight in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight)
        else:
            weight.data = weight.data.to(dtype)
    return model


def run(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    result = model(x)
    (result.float() * torch.linspace(-1, 1, result.numel()).view(result.shape)).sum().backward()
    return [result, x.grad, *(weight.grad for weight in model.parameters() if weight.requires_grad)]  # type: ignore[list-item]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dropout", "has_bias"), [(0.0, False), (0.0, True), (0.3, False)])
@pytest.mark.parametrize("shape", [(1, 9, 12), (2, 5, 12), (9, 12), (0, 12)])
def test_results_and_gradients_are_peft_s(
    monkeypatch: Any, dtype: torch.dtype, dropout: float, has_bias: bool, shape: tuple[int, ...]
) -> None:
    runs = []
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    taken: list[bool] = []
    choose = lora_linear._is_frozen_product
    monkeypatch.setattr(lora_linear, "_is_frozen_product", lambda *a: taken.append(choose(*a)) or taken[-1])
    for is_lean in (False, True):
        model = build_model(dropout=dropout, has_bias=has_bias, dtype=dtype)
        if is_lean:
            assert make_lean(model) == 2
        runs.append(run(model, x))
    assert taken == [dropout == 0.0] * 2
    tolerance = 1e-6 if dtype is torch.float32 else 0.02
    for found, expected in zip(runs[1], runs[0], strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).norm() <= tolerance * expected.norm()


def test_what_autograd_must_do_itself_is_left_to_it() -> None:
    model = build_model(dropout=0.0, has_bias=False, dtype=torch.float32)
    layer = find_lora_layers(model)[0]
    x = torch.ones(2, 12)
    assert lora_linear._is_frozen_product(layer.base_layer, x, layer.lora_dropout["default"])
    assert not lora_linear._is_frozen_product(layer.base_layer, x.bfloat16(), layer.lora_dropout["default"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not lora_linear._is_frozen_product(layer.base_layer, x, layer.lora_dropout["default"])
    layer.base_layer.weight.requires_grad_()
    assert not lora_linear._is_frozen_product(layer.base_layer, x, layer.lora_dropout["default"])
