"""The only writer of a job's state: the row is the job, and every change of it goes through here."""

from app.jobs.owner_side import OwnerSide
from app.jobs.reconciler_side import ReconcilerSide
from app.jobs.worker_side import WorkerSide


class JobService(OwnerSide, WorkerSide, ReconcilerSide):
    """The owner's, the worker's and the reconciler's side of jobs; safe to use from any number of threads.

    Other processes see a change when the method that made it has returned; live streams and wake-ups come after the
    commit and may be lost.
    """
