"""What the keys about several processes mean, and what of them cannot go together."""

import json

import pytest

from trainer_core.config import build_config, find_problems
from trainer_core.config.parallel_checks import FsdpStrategy, find_parallel_warnings, parse_fsdp_strategy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("full_shard", FsdpStrategy(reshards_after_forward=True, offloads=False)),
        ("full_shard auto_wrap", FsdpStrategy(reshards_after_forward=True, offloads=False)),
        ("FULL_SHARD,offload", FsdpStrategy(reshards_after_forward=True, offloads=True)),
        ("shard_grad_op", FsdpStrategy(reshards_after_forward=False, offloads=False)),
        ("hybrid_shard", FsdpStrategy(reshards_after_forward=True, offloads=False)),
        ("hybrid_shard_zero2 offload auto_wrap", FsdpStrategy(reshards_after_forward=False, offloads=True)),
    ],
)
def test_every_spelling_of_a_strategy(text, expected):
    assert parse_fsdp_strategy(text) == expected


@pytest.mark.parametrize(
    ("values", "param", "words"),
    [
        ({"fsdp_strategy": "full_shart"}, "fsdp_strategy", "full_shard"),
        ({"fsdp_strategy": "auto_wrap"}, "fsdp_strategy", "names no strategy"),
        ({"fsdp_strategy": "full_shard shard_grad_op"}, "fsdp_strategy", "two strategies"),
        ({"fsdp_strategy": "no_shard"}, "fsdp_strategy", "leave it ''"),
        ({"fsdp_strategy": "full_shard", "deepspeed_stage": 2}, "fsdp_strategy", "exclude each other"),
        ({"fsdp_strategy": "full_shard", "load_in_4bit": True, "apply_lora": True}, "fsdp_strategy", "load_in_4bit"),
        ({"fsdp_strategy": "full_shard", "force_fp16": True}, "fsdp_strategy", "force_fp16"),
        ({"fsdp_strategy": "full_shard", "device_map": "auto"}, "device_map", "leave it at None"),
        ({"single_gpu": True}, "single_gpu", "set deepspeed_stage"),
        ({"deepspeed_stage": 3, "load_in_4bit": True, "apply_lora": True}, "deepspeed_stage", "use deepspeed_stage 2"),
        ({"deepspeed_stage": 3, "load_in_8bit": True, "apply_lora": True}, "deepspeed_stage", "use deepspeed_stage 2"),
        ({"deepspeed_stage": 1, "device_map": "auto"}, "device_map", "leave it at None"),
        ({"deepspeed_stage": 4}, "deepspeed_stage", "less than or equal to 3"),
        ({"deepspeed_stage": -1}, "deepspeed_stage", "greater than or equal to 0"),
        ({"deepspeed_stage": "two"}, "deepspeed_stage", "integer"),
        ({"deepspeed_offload": "disk"}, "deepspeed_offload", "optimizer"),
        ({"master_port": 0}, "master_port", "greater than or equal to 1"),
        ({"master_port": 70_000}, "master_port", "65535"),
    ],
)
def test_what_cannot_go_together_names_the_option(values, param, words):
    problems = find_problems(values)

    assert [problem.param for problem in problems] == [param]
    assert words in problems[0].message


@pytest.mark.parametrize(
    "values",
    [
        {"deepspeed_stage": 2, "load_in_4bit": True, "apply_lora": True},
        {"deepspeed_stage": 2, "single_gpu": True, "master_port": 9_000, "deepspeed_offload": "none"},
        {"deepspeed_config_path": "/c.json", "single_gpu": True},
        {"fsdp_strategy": "full_shard auto_wrap", "fsdp_offload": False, "apply_lora": True},
    ],
)
def test_what_goes_together_is_accepted(values):
    assert find_problems(values) == []


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"deepspeed_stage": 2, "deepspeed_config_path": "/c.json"}, "deepspeed_stage"),
        ({"deepspeed_offload": "all"}, "deepspeed_offload"),
        ({"deepspeed_config_path": "/c.json", "deepspeed_offload": "none"}, "deepspeed_offload"),
        ({"deepspeed_stage": 2, "deepspeed_offload": "all"}, "deepspeed_offload"),
    ],
)
def test_what_has_no_effect_is_told(values, param):
    assert [problem.param for problem in find_parallel_warnings(build_config(values))] == [param]


def make_settings(path, settings):
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return build_config({"deepspeed_config_path": str(path)})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ({"zero_optimization": 3}, "must hold a JSON object"),
        ({"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}}, "set it to true"),
    ],
)
def test_a_file_that_cannot_do_names_its_option(tmp_path, settings, words):
    from trainer_core.errors import ConfigError
    from trainer_core.trainers.deepspeed_settings import build_deepspeed_settings

    with pytest.raises(ConfigError, match=words) as caught:
        build_deepspeed_settings(make_settings(tmp_path / "c.json", settings), is_on_gpu=True)
    assert caught.value.problems[0].param == "deepspeed_config_path"


def test_a_file_that_is_not_there_names_its_option():
    from trainer_core.errors import ConfigError
    from trainer_core.trainers.deepspeed_settings import build_deepspeed_settings

    with pytest.raises(ConfigError, match=r"c\.json cannot be read"):
        build_deepspeed_settings(build_config({"deepspeed_config_path": "/nowhere/c.json"}), is_on_gpu=True)


def test_stage_3_of_a_file_over_a_quantized_base_is_refused(tmp_path):
    from trainer_core.errors import ConfigError
    from trainer_core.trainers.deepspeed_settings import build_deepspeed_settings

    path = tmp_path / "c.json"
    path.write_text('{"zero_optimization": {"stage": 3}}')
    config = build_config({"deepspeed_config_path": str(path), "load_in_4bit": True, "apply_lora": True})

    with pytest.raises(ConfigError, match="load_in_4bit"):
        build_deepspeed_settings(config, is_on_gpu=True)


def test_a_file_is_completed_and_otherwise_left_as_it_is(tmp_path):
    from trainer_core.trainers.deepspeed_settings import build_deepspeed_settings

    given = {"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 5}}, "steps_per_print": 7}
    settings = build_deepspeed_settings(make_settings(tmp_path / "c.json", given), is_on_gpu=True)

    assert settings == {
        "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 5, "total_num_steps": "auto"}},
        "steps_per_print": 7,
        "zero_optimization": {},
    }


@pytest.mark.parametrize(
    ("stage", "offload", "optimizer", "weights"),
    [
        (1, "auto", True, False),
        (2, "auto", True, False),
        (3, "auto", True, True),
        (1, "none", False, False),
        (3, "none", False, False),
        (3, "optimizer", True, False),
        (2, "all", True, False),
        (3, "all", True, True),
    ],
)
def test_what_the_built_in_settings_offload(stage, offload, optimizer, weights):
    from trainer_core.trainers.deepspeed_settings import build_deepspeed_settings

    config = build_config({"deepspeed_stage": stage, "deepspeed_offload": offload})
    settings = build_deepspeed_settings(config, is_on_gpu=True)
    zero = settings["zero_optimization"]

    # Its timers would have the GPU wait for the host twice a step.
    assert not settings["timers"]["throughput"]["enabled"]
    assert ("offload_optimizer" in zero, "offload_param" in zero) == (optimizer, weights)
    assert zero["stage"] == stage
    # Sent one by one after each step, where whole layers are sent anyway.
    assert (zero.get("stage3_param_persistence_threshold") == 0) == (stage == 3 and not weights)
    assert "offload_optimizer" not in build_deepspeed_settings(config, is_on_gpu=False)["zero_optimization"]
