"""Training of an adapter over packed layers, and what becomes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_llama
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.errors import ConfigError, ModelLoadError
from trainer_core.evaluation import load_for_inference
from trainer_core.experiments.base import Experiment
from trainer_core.models.loading import LoadingChoices, load_model
from trainer_core.models.packed.linear import PackedLinear
from trainer_core.models.packed.loading import dequantize_model, find_packed_layers
from trainer_core.steps.fuse import fuse

TOKENS = torch.arange(3, 19).unsqueeze(0)


class Events:
    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def emit(self, type: str, *, message: str = "", **_: object) -> None:
        self.all.append((type, message))

    def text(self, wanted: str) -> str:
        return "\n".join(message for type, message in self.all if type == wanted)


def train(config: Config, dataset: Any, **parts: Any) -> tuple[Experiment, Events]:
    experiment, events = Experiment(config, train_dataset=dataset, **parts), Events()
    experiment.context = StepContext(step=Step.TRAIN, events=events)
    experiment.build()
    experiment.run()
    return experiment, events


def get_losses(experiment: Any) -> list[float]:
    return [record["loss"] for record in experiment.trainer.state.log_history if "loss" in record]


def get_logits(model: Any) -> torch.Tensor:
    model.train(False)
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS, use_cache=False).logits
    return logits


@pytest.fixture(scope="module", params=["gptq_llama", "compressed_llama"])
def base(request: pytest.FixtureRequest) -> Path:
    """Each of the two layouts."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def load_dequantized(folder: Path, config: Config) -> Any:
    return load_model(config, choices=LoadingChoices(dtype=torch.float32, packed="dequantize"), name=str(folder))


def test_losses_are_those_over_the_dequantized_base_and_fall(make_config, dataset, base, tmp_path) -> None:
    packed, events = train(make_config(model_name_or_path=str(base)), dataset)
    plain_config = make_config(output_dir=str(tmp_path / "plain"), from_gptq=False)
    plain, _ = train(plain_config, dataset, model=load_dequantized(base, plain_config))
    assert get_losses(packed) == pytest.approx(get_losses(plain), abs=1e-4)
    assert get_losses(packed)[-1] < get_losses(packed)[0] - 0.2
    assert "7 layers in 4 bits" in events.text("decision")
    ours, theirs = (load_file(Path(e.output_dir) / "adapter_model.safetensors") for e in (packed, plain))
    assert ours.keys() == theirs.keys()
    assert sum("lora_A" in name for name in ours) == 7
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=1e-3)


def test_only_the_adapter_is_trained_and_the_integers_stay(make_config, dataset, gptq_llama) -> None:
    experiment, _ = train(make_config(use_gradient_checkpointing=True, stabilize=True), dataset)
    model: Any = experiment.model
    layers = find_packed_layers(model)
    assert len(layers) == 7
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }
    fresh = load_model(make_config(), choices=LoadingChoices(dtype=torch.float32, for_training=True))
    for name, layer in find_packed_layers(fresh).items():
        trained = layers[f"base_model.model.{name}.base_layer"]
        assert torch.equal(trained.packed_weight.codes_OW, layer.packed_weight.codes_OW), name
        assert torch.equal(trained.packed_weight.scales_OG, layer.packed_weight.scales_OG), name


def test_a_resumed_run_ends_as_a_straight_one(make_config, dataset, tmp_path) -> None:
    keys = {"output_dir": str(tmp_path / "resumed"), "lr_scheduler_type": "constant", "save_steps": 2}
    first, _ = train(make_config(**keys | {"max_steps": 2}), dataset)
    resumed, events = train(make_config(**keys, resume_from_checkpoint=True), dataset)
    straight, _ = train(make_config(**keys | {"output_dir": str(tmp_path / "straight")}), dataset)
    assert "resumes from checkpoint-2" in events.text("decision")
    assert len(get_losses(first)) == 2
    assert len(get_losses(straight)) == 4
    assert get_losses(resumed) == pytest.approx(get_losses(straight), abs=1e-5)


def test_the_fused_model_is_plain_and_equals_the_adapter_on_its_base(make_config, dataset, base, tmp_path) -> None:
    config = make_config(model_name_or_path=str(base), fuse_after_training=True)
    experiment, _ = train(config, dataset)
    folder = Path(config.resolved_fused_path)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    fused = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not any(isinstance(module, PackedLinear) for module in fused.modules())
    on_packed = load_model(config, choices=LoadingChoices(dtype=torch.float32, for_training=True))
    on_packed = PeftModel.from_pretrained(on_packed, str(experiment.output_dir))
    torch.testing.assert_close(get_logits(fused), get_logits(on_packed), atol=1e-4, rtol=1e-4)
    on_plain = PeftModel.from_pretrained(load_dequantized(base, config), str(experiment.output_dir))
    torch.testing.assert_close(get_logits(fused), get_logits(on_plain), atol=1e-4, rtol=1e-4)

    again = make_config(
        model_name_or_path=str(base),
        lora_model_local_path=str(experiment.output_dir),
        fused_model_local_path=str(tmp_path / "by-the-step"),
    )
    fuse(again)
    assert {p.name for p in (tmp_path / "by-the-step").glob("*.safetensors")} == {"model.safetensors"}
    expected = load_file(folder / "model.safetensors")
    for name, tensor in load_file(tmp_path / "by-the-step" / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_an_adapter_is_never_merged_into_packed_integers(make_config, dataset) -> None:
    experiment, _ = train(make_config(), dataset)
    model: Any = experiment.model
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="Cannot merge"):
            merge()


