"""MLPs of long rows tile by tile: the same training in less memory, or a reason why not."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_model
from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, get_weights, make_dataset
from trainer_core.config import Config, build_config
from trainer_core.context import StepContext
from trainer_core.errors import ConfigError
from trainer_core.kernels import tiled_mlp
from trainer_core.kernels.activation_budget import measure_layer_bytes
from trainer_core.kernels.offloaded_checkpoint import OffloadedCheckpoint
from trainer_core.kernels.tiled_mlp import (
    find_length_obstacle,
    find_tiling_obstacle,
    needs_outputs,
    remove_tiles,
    tile_mlps,
)
from trainer_core.padding_free.model_check import build_probe_row, build_probe_samples
from trainer_core.steps.train import train

MakeConfig = Callable[..., Config]
SHARED = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "per_device_train_batch_size": 8, "lora_dropout": 0.0}
OFFLOADED = {"activation_memory_budget_gib": 1e-6, "offload_activations": True}


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_mlp, "TILE_TOKENS", 16)


def load(folder: Path) -> Any:
    model_cls: Any = AutoModelForCausalLM
    return model_cls.from_pretrained(folder)


def run_probe(model: Any) -> Callable[[], object]:
    row = build_probe_row(build_probe_samples(model.config))
    return lambda: model(**row.inputs)


@pytest.mark.parametrize("apply_lora", [True, False], ids=["LoRA", "full"])
@pytest.mark.parametrize("changes", [{}, OFFLOADED], ids=["kept", "in host memory"])
@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_a_training_in_tiles_is_the_whole_one(
    make_config: MakeConfig,
    context: StepContext,
    events: RecordedEvents,
    tmp_path: Path,
    apply_lora: bool,
    changes: dict[str, Any],
    family: str,
) -> None:
    model = build_tiny_model(tmp_path / "model", family=family)
    options = {**SHARED, "apply_lora": apply_lora, "model_name_or_path": str(model), "eval_steps": 3}
    whole, tiles = (
        train(
            make_config(**options, **more, output_dir=str(tmp_path / name)),
            make_dataset(24),
            make_dataset(6),
            context=context,
        )
        for name, more in (("whole", {"tiled_mlp": "off"}), ("tiles", {"tiled_mlp": "on", **changes}))
    )
    assert [each["tiled_mlp"] for each in events.of_type("decision") if "tiled_mlp" in each] == ["off", "on"]
    assert get_losses(tiles) == pytest.approx(get_losses(whole), abs=1e-5)
    for key, weight in get_weights(whole).items():
        torch.testing.assert_close(get_weights(tiles)[key], weight, atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_dropout_drops_the_same_again(make_config: MakeConfig, tmp_path: Path, family: str) -> None:
    """GPT-NeoX has a dropout behind its MLP, whose numbers come after those of the adapter's."""
    dropout = {"hidden_dropout": 0.2} if family == "gpt_neox" else {}
    model = build_tiny_model(tmp_path / "model", family=family, **dropout)
    options = {**SHARED, "apply_lora": True, "lora_dropout": 0.3, "tiled_mlp": "on", "model_name_or_path": str(model)}
    kept, offloaded = (
        train(make_config(**options, **more, output_dir=str(tmp_path / name)), make_dataset(24))
        for name, more in (("kept", {}), ("offloaded", OFFLOADED))
    )
    assert get_losses(offloaded) == pytest.approx(get_losses(kept), abs=1e-6)
    for key, weight in get_weights(kept).items():
        torch.testing.assert_close(get_weights(offloaded)[key], weight, atol=1e-7, rtol=1e-5, msg=key)


class DroppingMlp(nn.Module):
    """An MLP with dropout inside."""

    def __init__(self, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 32, dtype=dtype), nn.Linear(32, 8, dtype=dtype)
        self.rate = 0.5

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inner = nn.functional.dropout(self.first(hidden).relu(), self.rate)
        result: torch.Tensor = self.second(inner)
        return result


