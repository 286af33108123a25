"""`finesmith-server healthcheck`: whether a worker of this host is online."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app import cli
from app.jobs.catalogue import built_in_catalogue
from app.jobs.workers import WorkerInfo
from tests.support.installation import CoreInstallation, migrate_sqlite, open_installation


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreInstallation]:
    migrate_sqlite(tmp_path)
    with open_installation(tmp_path) as core:
        yield core


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Result]:
    monkeypatch.setenv("FINESMITH_DATA_DIR", str(tmp_path))
    return lambda: CliRunner().invoke(cli.app, ["healthcheck"])


def register(core: CoreInstallation, worker_id: str, host: str) -> None:
    core.workers.register(WorkerInfo(worker_id, host, gpus=(), slots=1, version="1", catalogue=built_in_catalogue()))


def test_only_a_worker_of_this_host_that_was_heard_of_counts(core: CoreInstallation, check) -> None:
    register(core, "wrk-there", "another-host")
    assert (check().exit_code, check().output) == (1, "online: no worker of this host\n")
    register(core, "wrk-here", socket.gethostname())
    assert (check().exit_code, check().output) == (0, "online: wrk-here\n")
    core.silence_worker("wrk-here")
    assert check().exit_code == 1


def test_a_database_that_is_away_is_no_reason_to_restart_a_worker(check, tmp_path: Path) -> None:
    (tmp_path / "finesmith.db").mkdir()
    result = check()
    assert (result.exit_code, "does not answer" in result.output) == (0, True)
