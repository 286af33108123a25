"""On a GPU each faster way to train gives what the plain way gives, within the noise of 16 bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_models import build_tiny_llama
from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, make_dataset
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.padding_free.attention import attend, attend_by_sample, attend_to_one_sample
from trainer_core.steps.train import train

# Dynamo looks at what it compiles in ways of which torch warns its users.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
PLAIN = {
    **{"packing": "off", "fused_loss": "off", "lean_lora": "off", "torch_compile": "off", "use_liger_kernel": "off"},
    "autocast": "on",
}
ROWS = {"packing": "auto", "tokens_per_batch": 256}
FULL = {"apply_lora": False, "learning_rate": 1e-4}
BOUNDARIES = [0, 5, 133, 134, 512]


@pytest.fixture(scope="module")
def gpu_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 64 numbers, and widths that 8-bit products take."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512}
    return build_tiny_llama(tmp_path_factory.mktemp("gpu-llama"), num_hidden_layers=3, **sizes)


@pytest.mark.parametrize(
    ("options", "told", "tolerance"),
    [
        ({}, {"packing": "on", "fused_loss": "on", "lean_lora": "on"}, 0.02),
        (FULL, {"packing": "on", "fused_loss": "on"}, 0.02),
        ({"torch_compile": "on"}, {"torch_compile": "on"}, 0.02),
        ({"torch_compile": "on", **FULL}, {"torch_compile": "on"}, 0.02),
        ({"use_liger_kernel": "on"}, {"use_liger_kernel": "on"}, 0.02),
        ({"use_liger_kernel": "on", **FULL}, {"use_liger_kernel": "on"}, 0.02),
        ({"fp8_base": True}, {"fp8_base": "on"}, 0.1),
        ({"activation_memory_budget_gib": 0.001}, {}, 0.02),
        ({"use_gradient_checkpointing": True, "offload_activations": True}, {}, 0.02),
    ],
    ids=["rows", "full", "compiled", "compiled full", "Liger", "Liger full", "8 bits", "budget", "host memory"],
)
def test_the_losses_are_the_plain_ones(
    make_config: Callable[..., Config],
    gpu_llama: Path,
    tmp_path: Path,
    context: StepContext,
    events: RecordedEvents,
    options: dict[str, Any],
    told: dict[str, str],
    tolerance: float,
) -> None:
    shared = {
        **{"model_name_or_path": str(gpu_llama), "max_steps": 8, "apply_lora": True, "lora_dropout": 0.0},
        **{"learning_rate": 2e-3, "per_device_train_batch_size": 8},
    }
    kind = {name: value for name, value in options.items() if name in FULL}
    data = make_dataset(64)
    plain = train(make_config(**shared | kind | PLAIN | {"output_dir": str(tmp_path / "plain")}), data)
    fast = train(make_config(**shared | options), data, context=context)
    assert len(get_losses(plain)) == 8
    assert get_losses(plain)[-1] < get_losses(plain)[0]
    assert get_losses(fast) == pytest.approx(get_losses(plain), abs=tolerance)
    decisions = {key: value for data in events.of_type("decision") for key, value in data.items()}
    assert {key: decisions.get(key) for key in told} == told


def test_tiles_give_the_losses_of_whole_mlps(
    make_config: Callable[..., Config], gpu_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_core.kernels.tiled_mlp.TILE_TOKENS", 64)
    shared = {"model_name_or_path": str(gpu_llama), "apply_lora": True, "lora_dropout": 0.0, "learning_rate": 2e-3}
    shared |= {"max_steps": 8, "use_gradient_checkpointing": True, "offload_activations": True, **ROWS}
    whole, tiles = (
        train(make_config(**shared, tiled_mlp=value, output_dir=str(tmp_path / value)), make_dataset(64))
        for value in ("off", "on")
    )
    assert get_losses(tiles) == pytest.approx(get_losses(whole), abs=0.02)


def test_compiled_layers_are_compiled_once_for_all_rows(make_config: Callable[..., Config], gpu_llama: Path) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    options = {**ROWS, "torch_compile": "on", "max_steps": 12, "apply_lora": True, "lora_dropout": 0.0}
    train(make_config(model_name_or_path=str(gpu_llama), **options), make_dataset(64))
    # With one graph for each layer at most, whatever lengths the samples have.
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


@pytest.mark.parametrize("window", [None, 16])
def test_the_kernel_attends_as_one_call_a_sample_does(window: int | None) -> None:
    random = torch.Generator("cuda").manual_seed(0)
    shape = {"device": "cuda", "dtype": torch.bfloat16, "generator": random}
    query, key, value = (torch.randn(1, heads, BOUNDARIES[-1], 64, **shape) for heads in (4, 2, 2))  # type: ignore[call-overload]
    inputs = [each.requires_grad_() for each in (query, key, value)]
    boundaries = torch.tensor(BOUNDARIES, device="cuda", dtype=torch.int32)
    result, _ = attend(
        torch.nn.Identity(), *inputs, None, sliding_window=window, cu_seq_lens_q=boundaries, max_length_q=378
    )
    gradients = torch.autograd.grad(result.float().square().sum(), inputs)
    rows = [each.transpose(1, 2).squeeze(0) for each in inputs]
    expected = attend_by_sample(rows[0], rows[1], rows[2], BOUNDARIES, scale=None, window=window).unsqueeze(0)
    torch.testing.assert_close(result, expected, atol=2e-2, rtol=2e-2)
    for gradient, other in zip(gradients, torch.autograd.grad(expected.float().square().sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, other, atol=5e-2, rtol=5e-2)


def test_one_sample_is_attended_to_as_by_one_call() -> None:
    random = torch.Generator("cuda").manual_seed(0)
    shape = {"device": "cuda", "dtype": torch.bfloat16, "generator": random}
    inputs = [torch.randn(1, heads, 512, 64, **shape).requires_grad_() for heads in (4, 2, 2)]  # type: ignore[call-overload]
    result, _ = attend_to_one_sample(torch.nn.Identity(), *inputs, None)
    exact = [each.detach().float().requires_grad_() for each in inputs]
    rows = [each.transpose(1, 2).squeeze(0) for each in exact]
    expected = attend_by_sample(rows[0], rows[1], rows[2], [0, 512], scale=None, window=None).unsqueeze(0)
    torch.testing.assert_close(result.float(), expected, atol=2e-2, rtol=2e-2)
    gradients = torch.autograd.grad(result.float().square().sum(), inputs)
    for gradient, other in zip(gradients, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        torch.testing.assert_close(gradient.float(), other, atol=5e-2, rtol=5e-2)


def test_the_kernel_lets_nothing_across_a_boundary() -> None:
    random = torch.Generator("cuda").manual_seed(0)
    shape = {"device": "cuda", "dtype": torch.bfloat16, "generator": random}
    query, key, value = (torch.randn(1, heads, BOUNDARIES[-1], 64, **shape) for heads in (4, 2, 2))  # type: ignore[call-overload]
    boundaries = torch.tensor(BOUNDARIES, device="cuda", dtype=torch.int32)
    options = {"cu_seq_lens_q": boundaries, "max_length_q": 378}
    before, _ = attend(torch.nn.Identity(), query, key, value, None, **options)
    changed = slice(BOUNDARIES[1], BOUNDARIES[2])
    for each in (query, key, value):
        each[:, :, changed] += 1
    after, _ = attend(torch.nn.Identity(), query, key, value, None, **options)
    is_same = (before == after).all(dim=-1).all(dim=-1)[0]
    assert not is_same[changed].all()
    assert is_same[: BOUNDARIES[1]].all()
    assert is_same[BOUNDARIES[2] :].all()
