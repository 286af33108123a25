"""One preview on a host: whatever its process does, it ends in a result or an error, and nothing is left behind."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.jobs.views import FileRef
from app.previews.views import PreviewClaim
from app.settings import Settings
from app.storage import Storage
from worker import preview_run
from worker.preview_run import PreviewRenderer, Rendered

TOKEN = "a-very-secret-token"
ROWS = b'{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n'
STUB = """
import json, os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--folder") + 1])
request = json.loads((folder / "preview.json").read_text())
secrets = json.loads(sys.stdin.readline())["secrets"]
"""


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., tuple[PreviewRenderer, PreviewClaim]]:
    """A renderer whose process runs these lines, and a claim on three rows."""
    settings = Settings(data_dir=tmp_path / "data", model_root=tmp_path / "models", plugins="p:r")
    written = Storage(settings.storage_url).write("files/file-1", [ROWS])

    def build_renderer(lines: str, **config: str) -> tuple[PreviewRenderer, PreviewClaim]:
        program = tmp_path / "stub_preview.py"
        program.write_text(STUB + lines)
        renderer = PreviewRenderer(settings, start_folder=tmp_path, entry=(str(program),))
        return renderer, PreviewClaim(
            preview_id="preview-1",
            owner="owner",
            attempt=1,
            config=config,
            secrets={"huggingface_hub_token": TOKEN},
            file=FileRef("file-1", "files/file-1", written.sha256, written.num_bytes),
            num_rows=3,
            num_samples=2,
        )

    yield build_renderer
    assert list((settings.data_dir / "previews").glob("*")) == []


def render(built: tuple[PreviewRenderer, PreviewClaim], check: Callable[[], None] = lambda: None) -> Rendered:
    renderer, claim = built
    return renderer.render(claim, check=check)


def test_the_process_gets_rows_request_and_secrets_and_sees_no_gpu(build, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("FINESMITH_SECRET_KEY", "not-for-plugins")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    lines = """
rows = pathlib.Path(request["rows"]).read_text()
found = {"rows": rows, "request": request, "secrets": secrets, "gpus": os.environ["CUDA_VISIBLE_DEVICES"]}
found |= {"environment": " ".join(os.environ), "arguments": sys.argv, "nice": os.nice(0)}
(folder / "result.json").write_text(json.dumps(found))
"""
    found = render(build(lines, model_name_or_path="local:tiny", dataset_key="chat")).result
    assert found is not None
    assert found["rows"] == ROWS.decode()
    assert found["secrets"] == {"huggingface_hub_token": TOKEN}
    assert TOKEN not in json.dumps([found["request"], found["environment"], found["arguments"]])
    assert "FINESMITH_SECRET_KEY" not in found["environment"]
    assert found["gpus"] == ""
    assert found["nice"] >= 10
    resolved = str((tmp_path / "models" / "tiny").resolve())
    assert found["request"]["config"] == {"model_name_or_path": resolved, "dataset_key": "chat"}
    assert found["request"]["public_names"][resolved] == "local:tiny"
    assert (found["request"]["num_samples"], found["request"]["plugins"]) == (2, "p:r")


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        ("os.kill(os.getpid(), 9)", "preview_failed", "signal 9"),
        ("sys.exit(3)", "preview_failed", "status 3"),
        ("pass", "preview_failed", "status 0"),
        ("(folder / 'result.json').write_text('[1, 2')", "preview_failed", "status 0"),
        ("(folder / 'result.json').write_text('[1, 2]')", "preview_failed", "status 0"),
        (
            "(folder / 'error.json').write_text(json.dumps({'code': 'invalid_data', 'param': 'file', 'message': "
            "f'{folder}/x of {secrets}'})); sys.exit(1)",
            "invalid_data",
            "x of {'huggingface_hub_token': '[redacted]'}",
        ),
    ],
)
def test_whatever_the_process_does_is_an_error_with_a_code(build, lines: str, code: str, message: str) -> None:
    error = render(build(lines)).error
    assert error is not None
    assert error.code == code
    assert message in error.message
    assert "/data/previews" not in error.message


def test_a_process_that_does_not_end_is_killed_with_what_it_started(build, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preview_run, "TIME_LIMIT_SECONDS", 1.0)
    lines = f"""
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
pathlib.Path({str(tmp_path / "pids")!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
time.sleep(600)
"""
    started_at = time.monotonic()
    error = render(build(lines)).error
    assert time.monotonic() - started_at < 10
    assert error is not None
    assert (error.code, error.param) == ("preview_timeout", "n")
    program, child = map(int, (tmp_path / "pids").read_text().split())
    assert not is_alive(program)
    # Nobody waits for the child's end, which the kernel brings about a moment after the signal.
    deadline = time.monotonic() + 5
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_giving_up_kills_the_process(build, tmp_path) -> None:
    lines = f"pathlib.Path({str(tmp_path / 'pids')!r}).write_text(str(os.getpid())); time.sleep(600)"

    def check() -> None:
        if (tmp_path / "pids").exists() and (tmp_path / "pids").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(build(lines), check)
    assert not is_alive(int((tmp_path / "pids").read_text()))


def test_of_a_large_file_only_the_first_whole_lines_are_brought(build, monkeypatch) -> None:
    monkeypatch.setattr(preview_run, "MAX_ROWS_BYTES", 40)
    lines = """
rows = pathlib.Path(request["rows"]).read_text()
(folder / "result.json").write_text(json.dumps({"rows": rows, "num_rows": 2, "num_rows_counted": 2}))
"""
    result = render(build(lines)).result
    assert result == {"rows": '{"text": "one"}\n{"text": "two"}\n', "num_rows": 3, "num_rows_counted": 2}

    monkeypatch.setattr(preview_run, "MAX_ROWS_BYTES", 10)
    error = render(build(lines)).error
    assert error is not None
    assert (error.param, "first row" in error.message) == ("file", True)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"file": FileRef("file-1", "files/gone", "0", 50)}, "file", "no longer in storage"),
        ({"file": FileRef("file-1", "files/file-1", "0", 50)}, "file", "damaged"),
        ({"config": {"model_name_or_path": "local:nope"}}, "model_name_or_path", "'local:nope'"),
        ({"config": {"tokenizer_name_or_path": "local:.."}}, "tokenizer_name_or_path", "'local:..'"),
    ],
)
def test_an_input_that_is_not_there_is_named(build, change: dict[str, object], param: str, message: str) -> None:
    renderer, claim = build("sys.exit(9)")
    error = render((renderer, dataclasses.replace(claim, **change))).error
    assert error is not None
    assert error.param == param
    assert message in error.message


def test_folders_of_killed_workers_are_removed_when_they_are_old(build, tmp_path) -> None:
    renderer, _ = build("")
    old, new = (tmp_path / "data" / "previews" / name for name in ("preview-old.1", "preview-new.1"))
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    renderer.remove_leftovers()
    assert (old.exists(), new.exists()) == (False, True)
    new.rmdir()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
