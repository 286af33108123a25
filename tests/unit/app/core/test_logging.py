"""A line of the log is one line whatever is put into it, and holds no secret."""

import json
import logging
import subprocess
import sys
import threading

import pytest
import structlog

from app.context_thread import ContextThread
from app.log_redaction import hide_secrets, redact_line
from app.log_setup import build_formatter

KEY = "fsk_" + "k" * 40
HUB_TOKEN = "hf_" + "t" * 34
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=="

PROGRAM = """
import logging, sys, threading, warnings
import structlog
from app.log_setup import configure_logging
configure_logging("INFO", facts={"worker_id": "wrk-1"})
hostile = 'a\\nfake: {"level": "critical"}\\r\\u2028\\u0085\\x1b[2J\\x7f\\x00\\ud800'
logging.getLogger("celery").info("name %s", hostile)
structlog.get_logger("finesmith.api").warning("file.refused", filename=hostile, size=3)
structlog.get_logger("finesmith.api").debug("not shown")
try:
    raise ValueError(hostile)
except ValueError:
    logging.getLogger("a").exception("it failed")
warnings.warn(hostile)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise RuntimeError(hostile)
"""


def test_hostile_texts_errors_and_warnings_are_one_json_line_each():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=False)
    assert done.returncode == 1
    assert not any((byte < 32 and byte != 10) or byte >= 127 for byte in done.stderr)
    lines = [json.loads(line) for line in done.stderr.split(b"\n")[:-1]]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "warning", "error", "critical"]
    assert {line["worker_id"] for line in lines} == {"wrk-1"}
    assert [line["logger"] for line in lines[:4]] == ["celery", "finesmith.api", "a", "py.warnings"]
    assert "\x1b[2J" in lines[1]["filename"]
    assert "ZeroDivisionError" in lines[4]["exception"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"the key {KEY} is unknown", "is unknown"),
        (f"token={HUB_TOKEN}&x=1", "x=1"),
        (f"signed with {WEBHOOK_SECRET}", "signed with"),
        (f"Authorization: Bearer {'x' * 20}, next", "next"),
        ("{'authorization': 'Basic dXNlcjpwYXNzd29yZA=='}", "authorization"),
        ("https://user:pa55word@host/path", "host/path"),
        ("postgresql+psycopg://finesmith:pa55word@10.0.0.1:5432/finesmith", "10.0.0.1:5432"),
    ],
)
def test_what_looks_like_a_secret_is_not_in_the_line(text, kept):
    line = redact_line(json.dumps({"event": text}))
    said = json.loads(line)["event"]
    assert kept in said
    assert "[redacted]" in said
    for secret in (KEY, HUB_TOKEN, WEBHOOK_SECRET, "x" * 20, "dXNlcjpw", "pa55word"):
        assert secret not in said


@pytest.mark.parametrize(
    "text", ["basic settings at http://host:80/a", "bearer of news", "the hf_home folder", "a://b"]
)
def test_ordinary_words_stay(text):
    assert redact_line(text) == text


def test_a_secret_field_and_the_secrets_of_the_job_are_left_out():
    formatter = build_formatter([lambda _logger, _method, event: {**event, "Token": "abc"}])
    record = logging.LogRecord("a", logging.INFO, "a.py", 1, 'it said "s3cret\\pw"', (), None)
    with hide_secrets(['"s3cret\\pw"', "a"]):
        said = json.loads(formatter.format(record))
    assert said == {"event": "it said [redacted]", "Token": "[redacted]"}
    assert "s3cret" in json.loads(formatter.format(record))["event"]


def test_a_thread_of_a_job_logs_as_its_starter_does():
    found: list[dict] = []

    def look() -> None:
        found.append(structlog.contextvars.get_contextvars())

    with structlog.contextvars.bound_contextvars(job_id="job-1", attempt=2):
        threads = [ContextThread(target=look), threading.Thread(target=look)]
        for thread in threads:
            thread.start()
            thread.join()
    assert found == [{"job_id": "job-1", "attempt": 2}, {}]
