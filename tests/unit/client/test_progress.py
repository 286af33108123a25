"""What `wait` shows."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from finesmith import Client, Job
from finesmith.progress.bar import BarView
from finesmith.progress.describe import describe_place, describe_training, format_duration
from finesmith.progress.lines import LinesView
from finesmith.wire import decode
from rich.console import Console

from tests.unit.client import examples
from tests.unit.client.fake_service import FakeService, Reply


def job(status: str = "running", **fields: object) -> Job:
    return decode(Job, examples.job(status, **fields))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-3, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (7620, "2h 07m"), (360000, "100h 00m")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_training_is_described_as_far_as_it_is_known() -> None:
    assert describe_training(job()) == "step 12/50  loss 2.5000  1,234 tokens/s  ETA 1m 05s"
    assert describe_training(job(progress={"global_step": 3})) == "step 3"
    assert describe_training(job(progress=None)) == ""
    assert "ETA" not in describe_training(job("succeeded"))


@pytest.mark.parametrize(
    ("status", "step", "text"),
    [("queued", None, "queued"), ("running", "fuse", "running fuse"), ("failed", "fuse", "failed")],
)
def test_the_place_is_status_and_step(status: str, step: str | None, text: str) -> None:
    assert describe_place(job(status, step=step)) == text


def test_lines_tell_what_changed_and_not_every_look() -> None:
    out = io.StringIO()
    view = LinesView(out)
    view.show(job("queued", step=None, progress=None))
    view.show(job("queued", step=None, progress=None))
    view.show(job())
    view.show(job(progress={"global_step": 13}))  # too soon after the last line
    view.show(job("succeeded"))
    lines = [line.split("  ", 1)[1] for line in out.getvalue().splitlines()]
    assert [line.split("  ")[0] for line in lines] == ["queued", "running train", "succeeded"]
    assert lines[1] == "running train  step 12/50  loss 2.5000  1,234 tokens/s  ETA 1m 05s"


def test_the_bar_shows_place_loss_speed_and_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    view = BarView(console)
    view.show(job())
    view.show(job("failed", progress={"loss": 1.25, "global_step": 20, "total_steps": 50}))
    view.close()
    shown = console.file.getvalue()
    for text in (examples.JOB_ID, "loss 1.2500", "step 20/50", "failed"):
        assert text in shown


def test_brackets_in_a_job_s_words_are_not_taken_for_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    view = BarView(console)
    view.show(job(step="[red]x[/nope]"))
    view.close()
    assert "[red]x[/nope]" in console.file.getvalue()


def test_waiting_shows_lines_on_standard_error_where_there_is_no_terminal(
    client: Client, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.on("GET", f"/v1/jobs/{examples.JOB_ID}", Reply(json=examples.job()), Reply(json=examples.job("succeeded")))
    client.jobs.wait(examples.JOB_ID)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split("  ")[1] for line in captured.err.splitlines()] == ["running train", "succeeded"]


SCRIPT = """
import sys
{before}
from finesmith import Client
with Client({url!r}, api_key="k") as client:
    client.jobs.wait({job_id!r})
"""


@pytest.mark.parametrize(
    ("before", "has_bar"),
    [
        ("", True),
        ("sys.modules['rich'] = None", False),  # as if it were not installed
    ],
)
def test_on_a_terminal_there_is_a_bar_if_rich_is_installed(
    service: FakeService, tmp_path: Path, before: str, has_bar: bool
) -> None:
    # A real pseudo-terminal: only that makes a process believe that someone is looking.
    service.on("GET", f"/v1/jobs/{examples.JOB_ID}", Reply(json=examples.job()), Reply(json=examples.job("succeeded")))
    shown = run_on_terminal(SCRIPT.format(before=before, url=service.url, job_id=examples.JOB_ID), tmp_path)
    assert ("━" in shown) == has_bar
    assert "succeeded" in shown


def run_on_terminal(script: str, folder: Path) -> str:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    path = folder / "script.py"
    path.write_text(script)
    child = subprocess.Popen([sys.executable, str(path)], stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while chunk := read_terminal(ours):
        shown += chunk
    os.close(ours)
    assert child.wait() == 0
    return shown.decode()


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""
