"""What the keys about repositories mean, and which of their values cannot work together."""

import pytest

from trainer_core.config import Config, Step, find_problems
from trainer_core.config.hub_checks import find_hub_warnings, is_repository_name
from trainer_core.hub.targets import list_push_targets


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"push_to_hub": True}, "hub_model_id", "missing_input"),
        ({"push_to_hub": True, "hub_model_id": "a/b/c"}, "hub_model_id", "invalid_value"),
        ({"hub_model_id": "https://hub/a/b"}, "hub_model_id", "invalid_value"),
        ({"hub_model_id": "a/b", "fused_hub_model_id": "A/B"}, "fused_hub_model_id", "conflict"),
        ({"hub_model_id": "a/b", "quantized_hub_model_id": "a/b"}, "quantized_hub_model_id", "conflict"),
        ({"fused_hub_model_id": "a/b", "quantized_hub_model_id": "a/b"}, "quantized_hub_model_id", "conflict"),
        ({"hub_model_id": "a/lora", "lora_hub_model_id": "a/lora"}, "hub_model_id", "conflict"),
        ({"fused_hub_model_id": "a/lora", "lora_hub_model_id": "a/lora"}, "fused_hub_model_id", "conflict"),
        ({"huggingface_hub_token": "hf_a\nb"}, "huggingface_hub_token", "invalid_value"),
        ({"huggingface_hub_token": "hf_ä"}, "huggingface_hub_token", "invalid_value"),
        ({"quantized_hub_model_id": ""}, "quantized_hub_model_id", "invalid_value"),
        ({"hub_private_repo": "perhaps"}, "hub_private_repo", "invalid_type"),
    ],
)
def test_what_cannot_work_names_the_key(values: dict[str, object], param: str, code: str) -> None:
    (problem,) = find_problems(values)
    assert (problem.param, problem.code) == (param, code)
    assert str(values.get("huggingface_hub_token")) not in problem.message


def test_an_adapter_may_be_read_where_only_the_fused_model_is_pushed_elsewhere() -> None:
    shared = {"hub_model_id": "a/lora", "lora_hub_model_id": "a/lora", "fused_hub_model_id": "a/fused"}
    assert find_problems(shared) == []


@pytest.mark.parametrize(
    ("steps", "values", "expected"),
    [
        ("prepare train", {"push_to_hub": True, "hub_model_id": "a/b"}, {"train": "a/b"}),
        ("prepare train", {"hub_model_id": "a/b"}, {}),
        ("train fuse", {"push_to_hub": True, "hub_model_id": "a/b"}, {"train": "a/b"}),
        ("train fuse", {"hub_model_id": "a/b", "fused_hub_model_id": "a/f"}, {"fuse": "a/f"}),
        ("train", {"fused_hub_model_id": "a/f"}, {}),
        ("fuse", {"hub_model_id": "a/b"}, {"fuse": "a/b"}),
        ("fuse", {"hub_model_id": "a/b", "fused_hub_model_id": "a/f"}, {"fuse": "a/f"}),
        ("fuse quantize", {"hub_model_id": "a/b", "quantized_hub_model_id": "a/q"}, {"fuse": "a/b", "quantize": "a/q"}),
        ("quantize", {"hub_model_id": "a/b"}, {}),
    ],
)
def test_what_is_pushed_follows_from_keys_and_steps(
    steps: str, values: dict[str, object], expected: dict[str, str]
) -> None:
    targets = list_push_targets(Config(**values), [Step(name) for name in steps.split()])
    assert {target.step.value: target.repository for target in targets} == expected


def test_each_push_has_a_visibility_of_its_own() -> None:
    config = Config(
        push_to_hub=True,
        hub_model_id="a/b",
        hub_private_repo=False,
        fused_hub_model_id="a/f",
        quantized_hub_model_id="a/q",
        quantized_hub_private_repo=False,
    )
    targets = list_push_targets(config, (Step.TRAIN, Step.FUSE, Step.QUANTIZE))
    assert [target.is_private for target in targets] == [False, True, False]


def test_a_repository_without_a_push_is_a_warning() -> None:
    (warning,) = find_hub_warnings(Config(hub_model_id="a/b"))
    assert warning.param == "hub_model_id"
    assert find_hub_warnings(Config(hub_model_id="a/b", push_to_hub=True)) == []


@pytest.mark.parametrize("name", ["a", "owner/name", "o/na.me-2_x", "a" * 96])
def test_names_that_a_hub_takes(name: str) -> None:
    assert is_repository_name(name)


@pytest.mark.parametrize("name", ["", "/a", "a/", "a b", "-a", "a.", "a--b", "a..b", "a.git", "a" * 97, "ä/b", "../a"])
def test_names_that_a_hub_does_not_take(name: str) -> None:
    assert not is_repository_name(name)
