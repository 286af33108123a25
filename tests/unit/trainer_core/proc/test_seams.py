"""The files that worker, pipeline and steps exchange."""

import errno
import json
import math
import threading
from pathlib import Path

import pytest

from trainer_core.attempt.markers import find_done_marker, write_marker
from trainer_core.attempt.outcome import AttemptResult, Failure, read_result, write_result
from trainer_core.attempt.staged_inputs import StagedRecord
from trainer_core.attempt.step_config import build_step_config
from trainer_core.attempt.step_exit import classify_step_exit
from trainer_core.attempt.step_failure import describe_failure
from trainer_core.attempt.step_sources import describe_sources
from trainer_core.context import ArtifactFolder, StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.errors import DataError, NotYetSupportedError
from trainer_core.events import EventRecord, EventWriter
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.launch.base import LaunchRequest
from trainer_core.launch.single import SingleLauncher
from trainer_core.redaction import Redactor
from trainer_core.workspace import Workspace


def make_spec(*steps: str, inputs: StepInputs | None = None, **config) -> JobSpec:
    return JobSpec(
        "job-1", 1, config, tuple(Step(name) for name in steps or ("prepare", "train")), inputs or StepInputs()
    )


def test_a_spec_survives_its_file():
    spec = make_spec("train", "fuse", inputs=StepInputs(adapter="/a"), max_steps=3, note="ä")

    assert JobSpec.from_json(spec.to_json()) == spec


def test_events_of_many_writers_stay_whole_lines(tmp_path):
    path = tmp_path / "events.jsonl"

    def write() -> None:
        with EventWriter(path, step="train") as events:
            for number in range(200):
                events.emit("metrics", data={"n": number, "text": "x" * 200})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    records = [EventRecord.from_line(line) for line in path.read_bytes().splitlines()]
    assert len(records) == 800
    assert all(record.step == "train" and len(record.data["text"]) == 200 for record in records)


def test_a_loss_that_is_no_number_becomes_null():
    line = EventRecord("metrics", 1.0, data={"loss": math.nan, "list": [math.inf, 1.5]}).to_line()

    assert json.loads(line)["data"] == {"loss": None, "list": [None, 1.5]}


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"type": 3}', b'{"type": "me{"type": "metrics"}'])
def test_a_damaged_event_line_is_a_value_error(line):
    with pytest.raises(ValueError, match=r".*"):
        EventRecord.from_line(line)


def test_a_full_disk_is_told_to_who_emits():
    with EventWriter(Path("/dev/full")) as events, pytest.raises(OSError, match="No space left") as caught:
        events.emit("metrics")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "result",
    [AttemptResult("succeeded"), AttemptResult("failed", Failure("x", "y", param="p", step="train", retryable=True))],
)
def test_a_result_survives_its_file(tmp_path, result):
    write_result(tmp_path / "result.json", result)

    assert read_result(tmp_path / "result.json") == result


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"status": "failed", "error": {}}'])
def test_an_unreadable_result_is_none(tmp_path, content):
    (tmp_path / "result.json").write_text(content)

    assert read_result(tmp_path / "result.json") is None


def test_the_command_of_a_single_process():
    command = SingleLauncher().build_command(LaunchRequest(Path("/w"), attempt=2, step=Step.TRAIN))

    assert command.argv[1:] == (
        *("-P", "-m", "trainer_core.step_main", "--workspace", "/w", "--attempt", "2", "--step", "train"),
    )
    with pytest.raises(ValueError, match="2"):
        SingleLauncher().build_command(LaunchRequest(Path("/w"), attempt=2, step=Step.TRAIN, num_processes=2))


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "w")
    workspace.train_data.parent.mkdir(parents=True)
    workspace.train_data.write_text("{}\n")
    return workspace


