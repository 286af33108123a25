"""What the embedded service needs before its first request: schema, key, worker names, no leases of dead workers."""

import os
from dataclasses import dataclass
from pathlib import Path

from app.db.session import SessionFactory, build_engine
from app.ids import new_id
from app.jobs.service import JobService
from app.jobs.workers import WorkerService
from app.keys.service import KeyService
from app.settings import Settings
from app.storage import Storage

FIRST_OWNER = "default"
FIRST_SCOPES = ("admin",)


@dataclass(frozen=True)
class EmbeddedState:
    """What the starter works with afterwards."""

    jobs: JobService
    worker_ids: tuple[str, ...]
    api_key_path: Path


def prepare_data_folder(settings: Settings, *, num_workers: int) -> EmbeddedState:
    """Call it while holding the folder's lock: whoever held leases from it is dead, and loses them at once."""
    from app.db.migrate import upgrade

    upgrade(settings.database_url)
    sessions = SessionFactory(build_engine(settings.database_url))
    jobs = JobService(sessions, settings=settings, storage=Storage.of(settings))
    worker_ids = _name_workers(settings.data_dir / "worker_ids", num_workers)
    dead = {*worker_ids, *_find_local_workers(settings, sessions)}
    for worker_id in sorted(dead):
        jobs.expire_leases_of(worker_id)
    api_key_path = _write_first_key(settings, KeyService(sessions, settings))
    return EmbeddedState(jobs, worker_ids[:num_workers], api_key_path)


def _find_local_workers(settings: Settings, sessions: SessionFactory) -> list[str]:
    """All workers, where the database lies in the folder that we hold; none where others may use it."""
    if not settings.database_url.startswith(f"sqlite:///{settings.data_dir}{os.sep}"):
        return []
    return [worker.id for worker in WorkerService(sessions).list()]


def _name_workers(path: Path, num_workers: int) -> tuple[str, ...]:
    """Workers keep their ids over restarts; the file grows when more are asked for than ever before."""
    known = path.read_text().split() if path.exists() else []
    missing = num_workers - len(known)
    if missing > 0:
        known += [new_id("wrk") for _ in range(missing)]
        path.write_text("\n".join(known) + "\n")
    return tuple(known)


def _write_first_key(settings: Settings, keys: KeyService) -> Path:
    """Makes a key unless the one in the file still opens this database."""
    path = settings.data_dir / "api_key"
    known = keys.authenticate(path.read_text().strip()) if path.exists() else None
    if known is not None and known.scopes:
        return path
    _, plaintext = keys.create(FIRST_OWNER, "first start", FIRST_SCOPES, expires_in_seconds=None)
    temporary = path.with_name(".api_key.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(plaintext + "\n")
    os.replace(temporary, path)
    return path
