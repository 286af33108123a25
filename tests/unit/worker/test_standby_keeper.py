"""When a worker keeps a stand-by, and how much memory it takes for free."""

from pathlib import Path

import pytest

import worker.standby
from app.settings import Settings
from worker.free_memory import read_free_memory_bytes
from worker.standby import StandbyKeeper, remove_left_homes

GIB = 1 << 30
MEMINFO = "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 16777216 kB\n"


@pytest.mark.parametrize(
    ("settings", "free_gib", "starts"),
    [
        ({"standby": "auto"}, 16, True),
        ({"standby": "auto"}, 7, False),
        ({"standby": "on"}, 1, True),
        ({"standby": "off"}, 64, False),
        # Users' code comes before all else.
        ({"standby": "on", "plugins": "my_project:register"}, 64, False),
    ],
)
def test_a_stand_by_is_kept_where_it_is_wanted_and_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], free_gib: int, starts: bool
) -> None:
    started = []
    # Starting one is the integration tests' affair.
    monkeypatch.setattr(StandbyKeeper, "_start", lambda self: started.append(self))
    monkeypatch.setattr(worker.standby, "read_free_memory_bytes", lambda: free_gib * GIB)
    keeper = StandbyKeeper(Settings(data_dir=tmp_path, **settings), start_folder=tmp_path, entry=("-m", "x"))

    keeper.fill()

    assert bool(started) is starts


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        (None, None, 16 * GIB),
        ("max", str(GIB), 16 * GIB),
        (str(4 * GIB), str(GIB), 3 * GIB),
        (str(64 * GIB), str(GIB), 16 * GIB),
        (str(GIB), str(2 * GIB), 0),
    ],
)
def test_free_memory_is_the_hosts_or_the_containers(
    tmp_path: Path, limit: str | None, used: str | None, free: int
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    for name, text in (("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(f"{text}\n")

    assert read_free_memory_bytes(meminfo=tmp_path / "meminfo", cgroup=tmp_path) == free


def test_a_kernel_that_does_not_say_has_no_memory_free(tmp_path: Path) -> None:
    assert read_free_memory_bytes(meminfo=tmp_path / "none", cgroup=tmp_path) == 0


def test_homes_of_processes_that_are_gone_are_removed_and_nothing_else(tmp_path: Path) -> None:
    owners = tmp_path / "owners"
    for name in (".standby-4194999-1", ".standby-1-1", "ann", ".standby-mine"):
        (owners / name / "home").mkdir(parents=True)

    remove_left_homes(Settings(data_dir=tmp_path))

    assert {path.name for path in owners.iterdir()} == {".standby-1-1", "ann", ".standby-mine"}
