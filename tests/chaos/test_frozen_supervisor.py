"""A supervisor that is frozen longer than a lease: its job goes on elsewhere, and what it left may harm nobody."""

import os
import signal

import pytest

from tests.chaos.oracle import judge_job, read_job
from tests.chaos.plant import PlantOptions, run_plant, wait_until
from tests.chaos.processes import take_census
from tests.chaos.work import read_acts, submit, wait_ended, wait_training
from trainer_core.watchdog import find_descendants


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_job_that_is_taken_from_a_frozen_supervisor_trains_alone_in_its_workspace() -> None:
    with run_plant(PlantOptions()) as plant:
        job_id = submit(plant, num_steps=60, step_seconds=0.1, save_every=5)
        wait_training(plant, job_id, number=8)
        census = take_census(plant)
        [frozen] = [pool for pool in census.pools() if any(p.job_id == job_id for p in census.below(pool.pid))]
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            # The one worker takes it again, with its other process.
            wait_until(lambda: any(act.attempt == 2 for act in read_acts(plant, job_id)), seconds=60)
            began_at = min(act.at for act in read_acts(plant, job_id) if act.attempt == 2)
            wait_until(lambda: any(act.attempt == 2 and act.act == "saved" for act in read_acts(plant, job_id)))
            late = [act for act in read_acts(plant, job_id) if act.attempt == 1 and act.at > began_at]
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        job = wait_ended(plant, job_id)

        assert late == []
        assert (job["status"], job["attempt"], job["failures"]) == ("succeeded", 2, 1)
        assert judge_job(plant, job_id) == []
        record = read_job(plant, job_id)
        assert record is not None
        assert [attempt.outcome for attempt in record.attempts] == ["lost", "succeeded"]
        [worker] = plant.workers
        wait_until(lambda: len(find_descendants(worker.pid)) == 2, seconds=5)
