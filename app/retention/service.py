"""Removes what is old, and from storage what was deleted; any number of copies may do it at once."""

import logging
import random
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app.db.session import SessionFactory, snapshot, transaction
from app.files import repository as file_rows
from app.jobs import repository as job_rows
from app.jobs.removals import (
    Removal,
    claim_due_removals,
    forget_removal,
    has_due_removals,
    postpone_removal,
    schedule_job_removal,
    schedule_removal,
)
from app.retention import repository
from app.settings import Settings
from app.storage import Storage

logger = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
SWEEP_SECONDS = 3600.0
KEEP_IDEMPOTENCY_KEYS_DAYS = 7.0
KEEP_WORKERS_DAYS = 30.0
UPLOAD_PARTS_SECONDS = 2 * 24 * 3600.0
"""No upload takes as long: parts that are older are of one that died."""
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 3600.0
_NUM_JOBS = 10
"""A transaction: a job may have a hundred thousand events, and on SQLite nobody else writes meanwhile."""
_NUM_FILES = 100
_NUM_ROWS = 1_000
_NUM_REMOVALS = 4


class RetentionService:
    """Every call does a bounded part of its work and returns. All raise the database's errors."""

    def __init__(
        self,
        sessions: SessionFactory,
        *,
        storage: Storage,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._storage = storage
        self._settings = settings
        self._clock = clock
        # Several servers that were started together need not sweep together.
        self._next_sweep_at = clock() + random.uniform(0.0, 60.0)
        self._failures: dict[str, int] = {}

    def run(self, stop_event: threading.Event) -> None:
        """Works until `stop_event` is set. A thread of its own: a storage that hangs must keep no job waiting."""
        while not stop_event.wait(ROUND_SECONDS):
            try:
                self.sweep_if_due()
                self.remove_from_storage()
            except SQLAlchemyError as error:
                logger.warning("the database did not answer: %s", error)

    def sweep_if_due(self) -> None:
        """Sweeps about once an hour, and goes on in the next round while there is more."""
        if self._clock() < self._next_sweep_at:
            return
        if not self.sweep():
            self._next_sweep_at = self._clock() + SWEEP_SECONDS * random.uniform(0.9, 1.1)

    def sweep(self) -> bool:
        """Removes a bounded number of what is too old; True when there may be more."""
        jobs_left = self._remove_old_jobs()
        files_left = self._remove_old_files()
        if jobs_left or files_left:
            return True
        with transaction(self._sessions) as connection:
            num_keys = repository.delete_old_idempotency_keys(
                connection, keep_days=KEEP_IDEMPOTENCY_KEYS_DAYS, limit=_NUM_ROWS
            )
            repository.delete_departed_workers(connection, keep_days=KEEP_WORKERS_DAYS)
        try:
            self._storage.remove_unfinished_uploads(older_than_seconds=UPLOAD_PARTS_SECONDS)
        except OSError as error:
            logger.warning("parts of broken uploads are not removed yet: %s", error)
        return num_keys >= _NUM_ROWS

    def remove_from_storage(self) -> None:
        """Removes some of what was deleted, until it is gone: a storage that fails is asked again later."""
        with snapshot(self._sessions) as connection:
            if not has_due_removals(connection):
                return
        with transaction(self._sessions) as connection:
            removals = claim_due_removals(connection, limit=_NUM_REMOVALS)
        for removal in removals:
            self._remove(removal)

    def _remove(self, removal: Removal) -> None:
        try:
            self._storage.delete_prefix(removal.storage_key)
        except OSError as error:
            failures = self._failures[removal.id] = self._failures.get(removal.id, 0) + 1
            pause_seconds = min(MIN_PAUSE_SECONDS * 2 ** (failures - 1), MAX_PAUSE_SECONDS)
            logger.warning("%s is removed in %.0f s: %s", removal.storage_key, pause_seconds, error)
            with transaction(self._sessions) as connection:
                postpone_removal(connection, removal, seconds=pause_seconds)
            return
        self._failures.pop(removal.id, None)
        with transaction(self._sessions) as connection:
            forget_removal(connection, removal)

    def _remove_old_jobs(self) -> bool:
        """Each with its events, artifacts, logs and secrets."""
        with transaction(self._sessions) as connection:
            job_ids = repository.lock_old_jobs(connection, keep_days=self._settings.keep_days, limit=_NUM_JOBS)
            for job_id in job_ids:
                job = job_rows.lock_job(connection, job_id)
                # Asked again now that it is locked: no submission can name it any more.
                if job is not None and job_rows.find_unfinished_dependent(connection, job) is None:
                    job_rows.delete_job(connection, job)
                    schedule_job_removal(connection, job_id)
        if job_ids:
            logger.info("removed %d jobs that ended longer ago than they are kept", len(job_ids))
        return len(job_ids) >= _NUM_JOBS

    def _remove_old_files(self) -> bool:
        keep_days = self._settings.keep_files_days
        if keep_days is None:
            return False
        with transaction(self._sessions) as connection:
            old = repository.lock_old_files(connection, keep_days=keep_days, limit=_NUM_FILES)
            for file in old:
                file_rows.delete_file(connection, file.id, owner=file.owner)
                schedule_removal(connection, file.storage_key)
        return len(old) >= _NUM_FILES
