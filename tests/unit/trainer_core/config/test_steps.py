"""Which steps a job may run, and what each must be given."""

import pytest

from trainer_core.config import AvailableInputs, Step, build_config, check_steps, default_steps

LORA = {"apply_lora": True}
FILE = AvailableInputs(training_file=True)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({}, ("prepare", "train")),
        (LORA, ("prepare", "train")),
        (LORA | {"fuse_after_training": True}, ("prepare", "train", "fuse")),
    ],
)
def test_default_steps_fuse_only_when_asked(values: dict[str, object], steps: tuple[str, ...]) -> None:
    assert default_steps(build_config(values)) == steps


@pytest.mark.parametrize(
    ("values", "steps", "inputs", "param", "code"),
    [
        ({}, [], FILE, "steps", "invalid_steps"),
        ({}, ["train", "prepare"], FILE, "steps", "invalid_steps"),
        ({}, ["prepare", "prepare"], FILE, "steps", "invalid_steps"),
        ({}, ["train"], AvailableInputs(), "steps", "missing_input"),
        ({}, ["train"], FILE, "steps", "invalid_steps"),
        ({"dataset_key": "general"}, ["prepare", "train"], AvailableInputs(), "training_file", "missing_input"),
        ({}, ["prepare", "train", "fuse"], FILE, "apply_lora", "conflict"),
        ({}, ["fuse"], AvailableInputs(), "steps", "missing_input"),
        ({"load_in_8bit": True}, ["fuse"], AvailableInputs(adapter=True), "load_in_8bit", "conflict"),
        (LORA | {"lora_hub_model_id": "a/b"}, ["prepare", "train", "fuse"], FILE, "lora_hub_model_id", "conflict"),
        (LORA, ["prepare", "train", "quantize"], FILE, "steps", "invalid_steps"),
        ({}, ["quantize"], AvailableInputs(), "quantization_dataset_id", "missing_input"),
        ({"load_in_4bit": True}, ["prepare", "train"], FILE, "apply_lora", "conflict"),
    ],
)
def test_steps_that_cannot_run_are_refused(
    values: dict[str, object], steps: list[str], inputs: AvailableInputs, param: str, code: str
) -> None:
    problems = check_steps(build_config(values), [Step(name) for name in steps], inputs)
    assert [(problem.param, problem.code) for problem in problems] == [(param, code)]


@pytest.mark.parametrize(
    ("values", "steps", "inputs"),
    [
        (LORA, ["prepare", "train", "fuse", "quantize"], FILE),
        ({}, ["prepare", "train", "quantize"], FILE),
        ({}, ["prepare", "train"], AvailableInputs()),
        ({}, ["train"], AvailableInputs(prepared_data=True)),
        ({}, ["fuse"], AvailableInputs(adapter=True)),
        ({"lora_hub_model_id": "a/b"}, ["fuse"], AvailableInputs()),
        ({"quantization_dataset_id": "file-1"}, ["quantize"], AvailableInputs(model=True)),
        ({}, ["fuse"], AvailableInputs(in_script=True)),
    ],
)
def test_steps_that_can_run_are_not_refused(
    values: dict[str, object], steps: list[str], inputs: AvailableInputs
) -> None:
    assert check_steps(build_config(values), [Step(name) for name in steps], inputs) == []
