"""Flags become a Config, and a Config that cannot work becomes lines on stderr and a status."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from trainer_core import __main__ as entry
from trainer_core.arguments import parse_arguments
from trainer_core.cli import build_config_from_flags, cli_run_prepare, cli_run_quantize
from trainer_core.config import Config, ConfigError


@dataclass
class DemoConfig(Config):
    """A Config as users extend it."""

    text_field: str = field(default="chosen", metadata={"help": "Field of the row, 100% text."})
    num_turns: int = field(default=3)
    keeps_case: bool = field(default=True)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process whose environment and current folder hold nothing of this machine's."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "LOCAL_RANK", "FROM_THE_FILE"):
        # Set first, so that what a test's .env file adds is taken away again afterwards.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        pytest.param(["--apply_lora"], "apply_lora", True, id="a bare flag"),
        pytest.param(["--apply_lora", "True"], "apply_lora", True, id="the word"),
        pytest.param(["--apply_lora=false"], "apply_lora", False, id="the word for no"),
        pytest.param(["--shuffle", "False"], "shuffle", False, id="off by word"),
        pytest.param(["--no_shuffle"], "shuffle", False, id="off by its own flag"),
        pytest.param(["--no-shuffle"], "shuffle", False, id="with dashes"),
        pytest.param(["--lora_rank", "16"], "lora_rank", 16, id="an int"),
        pytest.param(["--learning-rate", "3e-4"], "learning_rate", 3e-4, id="a float, dashes"),
        pytest.param(["--gptq_bits", "8"], "gptq_bits", 8, id="a choice of ints"),
        pytest.param(["--tokenizer_padding_side", "left"], "tokenizer_padding_side", "left", id="a choice of words"),
        pytest.param(["--eval_steps", "None"], "eval_steps", None, id="None where there may be none"),
        pytest.param(["--local_rank=1"], "local_rank", 1, id="as launchers add it"),
        pytest.param(["--local-rank=1"], "local_rank", 1, id="as others add it"),
        pytest.param(["--raw_lora_target_modules", "q,k"], "raw_lora_target_modules", "q,k", id="text or list"),
        pytest.param(["--report_to", "tensorboard"], "report_to", ["tensorboard"], id="a list"),
        pytest.param(["--model_name_or_path", "None/x"], "model_name_or_path", "None/x", id="text with None in it"),
    ],
)
def test_a_flag_becomes_the_value_that_the_config_expects(arguments, name, value) -> None:
    assert getattr(build_config_from_flags(arguments=arguments), name) == value


def test_without_flags_the_config_is_the_default_one() -> None:
    assert build_config_from_flags(arguments=[]) == Config()


def test_a_subclass_made_with_the_standard_librarys_dataclass_is_parsed_and_validated() -> None:
    arguments = ["--text_field", "rejected", "--num_turns", "5", "--no_keeps_case"]
    config = build_config_from_flags(DemoConfig, arguments=arguments)
    assert isinstance(config, DemoConfig)
    assert (config.text_field, config.num_turns, config.keeps_case) == ("rejected", 5, False)
    with pytest.raises(ConfigError, match="num_turns"):
        build_config_from_flags(DemoConfig, arguments=["--num_turns", "many"])


def test_parsing_leaves_the_bounds_of_the_config_class_as_they_were() -> None:
    build_config_from_flags(DemoConfig, arguments=[])
    with pytest.raises(ConfigError, match="lora_rank"):
        build_config_from_flags(DemoConfig, arguments=["--lora_rank", "0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--lora_rnk", "8"], "did you mean 'lora_rank'", id="a typing error"),
        pytest.param(["--low_cpu_mem_usage"], "no key 'low_cpu_mem_usage'", id="a flag of an older release"),
        pytest.param(["stray"], "'stray' belongs to no flag", id="a value without a flag"),
        pytest.param(["--max_length"], "expected one argument", id="a flag without its value"),
        pytest.param(["--shuffle", "maybe"], "Truthy value expected", id="no truth value"),
        pytest.param(["--max_length", "None"], "max_length", id="None where there must be a value"),
        pytest.param(["--path_to_env_file", "no.env"], "path_to_env_file: there is no file", id="a missing .env"),
    ],
)
def test_flags_that_cannot_work_are_named(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config_from_flags(arguments=arguments)


def test_help_lists_fields_with_their_meaning(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(DemoConfig, ["--help"], program="prepare.py")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--lora_rank" in shown
    assert "Field of the row, 100% text." in shown


@pytest.mark.parametrize(
    ("flag", "environment", "file", "expected"),
    [
        pytest.param("f", "e", "d", "f", id="the flag wins"),
        pytest.param(None, "e", "d", "e", id="then the environment, under either name"),
        pytest.param(None, None, "d", "d", id="then the file"),
        pytest.param(None, None, None, None, id="else the library's saved login"),
    ],
)
def test_tokens_come_from_flag_environment_and_file_in_this_order(
    monkeypatch, tmp_path, flag, environment, file, expected
) -> None:
    if environment:
        monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", environment)
    if file:
        (tmp_path / ".env").write_text(f"HF_TOKEN={file}\nFROM_THE_FILE=yes\n")
    arguments = ["--huggingface_hub_token", flag] if flag else []
    assert build_config_from_flags(arguments=arguments).huggingface_hub_token == expected
    assert os.environ.get("FROM_THE_FILE") == ("yes" if file else None)


def test_a_tracker_key_in_the_environment_is_not_taken_when_the_tracker_is_not_asked_for(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert build_config_from_flags(arguments=[]).wandb_api_key is None


def test_the_rank_comes_from_the_launchers_environment(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert build_config_from_flags(arguments=[]).local_rank == 3


def test_the_seed_makes_random_numbers_the_same() -> None:
    import torch

    drawn = []
    for _ in range(2):
        build_config_from_flags(arguments=["--seed", "7"])
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1]


def run_script(monkeypatch, capsys, function, *arguments: str) -> tuple[object, list[str]]:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        function()
    return ended.value.code, capsys.readouterr().err.splitlines()


def test_every_problem_of_a_config_is_one_line_and_the_status_is_two(monkeypatch, capsys) -> None:
    arguments = ["--lora_rank", "0", "--max_length", "0"]
    status, lines = run_script(monkeypatch, capsys, cli_run_prepare, *arguments)
    assert status == 2
    assert [line.partition(":")[0] for line in lines] == ["error", "error"]
    assert {line.split()[1] for line in lines} == {"lora_rank:", "max_length:"}


def test_a_missing_input_is_one_line_and_the_status_is_one(monkeypatch, capsys, tmp_path) -> None:
    status, lines = run_script(monkeypatch, capsys, cli_run_quantize, "--model_name_or_path", str(tmp_path / "no"))
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: quantize needs data to calibrate on")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["quantise"], "did you mean 'quantize'?", id="a typing error"),
        pytest.param(["train", "--config_key", "bas"], "did you mean 'base'?", id="an unknown Config class"),
        pytest.param([], "usage:", id="nothing at all"),
    ],
)
def test_the_module_names_what_it_does_not_know_with_status_two(arguments, message, capsys) -> None:
    try:
        status = entry.main(arguments)
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.out + captured.err
