"""The example of the guide, run as printed against everything that `finesmith-server up` starts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny_models import build_tiny_llama

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A running service with one local model; yields what a user puts into the environment."""
    build_tiny_llama(tmp_path / "models" / "tiny", max_position_embeddings=2048)
    names = {"FINESMITH_DATA_DIR": str(tmp_path / "data"), "FINESMITH_MODEL_ROOT": str(tmp_path / "models")}
    argv = [sys.executable, "-m", "app.cli", "up", "--port", "0"]
    service = subprocess.Popen(argv, env={**os.environ, **names}, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in service.stderr if "ready" in line)
        key = (tmp_path / "data" / "api_key").read_text()
        yield {"FINESMITH_BASE_URL": line.split("ready: ")[1].split()[0], "FINESMITH_API_KEY": key}
    finally:
        service.terminate()
        service.communicate(timeout=30)


@pytest.mark.slow
def test_the_quickstart_leaves_a_tuned_model(embedded: dict[str, str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    dialogues = (REPOSITORY / "examples/data/dialogues.jsonl").read_text().splitlines()
    rows.write_text("\n".join(dialogues[:24]))
    argv = [sys.executable, "examples/sdk_quickstart.py", "local:tiny", str(rows), str(tmp_path / "my-model")]
    result = subprocess.run(
        argv, env={**os.environ, **embedded}, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "uploaded rows.jsonl: file-" in result.stdout
    assert "24 samples" in result.stdout
    names = {path.name for path in (tmp_path / "my-model" / "fused").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "running train" in result.stderr
