"""Jobs that run as a user of their own, with the real worker: what that user reaches, and what it does not."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from app.states import JobStatus
from tests.integration.worker.conftest import OWNER, REPOSITORY, Installation

USER = 64123
"""A uid without an entry anywhere."""
PYTHON = "/usr/bin/python3"
SITE = sysconfig.get_path("purelib")


def can_run() -> bool:
    if os.geteuid() != 0 or not Path(PYTHON).exists():
        return False
    argv = ["/usr/bin/setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", PYTHON, "-c", "import pydantic"]
    env = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{SITE}"}
    return subprocess.run(argv, capture_output=True, check=False, env=env).returncode == 0


pytestmark = pytest.mark.skipif(not can_run(), reason="needs root, and an interpreter that every user may run")


def try_as_user(*argv: str) -> str:
    command = ["/usr/bin/setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "may" if done.returncode == 0 else done.stderr


def start_worker(installation: Installation, *, parent_mode: int = 0o711, **variables: str):
    installation.settings.data_dir.parent.chmod(parent_mode)
    paths = f"{REPOSITORY}{os.pathsep}{SITE}"
    program = Path(__file__).with_name("stub_user_worker.py")
    return installation.start_worker(
        program=str(program), variables={"FINESMITH_TRAINER_USER": str(USER), "PYTHONPATH": paths, **variables}
    )


def test_a_job_runs_as_its_user_reaches_its_own_folders_only_and_is_killed_with_all_below_it(
    installation, alive, until
) -> None:
    start_worker(installation)
    data_dir = installation.settings.data_dir
    installation.storage.write("files/secret", [b"rows"])
    (data_dir / "secret_key").write_text("key")
    job_id = installation.submit({"train": {"ignore_signals": 600}})
    pid = installation.wait_asleep(job_id)

    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(USER)] * 4
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == 0
    workspace, owner = installation.workspace(job_id), data_dir / "owners" / OWNER
    for folder in (workspace, owner, owner / "home"):
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (USER, 0o700), folder
    assert try_as_user("/bin/ls", str(workspace)) == "may"
    for path in (data_dir, data_dir / "owners", data_dir / "storage", data_dir / "secret_key"):
        assert "Permission denied" in try_as_user("/bin/ls" if path.is_dir() else "/bin/cat", str(path)), path
    assert "Permission denied" in try_as_user("/bin/cat", str(data_dir / "finesmith.db"))
    assert "Permission denied" in try_as_user("/bin/cat", str(data_dir / "storage" / "files" / "secret"))

    installation.jobs.cancel(OWNER, job_id)
    assert installation.wait(job_id).status is JobStatus.CANCELLED
    until(lambda: not alive(pid))
    assert not workspace.exists()


def test_what_such_a_job_makes_is_published_as_copies_of_the_workers_own(installation) -> None:
    start_worker(installation)
    job_id = installation.submit({"train": {"lines": 2, "checkpoint": 5}})
    job = installation.wait(job_id)
    assert job.status is JobStatus.SUCCEEDED, installation.log(job_id)
    for artifact in installation.jobs.list_artifacts(OWNER, job_id):
        with installation.storage.open(artifact.storage_key) as file:
            assert len(file.read()) == artifact.num_bytes
    stored = [path for path in (installation.settings.data_dir / "storage").rglob("*") if path.is_file()]
    # Copies of the worker's own: a hard link would stay the job's to change.
    assert {path.stat().st_uid for path in stored} == {0}


@pytest.mark.parametrize(
    ("user", "words"),
    [("no-such-user", "this host has no user"), ("0", "root is no user for jobs"), ("64123:0", "root is no user")],
)
def test_a_user_that_cannot_be_ends_the_worker_with_a_reason(installation, user: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        start_worker(installation, FINESMITH_TRAINER_USER=user)


def test_a_data_folder_that_the_user_cannot_reach_ends_the_worker_with_a_reason(installation) -> None:
    with pytest.raises(AssertionError, match="that user must be able to"):
        start_worker(installation, parent_mode=0o700)
