"""Nothing that a tenant names or that a job's code writes leads out of the folder that it is for."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.settings import Settings
from app.storage import Storage
from trainer_core.attempt.markers import DoneMarker, MarkedFile, MarkedFolder, read_marker
from trainer_core.attempt.outcome import read_result
from trainer_core.beneath import NotBeneath, list_files_beneath, open_beneath, read_beneath
from trainer_core.checkpoints import MARKER, read_completion
from trainer_core.enums import Step
from trainer_core.errors import StepInputError
from trainer_core.events import EventRecord
from trainer_core.workspace import Workspace
from worker.file_tail import FileTail
from worker.publisher_thread import PublisherThread
from worker.publishing import ArtifactDamaged, Publisher
from worker.staging import resolve_local_names
from worker.workspaces import make_workspace

BAD_PATHS = [
    ("../secret", "climbs"),
    ("a/../../secret", "climbs in the middle"),
    ("/etc/passwd", "absolute"),
    ("", "empty"),
    (".", "the folder itself"),
    ("..", "its parent"),
    ("a\0b", "NUL"),
    ("..\\secret", "a backslash"),
]
BAD_NAMES = [
    "../models/tiny",
    "..",
    ".",
    "",
    "/etc",
    "a/b",
    "tiny/../tiny",
    "a\0b",
    "..\u2215etc",
    "tiny\u202e",
    "TINY",
]


class Services:
    """What a Publisher needs, with a storage in a folder and a job of which nothing is published."""

    def __init__(self, folder: Path) -> None:
        self.jobs = SimpleNamespace(list_artifacts=lambda owner, job_id: [])
        self.settings = Settings(data_dir=folder)
        self.storage = Storage(self.settings.storage_url)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = make_workspace(Settings(data_dir=tmp_path), job_id="job-1", attempt=1)
    (tmp_path / "secret").write_text('{"status": "succeeded", "error": null}')
    return workspace


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(tmp_path)


def write_marker(workspace: Workspace, *, name: str = "data", root: str = "data", path: str = "train.jsonl") -> None:
    marker = DoneMarker(Step.PREPARE, "hash", (MarkedFolder(name, root, (MarkedFile(path, 38, "0" * 64),)),))
    workspace.marker(Step.PREPARE).parent.mkdir(parents=True, exist_ok=True)
    workspace.marker(Step.PREPARE).write_text(marker.to_json())


def publish(workspace: Workspace, services: Services) -> None:
    Publisher(workspace, services=services, job_id="job-1", owner="ann", attempt=1).publish_step(Step.PREPARE)


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS, ids=[reason for _, reason in BAD_PATHS])
def test_a_marker_that_names_a_path_outside_counts_as_none(
    workspace: Workspace, services: Services, path: str, reason: str
) -> None:
    for fields in ({"path": path}, {"root": path}, {"name": path}):
        write_marker(workspace, **fields)
        assert read_marker(workspace, Step.PREPARE) is None
        publish(workspace, services)
    assert services.storage.list("jobs") == []


@pytest.mark.parametrize("kind", ["file", "folder", "pipe", "hidden behind a folder"])
def test_what_is_no_regular_file_of_the_workspace_is_never_published(
    workspace: Workspace, services: Services, tmp_path: Path, kind: str
) -> None:
    data = workspace.root / "data"
    write_marker(workspace)
    if kind == "folder":
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "train.jsonl").write_bytes((tmp_path / "secret").read_bytes())
        data.symlink_to(outside)
    else:
        data.mkdir()
        if kind == "file":
            (data / "train.jsonl").symlink_to(tmp_path / "secret")
        elif kind == "pipe":
            os.mkfifo(data / "train.jsonl")
        else:
            (data / "train.jsonl").mkdir()

    with pytest.raises(ArtifactDamaged, match="not published"):
        publish(workspace, services)

    assert services.storage.list("jobs") == []


def test_a_link_in_a_checkpoint_is_neither_published_nor_followed(
    workspace: Workspace, services: Services, tmp_path: Path
) -> None:
    folder = workspace.outputs / "checkpoint-1"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1234")
    (folder / "stolen").symlink_to(tmp_path / "secret")
    (folder / "away").symlink_to(tmp_path)
    (folder / MARKER).write_text(json.dumps({"saved_at": 1.0, "files": {"weights": 4}}))

    Publisher(workspace, services=services, job_id="job-1", owner="ann", attempt=1).publish_checkpoint(folder)

    keys = services.storage.list("jobs")
    assert [key.rpartition("checkpoint-1/")[2] for key in keys if "checkpoint-1/" in key] == [MARKER, "weights"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_a_checkpoint_that_lists_files_outside_is_not_whole(workspace: Workspace, name: str) -> None:
    folder = workspace.outputs / "checkpoint-1"
    folder.mkdir(parents=True)
    (folder / MARKER).write_text(json.dumps({"saved_at": 1.0, "files": {name: 4}}))
    assert read_completion(folder) is None


@pytest.mark.parametrize(
    "path",
    [
        "../../outputs/checkpoint-1",
        "outputs/../../job-2/outputs/checkpoint-1",
        "/etc",
        "outputs",
        "",
        ".",
        None,
        5,
        "a\0b",
    ],
)
def test_an_event_that_names_another_folder_than_a_checkpoint_publishes_nothing(workspace: Workspace, path) -> None:
    publisher = PublisherThread(None, workspace=workspace, keeper=None)
    publisher.follow(EventRecord(type="checkpoint.saved", created_at=0.0, step="train", data={"path": path}))
    assert publisher._work.empty()


def test_what_the_worker_reads_in_a_workspace_is_read_over_no_link(workspace: Workspace, tmp_path: Path) -> None:
    attempt = workspace.attempt(1)
    attempt.result.symlink_to(tmp_path / "secret")
    attempt.events.symlink_to(tmp_path / "secret")
    assert read_result(attempt.result) is None
    assert FileTail(attempt.events, root=workspace.root).read_lines(is_final=True) == []
    os.mkfifo(attempt.output)
    assert FileTail(attempt.output, root=workspace.root).read_lines(is_final=True) == []


def test_links_of_an_earlier_attempt_are_gone_before_the_worker_writes(workspace: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (workspace.root / "inputs").symlink_to(outside)
    (workspace.root / "attempts" / "2").symlink_to(outside)
    (workspace.root / "attempts" / "1" / "loop").symlink_to(".")

    again = make_workspace(Settings(data_dir=tmp_path), job_id="job-1", attempt=2)

    assert again.attempt_dir(2).is_dir()
    assert [path for path in again.root.rglob("*") if path.is_symlink()] == []
    assert [path.name for path in outside.iterdir()] == ["kept"]


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS, ids=[reason for _, reason in BAD_PATHS])
def test_a_path_is_opened_beneath_its_folder_or_not_at_all(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root" / "a").mkdir(parents=True)
    with pytest.raises(NotBeneath), open_beneath(tmp_path / "root", path):
        pass


def test_a_file_beneath_is_read_up_to_a_size_and_listed_without_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "file")
    assert read_beneath(tmp_path, "a/file") == b"12345"
    assert list_files_beneath(tmp_path) == ["a/file"]
    with pytest.raises(NotBeneath, match="larger than 4 bytes"):
        read_beneath(tmp_path, "a/file", max_bytes=4)
    with pytest.raises(NotBeneath):
        read_beneath(tmp_path, "link")
    with pytest.raises(FileNotFoundError):
        read_beneath(tmp_path, "nowhere")


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("field", ["model_name_or_path", "tokenizer_name_or_path", "deepspeed_config_path"])
def test_a_local_name_is_a_folder_directly_below_the_root_or_an_error(tmp_path: Path, name: str, field: str) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    settings = Settings(data_dir=tmp_path / "data", model_root=tmp_path / "models", config_root=tmp_path / "models")
    with pytest.raises((StepInputError, ValueError)):
        resolve_local_names({field: f"local:{name}"}, settings)
