"""Config: what it accepts, what it refuses and how it says so."""

import dataclasses
import json
import os
from dataclasses import dataclass, field

import pytest
from pydantic import ValidationError

from trainer_core import Config
from trainer_core.config import (
    SCRIPT_ONLY_FIELDS,
    SECRET_FIELDS,
    ConfigError,
    build_config,
    build_config_schema,
    dump_config,
    find_problems,
)


@dataclass
class ExtendedConfig(Config):
    text_field: str = field(default="chosen", metadata={"help": "Field that holds the text"})


def test_every_field_says_what_it_means() -> None:
    properties = build_config_schema()["properties"]
    undocumented = [name for name in properties if len(properties[name].get("description", "")) < 10]
    assert undocumented == []


@pytest.mark.parametrize(
    ("values", "param", "code", "hint"),
    [
        ({"lora_rnk": 3}, "lora_rnk", "unknown_key", "lora_rank"),
        ({"lora_rank": "eight"}, "lora_rank", "invalid_type", "integer"),
        ({"lora_rank": 0}, "lora_rank", "invalid_value", "greater than or equal to 1"),
        ({"max_steps": 10**400}, "max_steps", "invalid_value", "less than or equal to 2147483647"),
        ({"lora_rank": None}, "lora_rank", "invalid_type", "integer"),
        ({"max_steps": True}, "max_steps", "invalid_type", "not a boolean"),
        ({"learning_rate": False}, "learning_rate", "invalid_type", "not a boolean"),
        ({"apply_lora": "perhaps"}, "apply_lora", "invalid_type", "boolean"),
        ({"lora_dropout": 1.0}, "lora_dropout", "invalid_value", "less than 1"),
        ({"learning_rate": float("nan")}, "learning_rate", "invalid_value", "finite"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit", "conflict", "load_in_8bit"),
        ({"force_fp32": True, "force_fp16": True}, "force_fp32", "conflict", "force_fp16"),
        ({"fuse_after_training": True}, "fuse_after_training", "conflict", "apply_lora=True"),
        ({"optim": "adamw_8bits"}, "optim", "invalid_value", "adamw_8bit"),
        ({"optim": "adamw_torch_xla"}, "optim", "invalid_value", "XLA"),
        ({"save_safetensors": False}, "save_safetensors", "invalid_value", "safetensors"),
        ({"tokenizer_use_fast": False}, "tokenizer_use_fast", "invalid_value", "fast"),
        ({"gptq_disable_exllama": False}, "gptq_disable_exllama", "invalid_value", "auto-gptq"),
        ({"tokens_per_batch": 512, "packing": "off"}, "tokens_per_batch", "conflict", "packing"),
        ({"torch_compile": "on", "packing": "off"}, "torch_compile", "conflict", "samples in rows"),
        ({"packing": "on", "neftune_noise_alpha": 5}, "packing", "conflict", "depends on the length of a row"),
        ({"torch_compile": "on", "use_liger_kernel": "on"}, "use_liger_kernel", "conflict", "not compiled"),
        ({"lean_lora": "on"}, "lean_lora", "conflict", "set apply_lora"),
        ({"fused_loss": "on", "label_smoothing_factor": 0.1}, "fused_loss", "conflict", "label_smoothing_factor"),
        (
            {"activation_memory_budget_gib": 2, "fsdp_strategy": "full_shard"},
            *("activation_memory_budget_gib", "conflict", "takes over"),
        ),
        ({"offload_activations": True}, "offload_activations", "conflict", "use_gradient_checkpointing"),
        ({"deepspeed_stage": 4}, "deepspeed_stage", "invalid_value", "3"),
        ({"deepspeed_stage": 2, "optim": "galore_adamw"}, "optim", "conflict", "cut into shards"),
        ({"fsdp_strategy": "full_shard", "optim": "apollo_adamw"}, "optim", "conflict", "cut into shards"),
        ({"push_to_hub": True}, "hub_model_id", "missing_input", "owner/name"),
        ({"gptq_bits": 3, "quantizer_key": "bnb"}, "gptq_bits", "conflict", "4 and 8 bits"),
        ({"gptq_bits": 5}, "gptq_bits", "invalid_value", "2, 3, 4 or 8"),
        ({"gptq_group_size": 0}, "gptq_group_size", "invalid_value", "-1"),
        ({"report_to": ["mlfow"]}, "report_to", "invalid_value", "mlflow"),
        ({"report_to": ["wandb", "comet"]}, "report_to", "invalid_value", "tensorboard"),
        ({"wandb_api_key": "line\nbreak"}, "wandb_api_key", "invalid_value", "no spaces"),
        ({"max_shard_size": "ten"}, "max_shard_size", "invalid_value", "pattern"),
        ({"raw_lora_target_modules": ""}, "raw_lora_target_modules", "invalid_value", "no module"),
        ({"raw_lora_target_modules": "re:("}, "raw_lora_target_modules", "invalid_value", "regular expression"),
        ({"tokenizer_padding_side": "top"}, "tokenizer_padding_side", "invalid_value", "left"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_to_do(
    values: dict[str, object], param: str, code: str, hint: str
) -> None:
    problem = find_problems(values)[0]
    assert (problem.param, problem.code) == (param, code)
    assert hint in problem.message


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"lora_rnk": 3, "lora_rank": "x", "max_length": -1})
    assert {problem.param for problem in caught.value.problems} == {"lora_rnk", "lora_rank", "max_length"}
    assert caught.value.param in {"lora_rnk", "lora_rank", "max_length"}


def test_constructing_a_config_validates_it() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        Config(load_in_4bit=True, load_in_8bit=True)


@pytest.mark.parametrize("name", SECRET_FIELDS)
def test_a_secret_is_in_no_dump_no_repr_and_no_error(name: str) -> None:
    secret = "canary-7b1e"
    config = Config()
    # Set past the validation, because a key may not be supported yet.
    object.__setattr__(config, name, secret)
    assert secret not in repr(config)
    assert secret not in json.dumps(dump_config(config))
    problems = find_problems({name: secret, "load_in_4bit": secret, "x": 1})
    assert problems
    assert all(secret not in problem.message for problem in problems)


def test_a_dumped_config_builds_the_same_config_again() -> None:
    config = build_config({"raw_lora_target_modules": "q_proj,v_proj", "max_steps": 5, "report_to": "tensorboard"})
    assert build_config(dump_config(config)) == config


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        ("all", None),
        (["all"], None),
        ("q_proj, v_proj", ["q_proj", "v_proj"]),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        ("re:.*mlp.*", ".*mlp.*"),
    ],
)
def test_lora_targets_are_all_names_or_a_pattern(value: object, targets: object) -> None:
    assert build_config({"raw_lora_target_modules": value}).lora_target_modules == targets


def test_a_subclass_made_with_the_standard_dataclass_is_validated_with_all_rules() -> None:
    assert build_config({"text_field": "rejected"}, ExtendedConfig).text_field == "rejected"
    assert find_problems({"text_field": 3}, ExtendedConfig)[0].param == "text_field"
    assert "text_field" in find_problems({"tex_field": "a"}, ExtendedConfig)[0].message
    assert find_problems({"load_in_4bit": True, "load_in_8bit": True}, ExtendedConfig)[0].code == "conflict"


def test_a_subclass_keeps_the_descriptions_in_its_schema() -> None:
    properties = build_config_schema(ExtendedConfig)["properties"]
    assert properties["lora_rank"]["description"] == "Rank of the adapter's matrices."
    assert properties["text_field"]["description"] == "Field that holds the text"


def test_script_only_fields_are_fields() -> None:
    assert set(SCRIPT_ONLY_FIELDS) <= {each.name for each in dataclasses.fields(Config)}


def test_constructing_a_config_leaves_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    build_config({"huggingface_hub_token": "hf_x"})
    assert dict(os.environ) == before