class Layer(nn.Module):
    """Adds its MLP to what it is given, times a gain."""

    def __init__(self, mlp: nn.Module, *, has_norm: bool = False) -> None:
        super().__init__()
        self.mlp, self.norm = mlp, nn.LayerNorm(8) if has_norm else nn.Identity()
        self.gain = nn.Parameter(torch.ones(8), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = hidden + self.gain * self.norm(self.mlp(hidden))
        return result


def run_layers(layers: list[Layer]) -> Callable[[], object]:
    return lambda: nn.Sequential(*layers)(torch.randn(1, 12, 8))


@pytest.mark.parametrize("has_autocast", [False, True], ids=["", "autocast"])
def test_tiles_are_the_mlp_run_part_by_part(has_autocast: bool) -> None:
    """With the same random numbers, also when gradients are computed, and without touching those that come after."""
    mlp = DroppingMlp()
    hidden_1TD = torch.randn(1, 40, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_autocast):
        torch.manual_seed(0)
        expected = torch.cat([mlp(part) for part in hidden_1TD.split(16, dim=-2)], dim=-2)
        next_number = torch.rand(1)
        tile_mlps([Layer(mlp)], store=None)
        torch.manual_seed(0)
        found = mlp(hidden_1TD)
        assert torch.equal(torch.rand(1), next_number)
    torch.testing.assert_close(found, expected.to(found.dtype))
    wanted = (hidden_1TD, *mlp.parameters())
    tolerance = {"atol": 0.02, "rtol": 0.02} if has_autocast else {}
    before = torch.get_rng_state()
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), wanted),
        torch.autograd.grad(expected.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **tolerance)
    assert torch.equal(torch.get_rng_state(), before)


def test_sums_over_many_tiles_are_not_rounded_after_each() -> None:
    mlp = DroppingMlp(dtype=torch.bfloat16)
    mlp.rate = 0.0
    hidden_1TD = torch.ones(1, 16 * 1024, 8, dtype=torch.bfloat16)
    tile_mlps([Layer(mlp)], store=None)
    mlp(hidden_1TD).sum().backward()
    assert mlp.second.bias.grad is not None
    # A sum of 16 that is rounded to 8 bits each time stays at 4,096.
    assert mlp.second.bias.grad.tolist() == [16 * 1024] * 8


