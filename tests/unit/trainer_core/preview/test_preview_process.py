"""The process that the service starts for a preview, and the command line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hub import FakeHub
from tests.support.tiny_models import build_tiny_llama, build_tiny_tokenizer
from trainer_core.__main__ import main
from trainer_core.errors import TrainerError
from trainer_core.preview_main import PreviewRequest, render_request
from trainer_core.redaction import Redactor

ROW = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there"}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


@contextmanager
def start(folder: Path, request: dict[str, Any], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    (folder / "preview.json").write_text(json.dumps(request))
    with (folder / "output.log").open("wb") as output:
        command = [sys.executable, "-P", "-m", "trainer_core.preview_main", "--folder", str(folder)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        )
        with process:
            yield process


def run(folder: Path, request: dict[str, Any], *, secrets: dict[str, str] | None = None, **environment: str) -> int:
    with start(folder, request, **environment) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"secrets": secrets or {}}).encode() + b"\n")
        process.stdin.flush()
        # Stdin stays open, as the service holds it: the process ends by itself.
        return process.wait(timeout=120)


def test_only_the_tokenizer_is_fetched_from_the_hub_and_secrets_do_not_show(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    folder = tmp_path / "preview"
    with FakeHub() as hub:
        hub.add_commit("tiny/llama", model, token="canary-token-123")
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
        request = {"config": {"model_name_or_path": "tiny/llama"}, "rows": str(rows)}
        code = run(folder, request, secrets={"huggingface_hub_token": "canary-token-123"}, **environment)
        assert code == 0, (folder / "error.json").read_text()
        assert run(tmp_path / "anonymous", request, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "other")) == 1
    assert any(path.endswith("tokenizer.json") for path in hub.downloads)
    assert not any(path.endswith(".safetensors") for path in hub.downloads)
    result = json.loads((folder / "result.json").read_text())
    assert "".join(token["text"] for token in result["samples"][0]["tokens"]) == result["samples"][0]["text"]
    assert "canary" not in json.dumps(result)
    assert not (folder / "error.json").exists()
    error = json.loads((tmp_path / "anonymous" / "error.json").read_text())
    assert set(error) == {"code", "message", "param"}
    assert (error["code"], error["param"]) == ("model_not_loadable", "model_name_or_path")
    assert not (tmp_path / "anonymous" / "result.json").exists()


def test_a_model_from_the_hub_is_told_by_its_name_and_not_by_its_folder(tmp_path: Path, rows: Path) -> None:
    folder = build_tiny_llama(tmp_path / "model", tokenizer=build_tiny_tokenizer(chat_template=None))
    with FakeHub() as hub:
        hub.add_commit("tiny/plain", folder)
        request = {"config": {"model_name_or_path": "tiny/plain"}, "rows": str(rows)}
        assert run(tmp_path / "preview", request, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "cache")) == 1
    error = json.loads((tmp_path / "preview" / "error.json").read_text())
    assert "the tokenizer 'tiny/plain' has no chat template" in error["message"]


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"config": {"max_length": 0}}, "invalid_config", "max_length"),
        ({"config": {"collator_key": "chta"}}, "unknown_key", "'chat'"),
        ({"config": {"config_key": "bse"}}, "unknown_key", "'base'"),
        ({"config": {"chat_template": "{{ x"}}, "model_not_loadable", "chat_template: line 1"),
        ({"num_samples": 101}, "missing_input", "num_samples must be 0 to 100"),
        ({"rows": "/nowhere/rows.jsonl"}, "missing_input", "there is no file"),
    ],
)
def test_a_wrong_request_is_an_error_that_names_what_is_wrong(
    model: Path, rows: Path, fields: dict[str, Any], code: str, words: str
) -> None:
    config = {"model_name_or_path": str(model), **fields.get("config", {})}
    request = PreviewRequest(**{"rows": str(rows), **fields, "config": config})
    with pytest.raises(TrainerError, match=re.escape(words)) as caught:
        render_request(request, secrets={}, redactor=Redactor())
    assert caught.value.code == code


def test_a_request_that_cannot_be_read_is_written_down_with_public_names(tmp_path: Path, rows: Path) -> None:
    request = {"config": {"model_name_or_path": "/nowhere/model"}, "rows": str(rows)}
    folder = tmp_path / "preview"
    assert run(folder, {**request, "public_names": {"/nowhere/model": "local:mine"}}) == 1
    error = json.loads((folder / "error.json").read_text())
    assert error["param"] == "model_name_or_path"
    assert "'local:mine'" in error["message"]
    assert "/nowhere" not in error["message"]


def test_the_process_ends_with_whoever_waits_for_it(tmp_path: Path, model: Path, rows: Path) -> None:
    request = {"config": {"model_name_or_path": str(model)}, "rows": str(rows)}
    with start(tmp_path / "preview", request) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"secrets": {}}\n')
        process.stdin.close()
        assert process.wait(timeout=120) != 0
    assert not (tmp_path / "preview" / "result.json").exists()


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; answers its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["trainer_core"])

    def run_command(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(str(end.code))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def test_the_command_line_prints_a_preview(call: Any, model: Path, rows: Path) -> None:
    arguments = ["preview", "--file", str(rows), "--num_samples", "1", "--model_name_or_path", str(model)]
    status, page, _ = call(*arguments, "--max_length", "64")
    assert status == 0
    assert "⟦Hi there<|im_end|>⟧" in page
    assert "\x1b" not in page

    status, answer, _ = call(*arguments, "--json")
    assert json.loads(answer)["num_target_tokens"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preview"], "--file: name a JSON Lines file"),
        (["preview", "--file", "rows.jsonl", "--num_samples", "many"], "--num_samples: 'many' is not a number"),
        (["preview", "--file", "rows.jsonl", "--collator_kee", "lm"], "did you mean 'collator_key'"),
        (["prevew"], "did you mean 'preview'"),
    ],
)
def test_wrong_flags_end_in_one_line(call: Any, arguments: list[str], message: str) -> None:
    status, _, errors = call(*arguments)
    assert status == 2
    assert message in errors
