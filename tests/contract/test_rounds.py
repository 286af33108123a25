"""After an outage nobody loses a job before they could renew its lease, whichever copy of the reconciler looks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.states import JobStatus
from tests.support.fake_clock import FakeClock, fake_database_clock
from tests.support.installation import OWNER, CoreInstallation, open_installation

LEASE_SECONDS = 60.0


@pytest.fixture
def clock(database_url: str) -> Iterator[FakeClock]:
    with fake_database_clock(database_url) as clock:
        yield clock


@pytest.fixture
def timed(database_url: str, clock: FakeClock, tmp_path: Path) -> Iterator[CoreInstallation]:
    with open_installation(tmp_path / "timed", database_url=database_url, lease_seconds=LEASE_SECONDS) as core:
        yield core


def pass_seconds(core: CoreInstallation, clock: FakeClock, seconds: int) -> list[str]:
    """Time goes on with a round a second; returns the jobs that were taken back."""
    taken = []
    for _ in range(seconds):
        clock.advance(1)
        taken += core.jobs.reclaim_expired()
    return taken


def test_a_dead_workers_job_is_taken_back_when_its_lease_is_over(timed: CoreInstallation, clock: FakeClock) -> None:
    timed.add_worker()
    claim = timed.claim_new()
    assert pass_seconds(timed, clock, 60) == []
    assert pass_seconds(timed, clock, 1) == [claim.job_id]


@pytest.mark.parametrize("away_seconds", [20, 61, 180, 100_000])
def test_after_an_outage_there_is_a_leases_time_to_renew(
    timed: CoreInstallation, clock: FakeClock, away_seconds: int
) -> None:
    timed.add_worker()
    alive, dead = timed.claim_new(), timed.submit()
    timed.add_worker("wrk-2")
    timed.jobs.dispatch_ready()
    assert timed.jobs.claim(dead.id, "wrk-2") is not None
    pass_seconds(timed, clock, 2)

    clock.advance(away_seconds)
    assert pass_seconds(timed, clock, 59) == []
    timed.jobs.renew(alive.job_id, 1)
    assert pass_seconds(timed, clock, 2) == [dead.id]
    assert timed.jobs.get(OWNER, alive.job_id).status == JobStatus.RUNNING


def test_a_copy_that_starts_after_the_outage_knows_of_it(
    timed: CoreInstallation, clock: FakeClock, tmp_path: Path
) -> None:
    timed.add_worker()
    claim = timed.claim_new()
    timed.jobs.reclaim_expired()
    clock.advance(120)
    with open_installation(
        tmp_path / "copy", database_url=timed.settings.database_url, lease_seconds=LEASE_SECONDS
    ) as copy:
        assert copy.jobs.reclaim_expired() == []
        assert timed.jobs.reclaim_expired() == []
    timed.jobs.renew(claim.job_id, 1)
    assert pass_seconds(timed, clock, 60) == []


def test_a_short_absence_of_all_reconcilers_delays_nothing(timed: CoreInstallation, clock: FakeClock) -> None:
    timed.add_worker()
    claim = timed.claim_new()
    pass_seconds(timed, clock, 50)
    clock.advance(14)
    assert timed.jobs.reclaim_expired() == [claim.job_id]