@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_only_an_mlp_that_is_added_to_the_rest_is_passed_over(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """OLMo 2 has a norm behind its MLP."""
    model = build_tiny_model(tmp_path / "model", family=family)
    is_passed_over: list[bool] = []

    def watch(layers: Any, *, store: OffloadedCheckpoint | None) -> None:
        is_passed_over.append(store is not None)
        tile_mlps(layers, store=store)

    monkeypatch.setattr("trainer_core.experiments.speed.tile_mlps", watch)
    options = {**SHARED, **OFFLOADED, "tiled_mlp": "on", "model_name_or_path": str(model)}
    train(make_config(**options, output_dir=str(tmp_path / "outputs")), make_dataset(24))
    assert is_passed_over == [family == "llama"]


@pytest.mark.parametrize("is_passed_over", [True, False])
def test_an_mlp_that_is_passed_over_runs_twice(tiny_llama: Path, is_passed_over: bool) -> None:
    model = load(tiny_llama).train()
    layers, store = model.model.layers, OffloadedCheckpoint()
    heights: list[int] = []
    layers[0].mlp.act_fn.register_forward_hook(lambda _module, inputs, _output: heights.append(inputs[0].shape[-2]))
    tile_mlps(layers, store=store if is_passed_over else None)
    for layer in layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, store
    model.enable_input_require_grads()
    row = build_probe_row(build_probe_samples(model.config))
    model(**row.inputs).loss.backward()
    assert max(heights) == 16
    assert sum(heights) == row.inputs["input_ids"].shape[-1] * (2 if is_passed_over else 3)


def test_whoever_looks_at_what_was_passed_over_gets_no_number(tiny_llama: Path) -> None:
    model = load(tiny_llama).train()
    layer = model.model.layers[0]
    store = OffloadedCheckpoint()
    tile_mlps([layer], store=store)
    hidden = torch.randn(1, 40, model.config.hidden_size, requires_grad=True)

    def run(hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = layer.mlp(hidden) ** 2
        return output

    store(run, hidden).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isnan().all()


def test_every_layer_s_outputs_and_weights_are_looked_at() -> None:
    plain, with_norm, with_gain, dropping = (Layer(nn.Linear(8, 8)) for _ in range(4))
    with_norm.norm = nn.LayerNorm(8)
    with_gain.gain.requires_grad_()
    dropping.mlp, dropping.norm = DroppingMlp(), nn.Dropout(0.5)
    assert not needs_outputs([plain], run=run_layers([plain]))
    for other in (with_norm, with_gain, dropping):
        assert needs_outputs([plain, other], run=run_layers([plain, other]))
    # Without a dropout behind it, an MLP may drop.
    dropping.norm = nn.Identity()
    assert not needs_outputs([dropping], run=run_layers([dropping]))
    # Never called, so that nothing is proven.
    assert needs_outputs([plain], run=lambda: None)


def test_a_layer_keeps_less(tiny_llama: Path) -> None:
    model = load(tiny_llama).train()
    layer, run = model.model.layers[0], run_probe(model)
    whole = measure_layer_bytes(layer, run=run)
    tile_mlps([layer], store=None)
    num_tokens = build_probe_row(build_probe_samples(model.config)).inputs["input_ids"].shape[-1]
    # Gate, up, what is activated and their product.
    assert whole - measure_layer_bytes(layer, run=run) >= 4 * 4 * num_tokens * model.config.intermediate_size


def test_a_model_is_made_whole_again(tiny_llama: Path) -> None:
    """Copies have an MLP of their own, and the next training begins anew."""
    model = load(tiny_llama)
    for layer in model.model.layers[:1]:
        layer.mlp.forward = MethodType(type(layer.mlp).forward, layer.mlp)
    own_forwards = [vars(layer.mlp).get("forward") for layer in model.model.layers]
    tile_mlps(model.model.layers, store=None)
    hidden = torch.randn(1, 40, model.config.hidden_size)
    twin = copy.deepcopy(model)
    for weight in twin.model.layers[0].mlp.parameters():
        weight.data.zero_()
    assert not twin.model.layers[0].mlp(hidden).any()
    assert model.model.layers[0].mlp(hidden).any()
    remove_tiles(model)
    assert [vars(layer.mlp).get("forward") for layer in model.model.layers] == own_forwards


class Neighbours(nn.Module):
    """Looks at the token before."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + hidden.roll(1, dims=-2)


class Pair(nn.Module):
    """Gives more than hidden states."""

    def forward(self, hidden: torch.Tensor) -> Any:
        return hidden, hidden


class TwoInputs(nn.Module):
    """Takes more than hidden states."""

    def forward(self, hidden: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return hidden + other


class WholeRows(nn.Module):
    """Takes rows of 12 tokens only."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.view(1, 12, 8)


@pytest.mark.parametrize(
    ("mlp", "calls", "reason"),
    [
        (Neighbours(), [(1, 12, 8)], "those beside it"),
        (Pair(), [(1, 12, 8)], "hidden states alone"),
        (nn.Linear(8, 9), [(1, 12, 8)], "hidden states alone"),
        (WholeRows(), [(1, 12, 8)], "could not be tried"),
        (nn.Linear(8, 8), [(12, 8)], "in another shape"),
        (nn.Linear(8, 8), [(1, 12, 8), (1, 12, 8)], "not called once"),
        (nn.Linear(8, 8), [], "not called once"),
    ],
)
@pytest.mark.parametrize("is_second", [False, True])
def test_other_mlps_stay_whole(mlp: nn.Module, calls: list[tuple[int, ...]], reason: str, is_second: bool) -> None:
    first, other = Layer(nn.Linear(8, 8)), Layer(mlp)
    layers = [first, other] if is_second else [other]

    def run() -> None:
        if is_second:
            first(torch.randn(1, 12, 8))
        for shape in calls:
            other.mlp(torch.randn(shape))

    assert reason in (find_tiling_obstacle(layers, run=run) or "")
    assert find_tiling_obstacle([first], run=run_layers([first])) is None


def test_an_mlp_with_another_input_or_name_stays_whole() -> None:
    layer = Layer(TwoInputs())
    hidden = torch.randn(1, 12, 8)
    assert "more than" in (find_tiling_obstacle([layer], run=lambda: layer.mlp(hidden, hidden)) or "")
    for layers in ([], [nn.Linear(2, 2)]):
        assert "named mlp" in (find_tiling_obstacle(layers, run=lambda: None) or "")


def test_dropout_does_not_look_like_a_neighbour() -> None:
    layer = Layer(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))).train()
    layer.mlp[0].eval()
    assert find_tiling_obstacle([layer], run=run_layers([layer])) is None
    assert [each.training for each in layer.mlp] == [False, True]