def mark_prepare(workspace: Workspace, spec: JobSpec) -> None:
    folder = ArtifactFolder("data", workspace.train_data.parent, ("train.jsonl",))
    write_marker(workspace, spec=spec, step=Step.PREPARE, result=StepResult((folder,), {"rows": 1}))


def test_a_marker_holds_while_nothing_changes(workspace):
    spec = make_spec(max_steps=1)
    mark_prepare(workspace, spec)

    marker = find_done_marker(workspace, spec=spec, step=Step.PREPARE)

    assert marker.facts == {"rows": 1}
    assert marker.folders[0].files[0].sha256 == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"


@pytest.mark.parametrize(
    "change",
    [
        lambda workspace: (make_spec(max_steps=2), None),
        lambda workspace: (make_spec(inputs=StepInputs(training_file=str(workspace.train_data)), max_steps=1), None),
        lambda workspace: (make_spec(max_steps=1), workspace.train_data.write_text("{}")),
        lambda workspace: (make_spec(max_steps=1), workspace.train_data.unlink()),
        lambda workspace: (make_spec(max_steps=1), workspace.marker(Step.PREPARE).write_text("{")),
    ],
    ids=["config", "input file", "size", "missing file", "damaged marker"],
)
def test_a_marker_does_not_hold_when_something_changed(workspace, change):
    mark_prepare(workspace, make_spec(max_steps=1))
    spec, _ = change(workspace)

    assert find_done_marker(workspace, spec=spec, step=Step.PREPARE) is None


def test_a_later_marker_does_not_hold_when_an_earlier_step_made_something_else(workspace):
    spec = make_spec(max_steps=1)
    mark_prepare(workspace, spec)
    write_marker(workspace, spec=spec, step=Step.TRAIN, result=StepResult())
    assert find_done_marker(workspace, spec=spec, step=Step.TRAIN) is not None

    workspace.train_data.write_text('{"other": 1}\n')
    mark_prepare(workspace, spec)

    assert find_done_marker(workspace, spec=spec, step=Step.TRAIN) is None


def test_an_artifact_outside_the_workspace_is_refused(workspace, tmp_path):
    outside = ArtifactFolder("data", tmp_path, ())

    with pytest.raises(ValueError, match="subpath"):
        write_marker(workspace, spec=make_spec(), step=Step.PREPARE, result=StepResult((outside,)))


STAGED = StagedRecord(model="/hub/model")


@pytest.mark.parametrize(
    ("inputs", "config", "is_preparing", "expected"),
    [
        (StepInputs(), {}, True, {"eval_local_path_to_data": "{root}/data/eval.jsonl"}),
        (StepInputs(), {"add_eval_to_train_if_no_path": True}, True, {"eval_local_path_to_data": None}),
        (
            StepInputs(validation_file="/v"),
            {"add_eval_to_train_if_no_path": True},
            True,
            {"eval_local_path_to_data": "{root}/data/eval.jsonl"},
        ),
        (StepInputs(), {}, False, {"eval_local_path_to_data": None, "output_dir": "{root}/outputs"}),
        (
            StepInputs(prepared_train="/t", prepared_eval="/e"),
            {},
            False,
            {"train_local_path_to_data": "/t", "eval_local_path_to_data": "/e"},
        ),
        (StepInputs(adapter="/a"), {}, False, {"lora_model_local_path": "/a"}),
        (
            StepInputs(),
            {"model_name_or_path": "owner/name"},
            False,
            {"model_name_or_path": "/hub/model", "fused_model_local_path": "{root}/fused", "path_to_env_file": None},
        ),
    ],
)
def test_a_steps_config_has_the_paths_of_the_workspace(tmp_path, inputs, config, is_preparing, expected):
    built = build_step_config(
        make_spec(inputs=inputs, **config),
        workspace=Workspace(tmp_path),
        staged=STAGED,
        secrets={"huggingface_hub_token": "t"},
        is_preparing=is_preparing,
    )

    assert built.huggingface_hub_token == "t"
    for name, value in expected.items():
        assert getattr(built, name) == (value and value.format(root=tmp_path))


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def raise_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (DataError("bad row", param="x"), "invalid_data", False),
        (raise_from(RuntimeError("wrapped"), NotYetSupportedError("later")), "not_yet_supported", False),
        (OSError(errno.ENOSPC, "full"), "disk_full", False),
        (raise_from(RuntimeError("write failed"), OSError(errno.ENOSPC, "full")), "disk_full", False),
        (ValueError("I/O error: No space left on device (os error 28)"), "disk_full", False),
        (OutOfMemoryError("tried to allocate"), "cuda_out_of_memory", False),
        (RuntimeError("CUDA error: out of memory"), "cuda_out_of_memory", False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device_error", True),
        (MemoryError(), "host_out_of_memory", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "host_out_of_memory", True),
        (ConnectionResetError("gone"), "network", True),
        (KeyError("x"), "internal_error", False),
    ],
)
def test_an_error_becomes_a_code(tmp_path, error, code, retryable):
    failure = describe_failure(error, step=Step.TRAIN, folder=tmp_path)

    assert (failure.code, failure.retryable, failure.step) == (code, retryable, "train")


