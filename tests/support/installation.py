"""The core's services on one database, and short ways to what many tests need: files, jobs, workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import update

from app.db.clock import db_now
from app.db.migrate import upgrade
from app.db.models import jobs, workers
from app.db.session import SessionFactory, build_engine, transaction
from app.files.service import FileService
from app.files.views import FileView
from app.jobs.catalogue import Catalogue, built_in_catalogue
from app.jobs.commands import JobSubmission
from app.jobs.service import JobService
from app.jobs.views import Claim, JobView
from app.jobs.workers import GpuInfo, WorkerInfo, WorkerService
from app.keys.service import KeyService
from app.previews.service import PreviewService
from app.retention.service import RetentionService
from app.settings import Settings
from app.storage import Storage

OWNER = "ann"
# soda reads its rows from the Hub: a config that needs no upload.
CONFIG = {"model_name_or_path": "owner/model", "dataset_key": "soda", "apply_lora": True}


@dataclass(frozen=True)
class CoreInstallation:
    """Everything below the HTTP layer, without queue and bus."""

    settings: Settings
    sessions: SessionFactory
    storage: Storage
    jobs: JobService
    files: FileService
    keys: KeyService
    workers: WorkerService
    previews: PreviewService
    retention: RetentionService

    def submit(self, *, owner: str = OWNER, config: dict[str, Any] | None = None, **fields: Any) -> JobView:
        """A new job with a config that works; `config` adds to it."""
        submission = JobSubmission(config={**CONFIG, **(config or {})}, **fields)
        return self.jobs.submit(owner, submission).job

    def upload(self, *rows: str, owner: str = OWNER) -> FileView:
        """A file of these lines."""
        lines = rows or ('{"messages": []}',)
        return self.files.create(owner, "rows.jsonl", "fine-tune", [("\n".join(lines) + "\n").encode()])

    def add_worker(
        self,
        worker_id: str = "wrk-1",
        *,
        num_gpus: int = 0,
        slots: int | None = None,
        catalogue: Catalogue | None = None,
    ) -> str:
        """Registers a live worker."""
        gpus = [GpuInfo(index, "test GPU", 1 << 34) for index in range(num_gpus)]
        self.workers.register(
            WorkerInfo(
                id=worker_id,
                host="host",
                gpus=gpus,
                slots=slots or max(1, num_gpus),
                version="1",
                catalogue=catalogue or built_in_catalogue(),
            )
        )
        self.jobs._workers._cached = None  # else the service learns of it up to 2 s later
        return worker_id

    def claim_new(self, *, worker_id: str = "wrk-1", **fields: Any) -> Claim:
        """A new job that the worker has claimed."""
        job = self.submit(**fields)
        self.jobs.dispatch_ready()
        claim = self.jobs.claim(job.id, worker_id)
        assert claim is not None
        return claim

    def expire_lease(self, job_id: str) -> None:
        """Makes the job's lease look run out."""
        with transaction(self.sessions) as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(lease_expires_at=db_now() - 1))

    def age_dispatch(self, job_id: str) -> None:
        """Makes the job's wake-up look long unanswered."""
        with transaction(self.sessions) as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(dispatched_at=db_now() - 1000))

    def silence_worker(self, worker_id: str) -> None:
        """Makes the worker look as if it had not been heard of for long."""
        with transaction(self.sessions) as connection:
            connection.execute(update(workers).where(workers.c.id == worker_id).values(last_seen_at=db_now() - 1000))


def migrate_sqlite(folder: Path) -> Path:
    """A database file with the schema and no rows."""
    path = folder / "finesmith.db"
    upgrade(f"sqlite:///{path}")
    return path


@contextmanager
def open_installation(data_dir: Path, **settings: Any) -> Iterator[CoreInstallation]:
    """Services on a migrated database: SQLite in `data_dir`, or `database_url`. Jobs do not wait after failures, unless
    the settings say so."""
    configured = Settings(data_dir=data_dir, **{"retry_backoff_seconds": (), **settings})
    engine = build_engine(configured.database_url)
    sessions, storage = SessionFactory(engine), Storage(configured.storage_url)
    try:
        yield CoreInstallation(
            settings=configured,
            sessions=sessions,
            storage=storage,
            jobs=JobService(sessions, settings=configured, storage=storage),
            files=FileService(sessions, storage, configured),
            keys=KeyService(sessions, configured),
            workers=WorkerService(sessions),
            previews=PreviewService(sessions, settings=configured),
            retention=RetentionService(sessions, storage=storage, settings=configured),
        )
    finally:
        engine.dispose()
