"""MLPs of long rows tile by tile: the same training in less memory, or a reason why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_model
from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, make_dataset
from trainer_core.config import Config, build_config
from trainer_core.context import StepContext
from trainer_core.errors import ConfigError
from trainer_core.kernels import tiled_mlp
from trainer_core.kernels.activation_budget import measure_layer_bytes
from trainer_core.kernels.offloaded_checkpoint import OffloadedCheckpoint
from trainer_core.kernels.tiled_mlp import find_tiling_obstacle, looks_at_output, tile_mlps
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


def get_weights(experiment: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in experiment.model.named_parameters() if value.requires_grad}


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


def test_dropout_drops_the_same_again(make_config: MakeConfig, tmp_path: Path) -> None:
    options = {**SHARED, "apply_lora": True, "lora_dropout": 0.3, "tiled_mlp": "on"}
    kept, offloaded = (
        train(make_config(**options, **more, output_dir=str(tmp_path / name)), make_dataset(24))
        for name, more in (("kept", {}), ("offloaded", OFFLOADED))
    )
    assert get_losses(offloaded) == pytest.approx(get_losses(kept), abs=1e-6)
    for key, weight in get_weights(kept).items():
        torch.testing.assert_close(get_weights(offloaded)[key], weight, atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_only_an_mlp_that_is_added_to_the_rest_is_passed_over(tmp_path: Path, family: str) -> None:
    """OLMo 2 has a norm behind its MLP."""
    model = load(build_tiny_model(tmp_path / "model", family=family)).train()
    layers, run = model.model.layers, run_probe(model)
    assert looks_at_output(layers[0], run=run) == (family == "olmo2")
    calls: list[int] = []
    layers[0].mlp.act_fn.register_forward_hook(lambda _module, inputs, _output: calls.append(inputs[0].shape[-2]))
    store = OffloadedCheckpoint()
    tile_mlps(layers, store=store, is_output_needed=looks_at_output(layers[0], run=run))
    calls.clear()
    for layer in layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, store
    model.enable_input_require_grads()
    row = build_probe_row(build_probe_samples(model.config))
    model(**row.inputs).loss.backward()
    num_tokens = row.inputs["input_ids"].shape[-1]
    assert max(calls) == 16
    assert sum(calls) == num_tokens * (3 if family == "olmo2" else 2)


def test_what_is_passed_over_wrongly_is_not_a_number(tiny_llama: Path) -> None:
    model = load(tiny_llama).train()
    layer = model.model.layers[0]
    store = OffloadedCheckpoint()
    tile_mlps([layer], store=store, is_output_needed=False)
    hidden = torch.randn(1, 40, model.config.hidden_size, requires_grad=True)

    def run(hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = layer.mlp(hidden) ** 2
        return output

    store(run, hidden).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isnan().all()


def test_a_layer_keeps_less(tiny_llama: Path) -> None:
    model = load(tiny_llama).train()
    layer, run = model.model.layers[0], run_probe(model)
    whole = measure_layer_bytes(layer, run=run)
    tile_mlps([layer], store=None, is_output_needed=True)
    num_tokens = build_probe_row(build_probe_samples(model.config)).inputs["input_ids"].shape[-1]
    # Gate, up, what is activated and their product.
    assert whole - measure_layer_bytes(layer, run=run) >= 4 * 4 * num_tokens * model.config.intermediate_size


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


@pytest.mark.parametrize(
    ("mlp", "reason"),
    [(Neighbours(), "tokens beside"), (Pair(), "hidden states alone"), (TwoInputs(), "more than the hidden states")],
)
def test_other_mlps_stay_whole(tiny_llama: Path, mlp: nn.Module, reason: str) -> None:
    model = load(tiny_llama)
    layer = model.model.layers[0]
    layer.mlp = mlp
    if isinstance(mlp, TwoInputs):
        layer.mlp.register_forward_pre_hook(lambda _module, inputs: (*inputs, inputs[0]))
    assert reason in (find_tiling_obstacle([layer], run=run_probe(model)) or "")
    assert "named mlp" in (find_tiling_obstacle([nn.Linear(2, 2)], run=run_probe(model)) or "")


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("llama", {}, "host memory"),
        ("llama", OFFLOADED, "rows of 96 tokens are not long"),
        ("llama", {"packing": "off"}, "host memory"),
        ("mixtral", {**OFFLOADED, "apply_lora": False}, "experts"),
    ],
)
def test_a_training_tells_why_not(
    make_config: MakeConfig,
    context: StepContext,
    events: RecordedEvents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    changes: dict[str, Any],
    reason: str,
) -> None:
    if family == "llama":
        monkeypatch.setattr("trainer_core.experiments.speed.TILE_TOKENS", 4096)
    else:
        monkeypatch.setattr("trainer_core.experiments.speed.TILE_TOKENS", 16)
    options: dict[str, Any] = {"max_steps": 1, "apply_lora": True, "lora_dropout": 0.0}
    options |= {"model_name_or_path": str(build_tiny_model(tmp_path / "model", family=family))}
    train(make_config(**options | changes), make_dataset(8), context=context)
    told = next(each for each in events.of_type("decision") if "tiled_mlp" in each)
    assert told["tiled_mlp"] == "off"
    assert reason in told["reason"]


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
