"""Only whole folders count, and the newest of them is found."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer_core.checkpoints import (
    MARKER,
    list_complete,
    mark_complete,
    newest_complete_adapter,
    newest_complete_checkpoint,
    read_completion,
    remove_incomplete_checkpoints,
    remove_old_checkpoints,
)


def write_checkpoint(output_dir: Path, step: int) -> Path:
    folder = output_dir / f"checkpoint-{step}"
    (folder / "global_step1").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "global_step1" / "optimizer.pt").write_bytes(b"x" * 100)
    return folder


def test_a_marked_folder_is_complete(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 5)
    assert read_completion(folder) is None
    mark_complete(folder)
    completion = read_completion(folder)
    assert completion is not None
    assert completion.global_step == 5
    assert json.loads((folder / MARKER).read_text())["files"]["global_step1/optimizer.pt"] == 100


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "adapter_config.json").unlink(),
        lambda folder: (folder / "global_step1" / "optimizer.pt").write_bytes(b"x" * 99),
        lambda folder: (folder / MARKER).unlink(),
        lambda folder: (folder / MARKER).write_text("{"),
        lambda folder: (folder / MARKER).write_text("[]"),
        lambda folder: (folder / MARKER).write_text('{"saved_at": 1, "files": {}}'),
    ],
    ids=["a file is missing", "a file is shorter", "no marker", "half a marker", "no object", "a marker of nothing"],
)
def test_a_damaged_folder_is_not(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    mark_complete(write_checkpoint(tmp_path, 5))
    damaged = write_checkpoint(tmp_path, 10)
    mark_complete(damaged)
    damage(damaged)
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert remove_incomplete_checkpoints(tmp_path) == [damaged]
    assert not damaged.exists()


def test_the_newest_is_the_one_saved_last_even_when_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock of another host, an hour behind, cannot be had otherwise.
    mark_complete(write_checkpoint(tmp_path, 90))
    monkeypatch.setattr("time.time", lambda: 1000.0)
    mark_complete(write_checkpoint(tmp_path, 10))
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_old_checkpoints_go_and_incomplete_ones_are_not_counted(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        mark_complete(write_checkpoint(tmp_path, step))
    write_checkpoint(tmp_path, 4)
    remove_old_checkpoints(tmp_path, num_kept=0)
    assert len(list_complete(tmp_path)) == 3
    remove_old_checkpoints(tmp_path, num_kept=2)
    assert [each.global_step for each in list_complete(tmp_path)] == [2, 3]
    assert (tmp_path / "checkpoint-4").exists()


def test_the_final_adapter_is_newer_than_the_checkpoints_beside_it(tmp_path: Path) -> None:
    mark_complete(write_checkpoint(tmp_path, 7))
    assert newest_complete_adapter(tmp_path) == tmp_path / "checkpoint-7"
    (tmp_path / "adapter_config.json").write_text("{}")
    mark_complete(tmp_path, with_subfolders=False)
    assert newest_complete_adapter(tmp_path) == tmp_path
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-7"
    assert newest_complete_adapter(tmp_path / "nowhere") is None
