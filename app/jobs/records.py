"""The SQL on what hangs on a job: events, attempts, artifacts, log chunks and secrets."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, func, insert, select, tuple_, update

from app.db.clock import db_now
from app.db.models import artifacts, attempts, events, files, job_secrets, log_chunks
from app.ids import is_id, new_id
from app.jobs import counter_names, counters
from app.jobs.commands import NewArtifact, Outcome
from app.jobs.removals import STRAGGLER_SECONDS, schedule_removal
from app.jobs.rows import JobRow, dump_error
from app.jobs.storable import make_text_storable
from app.jobs.views import ArtifactView, FileRef, LogCursor, LogPiece
from app.secrets.cipher import SealedSecret
from app.stored_event import StoredEvent


def list_events(
    connection: Connection, job: JobRow, *, after_seq: int, limit: int, types: Sequence[str] | None
) -> list[StoredEvent]:
    """Events after a number, oldest first."""
    query = select(events).where(events.c.job_id == job.id, events.c.seq > after_seq)
    if types is not None:
        query = query.where(events.c.type.in_([make_text_storable(name) for name in types]))
    rows = connection.execute(query.order_by(events.c.seq).limit(limit))
    return [StoredEvent(**row._mapping) for row in rows]


def begin_attempt(connection: Connection, job: JobRow, *, attempt: int, worker_id: str, gpus: Sequence[int]) -> None:
    """Writes down that a worker has claimed the job."""
    connection.execute(
        insert(attempts).values(
            job_id=job.id,
            attempt=attempt,
            worker_id=worker_id,
            gpus=list(gpus),
            started_at=job.now,
            waited_seconds=max(0.0, job.now - max(job.queued_at or job.created_at, job.not_before or 0.0)),
        )
    )
    counters.add(connection, _measure_begin(job))


def sum_runtime_seconds(connection: Connection, job: JobRow) -> float:
    """How long the job's attempts that have ended ran, since it was submitted or last retried by its owner."""
    seconds = func.coalesce(func.sum(attempts.c.ended_at - attempts.c.started_at), 0.0)
    ended = (attempts.c.job_id == job.id, attempts.c.ended_at.is_not(None))
    return float(
        connection.execute(select(seconds).where(*ended, attempts.c.started_at >= (job.started_at or 0.0))).scalar_one()
    )


def close_attempt(connection: Connection, job: JobRow, *, kind: str, outcome: Outcome | None) -> None:
    """Writes down how the job's current attempt ended; `outcome` None: nobody said."""
    values: dict[str, object] = {"ended_at": db_now(), "outcome": kind}
    if outcome is not None:
        values |= {"exit_code": outcome.exit_code, "signal": outcome.signal, "error": dump_error(outcome.error)}
    connection.execute(
        update(attempts).where(attempts.c.job_id == job.id, attempts.c.attempt == job.attempt).values(values)
    )
    # One that nobody spoke for was lost, whatever became of its job: so a reclaim of many jobs locks one counter only.
    counters.add(connection, {counter_names.name_attempts(counter_names.LOST if outcome is None else kind): 1})


def _measure_begin(job: JobRow) -> dict[str, int]:
    """What a claim adds to the counters; `job` as it was before."""
    waited_seconds = job.now - max(job.queued_at or job.created_at, job.not_before or 0.0)
    added = counter_names.QUEUE_WAIT.observe(counter_names.name_priority_class(job.priority), waited_seconds)
    if job.dispatched_at is not None:
        added |= counter_names.DISPATCH_LAG.observe(counter_names.ALL_LABEL, job.now - job.dispatched_at)
    return added


def replace_artifacts(connection: Connection, job: JobRow, new: Sequence[NewArtifact]) -> None:
    """Adds artifacts of the current attempt; one that was there under the same path gives way.

    Its file stays for a day: somebody may be reading it.
    """
    paths = [artifact.path for artifact in new]
    replaced = delete(artifacts).where(artifacts.c.job_id == job.id, artifacts.c.path.in_(paths))
    old_keys = set(connection.execute(replaced.returning(artifacts.c.storage_key)).scalars())
    for key in sorted(old_keys - {artifact.storage_key for artifact in new}):
        schedule_removal(connection, key, after_seconds=STRAGGLER_SECONDS)
    rows = [
        {
            "id": new_id("art"),
            "job_id": job.id,
            "attempt": job.attempt,
            "name": artifact.name,
            "path": artifact.path,
            "num_bytes": artifact.num_bytes,
            "sha256": artifact.sha256,
            "storage_key": artifact.storage_key,
            "created_at": job.now,
        }
        for artifact in new
    ]
    connection.execute(insert(artifacts), rows)


def list_artifacts(connection: Connection, job: JobRow) -> list[ArtifactView]:
    """All artifacts of a job, by path."""
    query = _select_artifact.where(artifacts.c.job_id == job.id).order_by(artifacts.c.path)
    return [ArtifactView(**row._mapping) for row in connection.execute(query)]


