"""Adapters on bases in 4 and 8 bits, quantized while loading or afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.support.tiny_models import build_tiny_model
from tests.unit.trainer_core.train.conftest import get_logits, get_losses, make_dataset
from trainer_core.config import Config
from trainer_core.errors import ConfigError, ModelLoadError
from trainer_core.experiments import Experiment
from trainer_core.models.bnb_layers import quantize_linear_layers
from trainer_core.models.lora import attach_lora, build_lora_config
from trainer_core.models.quantization import build_quantization_config

MakeConfig = Callable[..., Config]
CLASSES = {"load_in_4bit": "Linear4bit", "load_in_8bit": "Linear8bitLt"}
OPTIONS: dict[str, object] = {"apply_lora": True, "max_steps": 3, "learning_rate": 1e-2, "lora_dropout": 0.0}


class Recording(Experiment):
    """Notes what the hooks around quantizing find."""

    def before_bnb_quantization(self) -> None:
        self.before = self.find_classes()

    def after_bnb_quantization(self) -> None:
        self.after = self.find_classes()

    def find_classes(self) -> set[str]:
        return {type(module).__name__ for name, module in self._get_model().named_modules() if name.endswith("_proj")}


@pytest.mark.parametrize("key", CLASSES)
def test_quantizing_after_loading_equals_quantizing_while_loading(
    make_config: MakeConfig, tmp_path: Path, key: str
) -> None:
    losses = []
    for is_late in (False, True):
        config = make_config(
            **OPTIONS, **{key: True}, bnb_quantize_after_model_init=is_late, output_dir=str(tmp_path / str(is_late))
        )
        experiment = Recording(config, train_dataset=make_dataset(6))
        experiment.build()
        if is_late:
            assert (experiment.before, experiment.after) == ({"Linear"}, {CLASSES[key]})
        else:
            assert not hasattr(experiment, "before")
        head: Any = experiment.model.get_output_embeddings()  # type: ignore[union-attr]
        assert type(head) is torch.nn.Linear
        # Making it ready for training has cast what is not quantized to fp32, and frozen the base.
        assert all("lora_" in n for n, each in experiment.model.named_parameters() if each.requires_grad)  # type: ignore[union-attr]
        experiment.run()
        losses.append(get_losses(experiment))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("family", ["falcon", "gpt2", "opt"])
@pytest.mark.parametrize("key", CLASSES)
def test_every_layer_but_a_tied_head_is_quantized_in_every_family(
    make_config: MakeConfig, tmp_path: Path, family: str, key: str
) -> None:
    folder = str(build_tiny_model(tmp_path / "model", family=family))
    logits, sizes = [], []
    for is_late in (False, True):
        config = make_config(
            model_name_or_path=folder, apply_lora=True, **{key: True}, bnb_quantize_after_model_init=is_late
        )
        experiment = Experiment(config, quantization_config=build_quantization_config(config))
        model: Any = experiment.build_model()
        if is_late:
            experiment.model = model
            experiment.bnb_quantization()
        quantized = [name for name, each in model.named_modules() if type(each).__name__ == CLASSES[key]]
        linear = [name for name, each in model.named_modules() if type(each).__name__ in ("FalconLinear", "Conv1D")]
        assert len(quantized) >= 8
        assert not linear
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        logits.append(get_logits(model))
        sizes.append(model.get_memory_footprint())
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    assert sizes[0] == sizes[1]


def test_a_model_without_layers_to_quantize_is_told(make_config: MakeConfig) -> None:
    class Empty(torch.nn.Module):
        _keep_in_fp32_modules = None
        all_tied_weights_keys: ClassVar[dict[str, str]] = {}
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(4)

        def get_output_embeddings(self) -> None:
            return None

    settings = build_quantization_config(make_config(apply_lora=True, load_in_4bit=True))
    with pytest.raises(ModelLoadError, match="set load_in_4bit=False"):
        quantize_linear_layers(Empty(), settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("load_in_4bit", {"use_dora": True}),
        ("load_in_4bit", {"init_lora_weights": "orthogonal"}),
        ("load_in_8bit", {"init_lora_weights": "orthogonal"}),
        ("load_in_8bit", {"modules_to_save": "lm_head"}),
    ],
    ids=str,
)
def test_what_an_adapter_can_do_works_on_quantized_bases_too(
    make_config: MakeConfig, key: str, values: dict[str, object]
) -> None:
    config = make_config(**OPTIONS, **{key: True}, **values)
    experiment = Experiment(config, train_dataset=make_dataset(6))
    experiment.build()
    before = get_logits(experiment.model)
    experiment.run()
    assert (get_logits(experiment.model) - before).abs().max() > 0.01
    assert all(torch.isfinite(each).all() for each in experiment.model.parameters())  # type: ignore[union-attr]


def test_a_quantized_layer_cannot_be_trained_whole(make_config: MakeConfig) -> None:
    config = make_config(apply_lora=True, load_in_4bit=True, modules_to_save="q_proj", raw_lora_target_modules="v_proj")
    model = Experiment(config, quantization_config=build_quantization_config(config)).build_model()
    with pytest.raises(ConfigError, match="is quantized, and cannot be trained whole"):
        attach_lora(model, lora_config=build_lora_config(model, config=config), config=config)


def test_preparing_for_training_can_be_left_out(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "bf16"
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(build_tiny_model(tmp_path / "m", family="llama")).to(
        torch.bfloat16
    ).save_pretrained(folder)
    found = []
    for is_prepared in (True, False):
        config = make_config(
            model_name_or_path=str(folder),
            apply_lora=True,
            load_in_4bit=True,
            prepare_model_for_kbit_training=is_prepared,
            use_gradient_checkpointing=True,
        )
        experiment = Experiment(config, quantization_config=build_quantization_config(config))
        model: Any = experiment.build_model()
        found.append((model.is_gradient_checkpointing, any(each.requires_grad for each in model.parameters())))
    assert found[0] == (True, False)
    assert found[1] == (False, True)
