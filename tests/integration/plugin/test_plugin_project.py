"""The example of a project that extends Finesmith, installed as its README says, over HTTP and as scripts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.embedded_service import run_embedded, run_job
from tests.support.tiny_models import build_tiny_llama

ROOT = Path(__file__).parents[3]
KEYS = dict.fromkeys(("dataset_key", "collator_key", "trainer_key", "experiment_key"), "glossary")
SHORT = {"max_steps": 3, "warmup_steps": 0, "max_length": 64, "logging_steps": 1}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH into which the project was installed."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    # A copy, because the build leaves its own folders beside the sources.
    subprocess.run(["cp", "-r", ROOT / "examples" / "plugin_project", source], check=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source / "plugin_project"], check=True)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def client(installed: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    environment = {"PYTHONPATH": str(installed), "FINESMITH_MODEL_ROOT": str(model.parent)}
    with run_embedded(tmp_path_factory.mktemp("data"), environment=environment, config_key="glossary") as client:
        yield client


def test_its_components_and_its_config_are_announced(client: httpx2.Client) -> None:
    registries = client.get("/v1/registries").json()["data"]
    with_it = {name for name, keys in registries.items() if "glossary" in keys}
    assert with_it == {"configs", "datasets", "collators", "trainers", "experiments"}
    assert client.get("/v1/workers").json()["data"][0]["plugin_errors"] == []
    schema = client.get("/v1/config/schema", params={"config_key": "glossary"}).json()
    assert schema["properties"]["focus"]["maximum"] == 5
    assert "How a term is asked for" in schema["properties"]["question"]["description"]
    assert schema["properties"]["lora_rank"]["default"] == 8


@pytest.mark.parametrize(
    ("config", "param"),
    [
        pytest.param({"focus": 9}, "config.focus", id="out of the new key's bounds"),
        pytest.param({"focus": "much"}, "config.focus", id="of another type"),
        pytest.param({"config_key": "base", "focus": 1}, "config.focus", id="a key of another Config"),
        pytest.param({"dataset_key": "glosary"}, "config.dataset_key", id="a typing error"),
    ],
)
def test_what_is_wrong_with_its_keys_is_told_at_once(client: httpx2.Client, config, param) -> None:
    body = {"config": {"model_name_or_path": "local:tiny", "config_key": "glossary", **KEYS, **config}}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert param in [detail["param"] for detail in answer.json()["error"]["details"]]


def test_a_job_runs_on_its_data_with_its_loss_and_hooks(client: httpx2.Client) -> None:
    config = {
        **KEYS,
        **SHORT,
        "config_key": "glossary",
        "model_name_or_path": "local:tiny",
        "apply_lora": True,
        "question": "What is a {term}?",
        "focus": 2.0,
    }
    job = run_job(client, {"config": config}, timeout_seconds=120)
    assert job["status"] == "succeeded", job["error"]
    assert job["config"]["focus"] == 2.0
    assert "learned 20 terms" in " ".join(event["message"] for event in job["events"])
    # The answer to a job can be posted back as it stands.
    again = client.post("/v1/jobs/validate", json={"config": job["config"]})
    assert again.json()["valid"] is True, again.text


@pytest.mark.slow
def test_its_scripts_run_one_after_the_other(installed: Path, model: Path, tmp_path: Path) -> None:
    flags = {
        **KEYS,
        **SHORT,
        "model_name_or_path": model,
        "apply_lora": True,
        "fused_model_local_path": "fused",
        "focus": 2,
        "quantization_max_samples": 8,
    }
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    for step in ("prepare", "train", "fuse", "quantize"):
        command = [sys.executable, "-m", f"glossary.cli.{step}", *arguments]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "outputs" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "fused" / "model.safetensors").is_file()
    assert (tmp_path / "quantized_model" / "config.json").is_file()