def test_short_rows_are_told() -> None:
    assert "short" in (find_length_obstacle(31, is_asked_for=False) or "")
    assert "short" in (find_length_obstacle(16, is_asked_for=True) or "")
    assert find_length_obstacle(32, is_asked_for=False) is find_length_obstacle(17, is_asked_for=True) is None


def test_what_a_failed_pass_has_kept_is_let_go() -> None:
    store = OffloadedCheckpoint()
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    store(nn.Linear(8, 8), hidden)
    store.forget()
    store(nn.Linear(8, 8), hidden).sum().backward()
    assert hidden.grad is not None
    assert not store._kept


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("llama", {}, "do not go to host memory"),
        ("llama", {"packing": "off"}, "samples are padded"),
        ("mixtral", {**OFFLOADED, "apply_lora": False}, "experts"),
        ("opt", OFFLOADED, "named mlp"),
        ("llama", {**OFFLOADED, "tiled_mlp": "off"}, "tiled_mlp is 'off'"),
    ],
)
def test_a_training_tells_why_not(
    make_config: MakeConfig,
    context: StepContext,
    events: RecordedEvents,
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
    reason: str,
) -> None:
    options: dict[str, Any] = {"max_steps": 1, "apply_lora": True, "lora_dropout": 0.0}
    options |= {"model_name_or_path": str(build_tiny_model(tmp_path / "model", family=family))}
    train(make_config(**options | changes), make_dataset(8), context=context)
    told = next(each for each in events.of_type("decision") if "tiled_mlp" in each)
    assert told["tiled_mlp"] == "off"
    assert reason in told["reason"]


def test_long_rows_in_host_memory_go_tile_by_tile(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    train(make_config(**SHARED, **OFFLOADED, apply_lora=True), make_dataset(24), context=context)
    assert [each["tiled_mlp"] for each in events.of_type("decision") if "tiled_mlp" in each] == ["on"]


@pytest.mark.parametrize(
    "changes", [{"torch_compile": "on"}, {"packing": "off"}, {"deepspeed_stage": 2}, {"neftune_noise_alpha": 5.0}]
)
def test_what_cannot_go_with_tiles_is_refused(changes: dict[str, Any]) -> None:
    values = {"model_name_or_path": "a/model", "train_local_path_to_data": "data.jsonl", "apply_lora": True}
    with pytest.raises(ConfigError) as caught:
        build_config({**values, "tiled_mlp": "on", **changes})
    assert ("tiled_mlp", "conflict") in [(problem.param, problem.code) for problem in caught.value.problems]


def test_a_layer_is_run_again_as_it_ran_with_autocast() -> None:
    layer = nn.Linear(8, 8)
    dtypes: list[torch.dtype] = []

    def run(hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = layer(hidden)
        dtypes.append(output.dtype)
        return output

    hidden = torch.randn(1, 4, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = OffloadedCheckpoint()(run, hidden)
    output.sum().backward()
    assert dtypes == [torch.bfloat16, torch.bfloat16]
