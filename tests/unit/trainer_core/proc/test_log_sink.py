"""What a step prints reaches its file as whole lines without secrets, and never more than the file may hold."""

import os
from pathlib import Path

import pytest

from trainer_core.attempt.log_sink import LogSink
from trainer_core.attempt.public_names import build_redactor
from trainer_core.attempt.staged_inputs import StagedRecord, write_staged_record
from trainer_core.enums import Step
from trainer_core.job_spec import JobSpec
from trainer_core.redaction import Redactor
from trainer_core.workspace import Workspace


def write_all(path: Path, chunks: list[bytes], **options) -> bytes:
    with LogSink(path, **options) as sink:
        for chunk in chunks:
            sink.feed(chunk)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"one\ntwo\n"], b"one\ntwo\n"),
        ([b"on", b"e\ntw", b"o"], b"one\ntwo\n"),
        ([b"10%\r50%\r100%\n"], b"100%\n"),
        ([b"windows\r\n"], b"windows\n"),
        ([b"\n\n"], b"\n\n"),
        ([b"\xff\xfe\n"], b"\xff\xfe\n"),
    ],
    ids=["lines", "pieces", "progress bar", "carriage return", "empty lines", "no text"],
)
def test_output_becomes_lines(tmp_path, chunks, expected):
    assert write_all(tmp_path / "log", chunks) == expected


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_secret_is_removed_wherever_the_pieces_are_cut(tmp_path, size):
    text = b"the token is swordfish-123 and no more\n" * 3
    chunks = [text[start : start + size] for start in range(0, len(text), size)]

    content = write_all(tmp_path / "log", chunks, redactor=Redactor(("swordfish-123",)))

    assert content == b"the token is [redacted] and no more\n" * 3


def test_a_line_without_end_is_cut_but_never_within_a_secret(tmp_path):
    secret = "s" * 50
    text = (b"x" * 97 + secret.encode()) * 40

    content = write_all(
        tmp_path / "log",
        [text[i : i + 13] for i in range(0, len(text), 13)],
        redactor=Redactor((secret,)),
        max_line_bytes=500,
    )

    assert b"ss" not in content
    assert content.replace(b"\n", b"").count(b"[redacted]") == 40


def test_output_beyond_the_limit_is_dropped_and_counted(tmp_path):
    content = write_all(tmp_path / "log", [b"123456789\n"] * 10, max_file_bytes=50)

    assert content == b"123456789\n" * 5 + b"[50 bytes of output were dropped here]\n"


def test_a_full_disk_drops_output_and_stops_nobody():
    with LogSink(Path("/dev/full")) as sink:
        sink.feed(b"lost\n")
        assert sink.num_dropped_bytes == 5


def test_drain_reads_until_the_writer_is_gone(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"a line\nand a rest")
    os.close(writer)

    with LogSink(tmp_path / "log") as sink:
        sink.drain(reader)
    os.close(reader)

    assert (tmp_path / "log").read_bytes() == b"a line\nand a rest\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf_" + "a" * 34, "[redacted]"),
        ("hf_short", "hf_short"),
        ("a long secret and a longer secret", "a long secret and a longer secret"),
        ("key=k1", "key=[redacted]"),
    ],
)
def test_known_tokens_and_given_secrets_are_removed(text, expected):
    assert Redactor(("k1", "")).redact_text(text) == expected


def test_paths_of_the_host_leave_it_by_their_public_names(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "job-1")
    spec = JobSpec(
        job_id="job-1", attempt=1, config={}, steps=(Step.TRAIN,), public_names={"/models/base": "local:base"}
    )
    redactor = build_redactor(spec, workspace=workspace, secrets={"huggingface_hub_token": "canary"})
    told = redactor.redact_text(f"canary: fused {workspace.root}/outputs into /models/base in {workspace.root}")
    assert told == "[redacted]: fused outputs into local:base in workspace"


def test_folders_fetched_from_a_hub_are_told_by_their_repositories(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "job-1")
    workspace.root.mkdir()
    base, adapter = tmp_path / "hub" / "base", tmp_path / "hub" / "adapter"
    for folder in (base, adapter):
        folder.mkdir(parents=True)
    write_staged_record(workspace, StagedRecord(model=str(base), tokenizer=str(base), adapter=str(adapter)))
    config = {"model_name_or_path": "me/base", "tokenizer_name_or_path": None, "lora_hub_model_id": "me/adapter"}
    spec = JobSpec(job_id="job-1", attempt=1, config=config, steps=(Step.FUSE,))
    redactor = build_redactor(spec, workspace=workspace, secrets={})
    assert redactor.redact_text(f"{adapter}/x does not fit {base}") == "me/adapter/x does not fit me/base"