def test_a_fault_of_our_own_files_is_not_put_down_to_user_code(tmp_path):
    with pytest.raises(AttributeError) as caught:
        Redactor().redact_text(None)
    # Without the frame of this file, which is a user's.
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    assert describe_failure(error, step=Step.TRAIN, folder=tmp_path).code == "internal_error"


FAILURE = Failure("invalid_data", "x", step="train")


@pytest.mark.parametrize(
    ("status", "failure", "was_stopped", "had_oom_kill", "expected"),
    [
        (0, None, True, False, ("succeeded", None)),
        (75, None, True, False, ("interrupted", None)),
        (143, None, True, False, ("interrupted", None)),
        (-15, None, True, False, ("interrupted", None)),
        (1, FAILURE, False, False, ("failed", "invalid_data")),
        (1, FAILURE, True, False, ("failed", "invalid_data")),
        (74, None, False, False, ("failed", "disk_full")),
        (-9, None, False, True, ("failed", "host_out_of_memory")),
        (-9, None, False, False, ("failed", "killed_by_signal")),
        (137, None, False, True, ("failed", "host_out_of_memory")),
        (-11, None, False, True, ("failed", "killed_by_signal")),
        (1, None, False, False, ("failed", "internal_error")),
    ],
)
def test_a_steps_exit_status_is_understood(status, failure, was_stopped, had_oom_kill, expected):
    result = classify_step_exit(
        status, step=Step.TRAIN, failure=failure, was_stopped=was_stopped, had_oom_kill=had_oom_kill
    )

    assert (result.status, result.error and result.error.code) == expected


@pytest.mark.parametrize(
    ("spec", "step", "expected"),
    [
        (make_spec("prepare", inputs=StepInputs(training_file="/t")), "prepare", {"data": "training_file"}),
        (make_spec("train", model_name_or_path="m"), "train", {"data": "input_job", "model": "m"}),
        (make_spec("train", "fuse", model_name_or_path="m"), "fuse", {"adapter": "this job's train", "model": "m"}),
        (make_spec("fuse", lora_hub_model_id="o/a"), "fuse", {"adapter": "o/a", "model": "None"}),
        (
            make_spec("quantize", quantization_dataset_id="file-1", model_name_or_path="m"),
            "quantize",
            {"model": "m", "data": "file-1"},
        ),
    ],
)
def test_the_first_event_names_what_a_step_takes(spec, step, expected):
    assert describe_sources(spec, Step(step)) == expected


def test_a_script_sees_events_in_its_log(caplog):
    context = StepContext.for_script(Step.TRAIN)

    context.events.emit("warning", level="warning", message="beware", data={"a": 1})

    assert "beware" in caplog.text
    assert not context.stop.is_set