def test_a_dequantized_model_gives_the_packed_ones_logits(make_config, base) -> None:
    config = make_config(model_name_or_path=str(base))
    packed: Any = load_model(config, choices=LoadingChoices(dtype=torch.float32))
    logits = get_logits(packed)
    plain = dequantize_model(packed)
    assert torch.equal(get_logits(plain), logits)
    assert not find_packed_layers(plain)
    assert plain.num_parameters() > 100_000


def test_tied_embeddings_stay_one_weight_in_the_fused_model(make_config, dataset) -> None:
    config = make_config(fuse_after_training=True)
    train(config, dataset)
    fused: Any = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    assert fused.get_output_embeddings().weight is fused.get_input_embeddings().weight


def test_a_gptq_model_can_be_evaluated_without_from_gptq(make_config, gptq_llama) -> None:
    config = make_config(from_gptq=False, apply_lora=False)
    model = load_for_inference(gptq_llama, config)
    assert len(find_packed_layers(model)) == 7
    torch.testing.assert_close(get_logits(model), get_logits(load_dequantized(gptq_llama, config)))


@pytest.mark.parametrize("targets", ["q_proj,v_proj", r"re:.*\.layers\.0\.self_attn\.[qv]_proj"])
def test_targets_are_named_as_on_any_base(make_config, dataset, targets) -> None:
    experiment, _ = train(make_config(raw_lora_target_modules=targets, max_steps=1), dataset)
    model: Any = experiment.model
    adapted = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "v_proj"}


def test_what_stays_unquantized_is_trained_beside_in_fp32(make_config, tmp_path) -> None:
    from tests.support.packed_models import build_packed_llama
    from trainer_core.models.kbit import prepare_for_kbit_training

    folder = build_packed_llama(tmp_path / "half", layout="gptq", dtype=torch.float16, num_hidden_layers=1)
    config = make_config(model_name_or_path=str(folder))
    model: Any = load_model(config, choices=LoadingChoices(dtype=torch.bfloat16, for_training=True))
    assert model.model.norm.weight.dtype is torch.bfloat16
    prepare_for_kbit_training(model, config=config)
    assert model.model.norm.weight.dtype is torch.float32
    assert model.lm_head.weight.dtype is torch.float32
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for layer in find_packed_layers(model).values():
        assert layer.packed_weight.scales_OG.dtype is torch.float16


def test_widths_asked_for_besides_are_warned_of(make_config, dataset) -> None:
    _, events = train(make_config(gptq_bits=8, gptq_group_size=64, max_steps=1), dataset)
    assert "gptq_bits=8 has no effect on a base that is quantized: it has 4 bits" in events.text("warning")
    assert "gptq_group_size=64 has no effect" in events.text("warning")


def test_a_model_that_is_not_quantized_is_told_by_from_gptq(make_config, tmp_path) -> None:
    config = make_config(model_name_or_path=str(build_tiny_llama(tmp_path / "plain", num_hidden_layers=1)))
    with pytest.raises(ModelLoadError, match="is not quantized; leave it out") as raised:
        load_model(config, choices=LoadingChoices(for_training=True))
    assert raised.value.param == "from_gptq"


def test_a_quantized_base_without_from_gptq_is_told_to_set_it(make_config, dataset, base) -> None:
    config = make_config(model_name_or_path=str(base), from_gptq=False)
    with pytest.raises(ModelLoadError, match="set from_gptq=True and apply_lora=True") as raised:
        train(config, dataset)
    assert raised.value.param == "from_gptq"


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"apply_lora": False}, "apply_lora", "set apply_lora=True"),
        ({"load_in_4bit": True}, "load_in_4bit", "quantized already; leave load_in_4bit out"),
        ({"load_in_8bit": True}, "load_in_8bit", "quantized already; leave load_in_8bit out"),
        ({"use_dora": True}, "use_dora", "set use_dora=False"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights", "leave from_gptq out"),
        ({"lora_target_parameters": ["weight"]}, "lora_target_parameters", "name layers"),
    ],
)
def test_what_does_not_go_with_from_gptq_is_refused_before_anything_runs(make_config, values, param, message) -> None:
    with pytest.raises(ConfigError) as raised:
        make_config(**values)
    problems = [problem for problem in raised.value.problems if problem.param == param]
    assert any(message in problem.message for problem in problems)


def test_a_checkpoint_of_another_shape_or_kind_is_told_by_its_layer(make_config, gptq_llama, tmp_path) -> None:
    import shutil

    for name, change, message in (
        ("wide", {"intermediate_size": 512}, r"mlp\.\w+ is \d+ by \d+, the model wants (512 by 128|128 by 512)"),
        (
            "other",
            {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
            "is no linear layer of GPT2LMHeadModel",
        ),
    ):
        folder = tmp_path / name
        shutil.copytree(gptq_llama, folder)
        config = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelLoadError, match=message):
            load_model(make_config(model_name_or_path=str(folder)), choices=LoadingChoices(for_training=True))


def test_a_layer_is_a_linear_layer_to_those_who_look_for_one(gptq_llama, make_config) -> None:
    model: Any = load_model(make_config(), choices=LoadingChoices(dtype=torch.float32))
    layer = model.model.layers[0].mlp.down_proj
    assert isinstance(layer, nn.Linear)
    assert layer.weight.shape == (128, 256)
    assert "num_bits=4" in repr(layer)
