"""Two processes on one SQLite file: the database's lock, not this process's, keeps them apart."""

import subprocess
import sys

from app.states import JobStatus
from tests.support.installation import OWNER, CoreInstallation

SUBMITTER = """
import sys
from pathlib import Path
from tests.support.installation import open_installation

with open_installation(Path(sys.argv[1])) as core:
    for _ in range(20):
        core.submit()
    for job in core.jobs.list("ann", after=None, limit=100).data:
        core.jobs.claim(job.id, "wrk-1")
"""


def test_two_processes_lose_and_double_nothing(core: CoreInstallation) -> None:
    core.add_worker(slots=10)
    command = [sys.executable, "-c", SUBMITTER, str(core.settings.data_dir)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    jobs = core.jobs.list(OWNER, after=None, limit=100).data
    assert len(jobs) == 40
    running = [job for job in jobs if job.status == JobStatus.RUNNING]
    assert 0 < len(running) <= 10
    for job in jobs:
        events = core.jobs.list_events(OWNER, job.id, after_seq=0, limit=10).data
        assert [event.type for event in events] == ["job.queued", "job.running"][: 1 + job.attempt]
