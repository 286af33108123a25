"""Samples longer than a model has positions for are told before training."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.tiny_models import build_tiny_model
from tests.unit.trainer_core.train.conftest import RecordedEvents, make_dataset
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.errors import ConfigError, ModelLoadError
from trainer_core.job_spec import StepInputs
from trainer_core.models.positions import check_max_length
from trainer_core.steps.prepare import prepare
from trainer_core.steps.train import train

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_table_of_positions_that_is_too_short_is_an_error(
    make_config: MakeConfig, tmp_path: Path, events: RecordedEvents, family: str
) -> None:
    folder = str(build_tiny_model(tmp_path / "model", family=family))
    check_max_length(make_config(model_name_or_path=folder, max_length=512), events=events)
    with pytest.raises(ConfigError, match=r"512 positions.*max_length to at most 512") as raised:
        check_max_length(make_config(model_name_or_path=folder, max_length=513), events=events)
    assert raised.value.param == "max_length"
    (Path(folder) / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="max_length"):
        train(make_config(model_name_or_path=folder, max_length=513), make_dataset(2))


@pytest.mark.parametrize(
    ("family", "overrides"),
    [("llama", {}), ("qwen3", {}), ("gpt_neox", {}), ("phi", {}), ("falcon", {}), ("falcon", {"alibi": True})],
    ids=str,
)
def test_computed_positions_that_the_model_was_not_made_for_are_a_warning(
    make_config: MakeConfig, tmp_path: Path, events: RecordedEvents, family: str, overrides: dict[str, object]
) -> None:
    folder = str(build_tiny_model(tmp_path / "model", family=family, **overrides))
    check_max_length(make_config(model_name_or_path=folder, max_length=512), events=events)
    assert not events.all
    check_max_length(make_config(model_name_or_path=folder, max_length=513), events=events)
    assert events.of_type("warning") == [{"param": "max_length", "max_length": 513, "num_positions": 512}]


@pytest.mark.parametrize(
    ("family", "overrides", "is_refused"), [("llama", {}, True), ("falcon", {"alibi": True}, False)]
)
def test_a_row_longer_than_a_model_can_tell_positions_is_refused_when_rows_are_prepared(
    make_config: MakeConfig, tmp_path: Path, family: str, overrides: dict[str, object], is_refused: bool
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "word " * 700}) + "\n")
    folder = str(build_tiny_model(tmp_path / "model", family=family, **overrides))
    config = make_config(model_name_or_path=folder, dataset_key="general", collator_key="lm", max_length=600)
    context = replace(StepContext.for_script(Step.PREPARE), inputs=StepInputs(training_file=str(rows)))
    expected = pytest.raises(ConfigError, match="set max_length=512, which cuts") if is_refused else nullcontext()
    with expected:
        prepare(config, context=context)


def test_the_warning_comes_with_the_training(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    train(make_config(max_length=600, max_steps=1), make_dataset(2), context=context)
    assert "max_length=600 is more than the 512 tokens" in events.messages("warning")


def test_settings_that_cannot_be_read_are_the_models_fault(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as raised:
        check_max_length(make_config(model_name_or_path=str(tmp_path)))
    assert raised.value.param == "model_name_or_path"