def find_artifact(connection: Connection, job: JobRow, *, path: str) -> ArtifactView | None:
    """The artifact under a path."""
    same_path = artifacts.c.path == make_text_storable(path)
    query = _select_artifact.where(artifacts.c.job_id == job.id, same_path)
    row = connection.execute(query).first()
    return None if row is None else ArtifactView(**row._mapping)


def list_artifact_names(connection: Connection, job: JobRow) -> frozenset[str]:
    """The folders of which a job has published files."""
    query = select(artifacts.c.name).where(artifacts.c.job_id == job.id).distinct()
    return frozenset(connection.execute(query).scalars())


def insert_secrets(connection: Connection, job_id: str, sealed: Iterable[SealedSecret]) -> None:
    """Keeps a job's encrypted secrets."""
    rows = [
        {
            "job_id": job_id,
            "field": secret.field,
            "key_id": secret.key_id,
            "nonce": secret.nonce,
            "ciphertext": secret.ciphertext,
        }
        for secret in sealed
    ]
    if rows:
        connection.execute(insert(job_secrets), rows)


def replace_secrets(connection: Connection, job: JobRow, sealed: Sequence[SealedSecret]) -> None:
    """Gives a job new values of these fields; its others stay."""
    fields = [secret.field for secret in sealed]
    connection.execute(delete(job_secrets).where(job_secrets.c.job_id == job.id, job_secrets.c.field.in_(fields)))
    insert_secrets(connection, job.id, sealed)


def list_secrets(connection: Connection, job_id: str) -> list[SealedSecret]:
    """A job's encrypted secrets."""
    columns = (job_secrets.c.field, job_secrets.c.key_id, job_secrets.c.nonce, job_secrets.c.ciphertext)
    rows = connection.execute(select(*columns).where(job_secrets.c.job_id == job_id))
    return [SealedSecret(**row._mapping) for row in rows]


def delete_secrets(connection: Connection, job_id: str) -> None:
    """Forgets a job's secrets."""
    connection.execute(delete(job_secrets).where(job_secrets.c.job_id == job_id))


def find_file_refs(connection: Connection, *, owner: str, file_ids: Sequence[str]) -> dict[str, FileRef]:
    """The owner's files among the ids, by id; on PostgreSQL kept from being deleted until the transaction ends."""
    columns = (files.c.id, files.c.storage_key, files.c.sha256, files.c.num_bytes)
    ids = [file_id for file_id in file_ids if is_id(file_id, "file")]
    query = select(*columns).where(files.c.owner == owner, files.c.id.in_(ids)).with_for_update(read=True)
    return {row.id: FileRef(**row._mapping) for row in connection.execute(query)}


def find_row_keys(connection: Connection, file_id: str, *, owner: str) -> frozenset[str] | None:
    """The keys of the first row of the owner's file; None when there is no such file."""
    query = select(files.c.row_keys).where(files.c.id == file_id, files.c.owner == owner)
    row_keys = connection.execute(query).scalar()
    return None if row_keys is None else frozenset(row_keys)


def insert_log_chunk(
    connection: Connection, job: JobRow, *, first_line: int, num_lines: int, num_bytes: int, storage_key: str
) -> None:
    """Adds a piece of the current attempt's log; the same piece given again replaces itself."""
    same = (log_chunks.c.job_id == job.id, log_chunks.c.attempt == job.attempt, log_chunks.c.first_line == first_line)
    connection.execute(delete(log_chunks).where(*same))
    connection.execute(
        insert(log_chunks).values(
            job_id=job.id,
            attempt=job.attempt,
            first_line=first_line,
            num_lines=num_lines,
            num_bytes=num_bytes,
            storage_key=storage_key,
            created_at=job.now,
        )
    )


def list_log_chunks(
    connection: Connection, job: JobRow, *, after: LogCursor | None, limit: int
) -> list[tuple[LogCursor, str]]:
    """(first line, storage key) of the pieces that hold lines after the cursor, in order."""
    query = select(log_chunks.c.attempt, log_chunks.c.first_line, log_chunks.c.storage_key)
    query = query.where(log_chunks.c.job_id == job.id)
    if after is not None:
        next_line = log_chunks.c.first_line + log_chunks.c.num_lines
        query = query.where(tuple_(log_chunks.c.attempt, next_line) > (after.attempt, after.line + 1))
    rows = connection.execute(query.order_by(log_chunks.c.attempt, log_chunks.c.first_line).limit(limit))
    return [(LogCursor(row.attempt, row.first_line), row.storage_key) for row in rows]


def list_log_pieces(connection: Connection, job: JobRow) -> list[LogPiece]:
    """All pieces of a job's log, in order."""
    columns = (log_chunks.c.attempt, log_chunks.c.first_line, log_chunks.c.num_bytes, log_chunks.c.storage_key)
    query = select(*columns).where(log_chunks.c.job_id == job.id)
    rows = connection.execute(query.order_by(log_chunks.c.attempt, log_chunks.c.first_line))
    return [LogPiece(**row._mapping) for row in rows]


_select_artifact = select(
    artifacts.c.id,
    artifacts.c.job_id,
    artifacts.c.name,
    artifacts.c.path,
    artifacts.c.num_bytes,
    artifacts.c.sha256,
    artifacts.c.storage_key,
    artifacts.c.created_at,
)
