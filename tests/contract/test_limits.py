"""How many jobs of one project may wait and run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import insert

from app.db.models import projects
from app.db.session import transaction
from app.jobs.commands import Outcome
from app.jobs.errors import TooManyJobs
from tests.support.installation import OWNER, CoreInstallation, open_installation


@pytest.fixture
def limited(database_url: str, tmp_path: Path) -> Iterator[CoreInstallation]:
    with open_installation(
        tmp_path / "limited", database_url=database_url, max_queued_jobs=3, max_running_jobs=2
    ) as core:
        yield core


def add_project(core: CoreInstallation, owner: str, **limits: int) -> None:
    with transaction(core.sessions) as connection:
        connection.execute(insert(projects).values(id=owner, name=owner, created_at=1.0, **limits))


def test_no_more_wait_than_may_and_paused_ones_wait_too(limited: CoreInstallation) -> None:
    waiting = [limited.submit() for _ in range(3)]
    limited.jobs.pause(OWNER, waiting[0].id)
    with pytest.raises(TooManyJobs, match="3 jobs of this project"):
        limited.submit()
    limited.submit(owner="bob")
    limited.jobs.cancel(OWNER, waiting[0].id)
    limited.submit()
    with pytest.raises(TooManyJobs):
        limited.jobs.retry(OWNER, waiting[0].id)


def test_a_projects_own_limits_win(limited: CoreInstallation) -> None:
    add_project(limited, OWNER, max_queued_jobs=1, max_running_jobs=0)
    add_project(limited, "bob", max_queued_jobs=5, max_running_jobs=3)
    limited.add_worker(slots=8)
    limited.submit()
    with pytest.raises(TooManyJobs):
        limited.submit()
    jobs = [limited.submit(owner="bob") for _ in range(5)]
    sent = {assignment.job_id for assignment in limited.jobs.dispatch_ready()}
    assert sent <= {job.id for job in jobs}
    assert sum(limited.jobs.claim(job.id, "wrk-1") is not None for job in jobs) == 3


def test_no_more_run_than_may_and_the_next_follows_at_once(limited: CoreInstallation) -> None:
    limited.add_worker(slots=8)
    jobs = [limited.submit(priority=9) for _ in range(3)]
    other = limited.submit(owner="bob")
    limited.jobs.dispatch_ready()
    claims = [limited.jobs.claim(job.id, "wrk-1") for job in jobs]
    assert [claim is not None for claim in claims] == [True, True, False]
    assert limited.jobs.claim(other.id, "wrk-1") is not None

    limited.jobs.finish(jobs[0].id, 1, Outcome("succeeded"))
    limited.jobs.dispatch_ready()
    assert limited.jobs.claim(jobs[2].id, "wrk-1") is not None


def test_a_heap_of_jobs_over_the_limit_hides_nobody_elses(limited: CoreInstallation) -> None:
    add_project(limited, "heap", max_queued_jobs=1000, max_running_jobs=0)
    for _ in range(150):
        limited.submit(owner="heap", priority=50)
    limited.add_worker()
    other = limited.submit()
    assert [assignment.job_id for assignment in limited.jobs.dispatch_ready()] == [other.id]


def test_submissions_at_the_same_time_do_not_pass_the_limit_together(limited: CoreInstallation) -> None:
    def submit(_: int) -> bool:
        try:
            limited.submit()
        except TooManyJobs:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(submit, range(24))) == 3
