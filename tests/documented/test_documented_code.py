"""What X-LLM's documentation shows as code, with `xllm` read as `trainer_core`, runs: blocks and command lines."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub
from tests.support.soda_rows import build_soda_files
from tests.support.tiny_models import build_tiny_llama

HERE = Path(__file__).parent
MODEL = "mistralai/Mistral-7B-v0.1"
QUICK = ("--max_steps", "2", "--warmup_steps", "0", "--max_length", "64")

BLOCKS = {
    "the registries": """
        from trainer_core.datasets import datasets_registry
        from trainer_core.collators import collators_registry
        from trainer_core.trainers import trainers_registry
        from trainer_core.experiments import experiments_registry
        assert "soda" in datasets_registry.keys() and "completion" in collators_registry.keys()
        assert "lm" in trainers_registry.keys() and "base" in experiments_registry.keys()
    """,
    "the base classes": """
        from trainer_core.datasets import BaseDataset, GeneralDataset, SodaDataset
        from trainer_core.datasets.base import BaseDataset as SameDataset
        from trainer_core.collators import BaseCollator, CompletionCollator, LMCollator
        from trainer_core.trainers import LMTrainer
        from trainer_core.experiments import Experiment
        from trainer_core.experiments.base import Experiment as SameExperiment
        from trainer_core.types import Batch, RawSample
        assert BaseDataset is SameDataset and Experiment is SameExperiment
    """,
    "a Config made in code": """
        from trainer_core import Config
        config = Config(model_name_or_path="mistralai/Mistral-7B-v0.1", apply_lora=True, stabilize=True)
        assert (config.apply_lora, config.stabilize, config.lora_rank) == (True, True, 8)
    """,
    "an extended Config": """
        from my_project.core.config import DemoConfig
        assert DemoConfig().text_field == "chosen" and DemoConfig(text_field="other", lora_rank=4).lora_rank == 4
    """,
    "a data set added to its registry": """
        from trainer_core.datasets import datasets_registry
        from my_project.core.dataset import MyDataset
        datasets_registry.add(key="my_new_dataset", value=MyDataset)
        assert datasets_registry.get("my_new_dataset") is MyDataset
    """,
    "every component added to its registry": """
        from my_project.core.registry import registry_components
        from trainer_core.trainers import trainers_registry
        registry_components()
        assert trainers_registry.get("my_new_trainer").__name__ == "MyTrainer"
    """,
    "a sample": """
        from trainer_core.datasets import GeneralDataset
        sample = {"text_parts": ["Hello!", "My name is Boris"]}
        assert GeneralDataset.from_list(data=[sample["text_parts"]])[0] == sample
    """,
    "the functions of the command line": """
        from trainer_core.cli import cli_run_fuse, cli_run_prepare, cli_run_quantize, cli_run_train
    """,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_commit(MODEL, build_tiny_llama(tmp_path_factory.mktemp("model")))
        hub.add_commit("allenai/soda", build_soda_files(), kind="datasets")
        yield hub


def run(command: list[str], *, folder: Path, hub: FakeHub | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command line of the documentation in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB_"))}
    environment |= {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "HF_HOME": str(folder / "hub-cache")}
    if hub is not None:
        environment["HF_ENDPOINT"] = hub.url
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran


def test_every_block_of_code_runs(tmp_path: Path) -> None:
    """All in one process, where each registers anew: a second one would take four seconds to import torch again."""
    program = [
        "import textwrap",
        "from trainer_core.datasets import datasets_registry",
        f"for name, block in {BLOCKS!r}.items():",
        "    datasets_registry._values.pop('my_new_dataset', None)",
        "    exec(compile(textwrap.dedent(block), name, 'exec'), {})",
        "print('all ran')",
    ]
    assert "all ran" in run([sys.executable, "-c", "\n".join(program)], folder=tmp_path).stdout


@pytest.mark.slow
def test_the_projects_command_lines_run_one_after_the_other(hub: FakeHub, tmp_path: Path) -> None:
    for step, flags in {
        "prepare": (),
        "train": ("--apply_lora", "True", "--stabilize", "True", *QUICK),
        "fuse": ("--fused_model_local_path", "./fused"),
        "quantize": ("--fused_model_local_path", "./fused", "--quantization_max_samples", "8", "--max_length", "64"),
    }.items():
        script = HERE / "my_project" / "cli" / f"{step}.py"
        run([sys.executable, str(script), "--model_name_or_path", MODEL, *flags], folder=tmp_path, hub=hub)
    assert (tmp_path / "train.jsonl").is_file()
    assert (tmp_path / "outputs" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "fused" / "model.safetensors").is_file()
    assert (tmp_path / "quantized_model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_projects_own_components_are_used_by_their_keys(hub: FakeHub, tmp_path: Path) -> None:
    cli = HERE / "my_project" / "cli"
    keys = ["--dataset_key", "my_new_dataset", "--collator_key", "my_new_collator"]
    keys += ["--trainer_key", "my_new_trainer", "--experiment_key", "my_new_experiment"]
    model = ["--model_name_or_path", MODEL]
    run([sys.executable, str(cli / "prepare.py"), *model, *keys], folder=tmp_path, hub=hub)
    run([sys.executable, str(cli / "train.py"), *model, *keys, "--apply_lora", *QUICK], folder=tmp_path, hub=hub)
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 30
    assert (tmp_path / "before_lora_apply").read_text() == "LlamaForCausalLM"


@pytest.mark.slow
def test_texts_in_a_script_are_trained_on(hub: FakeHub, tmp_path: Path) -> None:
    script = HERE / "my_project" / "cli" / "train_texts.py"
    command = [sys.executable, str(script), "--model_name_or_path", MODEL, "--apply_lora", "True", *QUICK]
    command += ["--stabilize", "True", "--use_gradient_checkpointing", "True"]
    run(command, folder=tmp_path, hub=hub)
    assert (tmp_path / "outputs" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_an_extended_config_is_parsed_by_its_script(hub: FakeHub, tmp_path: Path) -> None:
    cli = HERE / "my_project" / "cli"
    run([sys.executable, str(cli / "prepare.py"), "--model_name_or_path", MODEL], folder=tmp_path, hub=hub)
    command = [sys.executable, str(cli / "train_demo.py"), "--model_name_or_path", MODEL, "--text_field", "rejected"]
    run([*command, *QUICK], folder=tmp_path, hub=hub)
    assert '"text_field": "rejected"' in (tmp_path / "outputs" / "training_config.json").read_text()
