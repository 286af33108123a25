"""What an experiment calls, in which order, and what it leaves behind."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.trainer_core.train.conftest import RecordedEvents, make_dataset
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.errors import ConfigError, StepInputError, UnknownKeyError
from trainer_core.experiments import Experiment, experiments_registry
from trainer_core.experiments.hooks import ExperimentHooks
from trainer_core.experiments.parts import ExperimentParts
from trainer_core.steps.train import train

MakeConfig = Callable[..., Config]

RECORDED = [
    *(name for name in vars(ExperimentHooks) if not name.startswith("_")),
    *(name for name in vars(ExperimentParts) if name.startswith("build_")),
    *("save_config", "checks", "internal_checks", "internal_checks_before_train", "apply_lora"),
    *("stabilize_training", "fuse_lora", "post_training"),
]

ORDER_TEXT = """
internal_checks at_beginning save_config before_checks checks after_checks
before_training_arguments_build build_training_arguments after_training_arguments_build
before_train_dataset_build build_train_dataset build_train_dataset_additional_kwargs after_train_dataset_build
before_eval_dataset_build build_eval_dataset build_eval_dataset_additional_kwargs
build_train_dataset_additional_kwargs after_eval_dataset_build
before_tokenizer_build build_tokenizer after_tokenizer_build
before_collator_build build_collator build_collator_additional_kwargs after_collator_build
before_quantization_config_build build_quantization_config after_quantization_config_build
before_model_build build_model after_model_build
before_lora_apply apply_lora after_lora_apply
before_stabilize_training stabilize_training after_stabilize_training
before_trainer_build build_trainer build_trainer_additional_kwargs after_trainer_build
internal_checks
before_train internal_checks_before_train after_train fuse_lora after_fuse post_training at_end
"""


def make_recording_class(calls: list[str]) -> type[Experiment]:
    def record(name: str) -> Any:
        def method(self: Experiment) -> Any:
            calls.append(name)
            return getattr(super(recording, self), name)()

        return method

    recording: type[Experiment] = type("Recording", (Experiment,), {name: record(name) for name in RECORDED})
    return recording


def write_rows(path: Path, num_rows: int) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [row for row, _ in zip(make_dataset(num_rows).data, range(num_rows), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_hooks_and_parts_are_called_in_the_documented_order(make_config: MakeConfig, tmp_path: Path) -> None:
    calls: list[str] = []
    config = make_config(apply_lora=True, stabilize=True, fuse_after_training=True, max_steps=1, experiment_key="rec")
    write_rows(Path(config.train_local_path_to_data), 4)
    experiments_registry.add(key="rec", value=make_recording_class(calls), override=True)
    experiment = train(config)
    assert calls == ORDER_TEXT.split()
    fused = Path(config.resolved_fused_path)
    assert fused == tmp_path / "outputs" / "fused"
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in fused.iterdir()
    }
    assert [artifact.name for artifact in experiment.result.artifacts] == ["adapter", "fused"]


def test_a_part_that_is_given_is_neither_built_nor_announced(make_config: MakeConfig) -> None:
    calls: list[str] = []
    first = Experiment(make_config(max_steps=1), train_dataset=make_dataset(2))
    first.build()
    given = {
        name: getattr(first, name) for name in ("training_arguments", "tokenizer", "collator", "model", "train_dataset")
    }
    make_recording_class(calls)(make_config(max_steps=1), **given).build()
    for name in given:
        assert not any(name in call for call in calls if call != "build_train_dataset_additional_kwargs"), name
    assert "build_trainer" in calls


def test_every_hook_takes_only_self() -> None:
    for name, function in vars(ExperimentHooks).items():
        if not name.startswith("_"):
            assert list(inspect.signature(function).parameters) == ["self"]


def test_no_secret_and_no_pickle_of_arguments_is_left(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(huggingface_hub_token="hf_verysecret", max_steps=2, save_steps=1, save_total_limit=0)
    train(config, make_dataset(4))
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert {"checkpoint-1", "checkpoint-2"} <= {path.parent.name for path in files}
    assert not [path for path in files if path.name == "training_args.bin"]
    assert not [path for path in files if b"hf_verysecret" in path.read_bytes()]
    assert json.loads((tmp_path / "outputs" / "training_config.json").read_text())["huggingface_hub_token"] is None


def test_a_full_training_leaves_the_model_and_the_tokenizer(make_config: MakeConfig, tmp_path: Path) -> None:
    result = train(make_config(max_steps=1), make_dataset(4)).result
    assert result.artifacts[0].name == "model"
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(result.artifacts[0].files)
    assert "COMPLETE" not in result.artifacts[0].files
    assert result.facts["global_step"] == 1
    (tmp_path / "new").touch()
    modes = {name: (result.artifacts[0].root / name).stat().st_mode for name in result.artifacts[0].files}
    assert set(modes.values()) == {(tmp_path / "new").stat().st_mode}, modes


def test_evaluation_data_are_evaluated_without_do_eval(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    train(make_config(max_steps=3, eval_steps=2), make_dataset(8), make_dataset(3), context=context)
    evaluated = [each["global_step"] for each in events.of_type("metrics") if "eval_loss" in each]
    assert evaluated == [2, 3]


def test_do_eval_without_data_fails_before_the_model_is_loaded(make_config: MakeConfig) -> None:
    config = make_config(do_eval=True, model_name_or_path="/does/not/exist")
    with pytest.raises(StepInputError, match=r"do_eval.*give a validation_file"):
        train(config, make_dataset(4))


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ({"trainer_key": "lmm"}, UnknownKeyError, "'lm'"),
        ({"experiment_key": "bass"}, UnknownKeyError, "'base'"),
        ({"load_in_4bit": True}, ConfigError, "apply_lora=True"),
        ({"use_flash_attention_2": True}, ConfigError, "CUDA"),
    ],
)
def test_what_cannot_work_fails_before_the_model_is_loaded(
    make_config: MakeConfig, values: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        train(make_config(**values, model_name_or_path="/does/not/exist"), make_dataset(4))


def test_events_tell_checkpoints_metrics_and_progress(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    config = make_config(max_steps=4, save_steps=2, save_total_limit=1, logging_steps=3)
    train(config, make_dataset(8), context=context)
    assert [each["global_step"] for each in events.of_type("checkpoint.saved")] == [2, 4]
    assert not (Path(config.output_dir) / "checkpoint-2").exists()
    # Of the first step, every third, and each that is saved.
    assert [each["global_step"] for each in events.of_type("metrics") if "loss" in each] == [1, 2, 3, 4]
    record = events.of_type("metrics")[0]
    assert {"loss", "learning_rate", "grad_norm", "epoch", "tokens_per_second"} <= set(record)
    last = events.of_type("progress")[-1]
    assert (last["global_step"], last["total_steps"], last["eta_seconds"]) == (4, 4, 0.0)
    assert set(last) == {"global_step", "total_steps", "epoch", "loss", "tokens_per_second", "eta_seconds"}


def test_a_warm_up_longer_than_the_run_is_told(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    train(make_config(max_steps=2, warmup_steps=1000), make_dataset(4), context=context)
    assert "warmup_steps=1000" in events.messages("warning")


def test_gradient_checkpointing_recomputes_and_learns_the_same(make_config: MakeConfig) -> None:
    options: dict[str, object] = {"apply_lora": True, "lora_dropout": 0.0, "max_steps": 2, "optim": "sgd"}
    experiments, counts = [], []
    for is_used in (False, True):
        experiment = Experiment(
            make_config(**options, learning_rate=0.1, use_gradient_checkpointing=is_used), train_dataset=make_dataset(4)
        )
        experiment.build()
        calls: list[int] = []
        layer = experiment.model.get_base_model().model.layers[0].self_attn  # type: ignore[union-attr]
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        experiment.run()
        experiments.append(experiment)
        counts.append(len(calls))
    assert counts == [2, 4]
    plain, checkpointed = ({n: p for n, p in each.model.named_parameters() if p.requires_grad} for each in experiments)
    for name, parameter in plain.items():
        torch.testing.assert_close(checkpointed[name], parameter)


def test_the_adapter_names_the_base_by_its_public_name(
    make_config: MakeConfig, events: RecordedEvents, tmp_path: Path
) -> None:
    config = make_config(apply_lora=True, max_steps=1)
    train(config, make_dataset(2), context=StepContext("train", events, model_id="owner/tiny"))  # type: ignore[arg-type]
    for folder in (tmp_path / "outputs", tmp_path / "outputs" / "checkpoint-1"):
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/tiny"
        assert config.model_name_or_path not in (folder / "README.md").read_text()
