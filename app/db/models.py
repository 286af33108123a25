"""The tables. Times are unix seconds; identifiers compare byte by byte, so that their order is their age."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

IdText = String(64).with_variant(String(64, collation="C"), "postgresql")
Json = JSON(none_as_null=True)


def _job_id() -> Column[str]:
    return Column("job_id", IdText, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True, doc="the `owner` of everything that belongs to the project"),
    Column("name", Text, nullable=False),
    Column("max_queued_jobs", Integer, doc="None: the installation's limit"),
    Column("max_running_jobs", Integer, doc="None: the installation's limit"),
    Column("created_at", Double, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True, doc="HMAC-SHA256 of the key, hex"),
    Column("scopes", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, doc="None: never"),
    Column("revoked_at", Double),
    Column("last_used_at", Double, doc="to the minute"),
    Column("max_requests_per_minute", Integer, doc="None: the installation's limit"),
    Column("max_upload_bytes", BigInteger, doc="None: the installation's limit"),
    Column("replaced_by", IdText, doc="the key that rotation made in its place"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("owner", "name"),
)

files = Table(
    "files",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("num_samples", BigInteger, nullable=False),
    Column("row_keys", Json, nullable=False, doc="keys of the first row"),
    Column("sha256", String(64), nullable=False),
    Column("storage_key", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("idempotency_key", String(255), doc="the client's word for the upload; None: it gave none"),
    Index(None, "owner", "id"),
    Index(None, "owner", "idempotency_key", unique=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("name", Text),
    Column("metadata", Json, nullable=False),
    Column("config", Json, nullable=False, doc="resolved, secrets as null"),
    Column("step", Text, doc="the running step"),
    Column("steps", Json, nullable=False, doc="one object a step: name, status, times, error"),
    Column("progress", Json, nullable=False),
    Column("training_file", IdText),
    Column("validation_file", IdText),
    Column("calibration_file", IdText),
    Column("input_job", IdText, index=True),
    Column("num_gpus", Integer, doc="None until the fleet is known"),
    Column("required_keys", Json, nullable=False, doc="registry name to the key a worker must announce"),
    Column("priority", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("max_runtime_seconds", Double),
    Column("attempt", Integer, nullable=False, doc="counts claims; the fence of every later write"),
    Column("failures", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False, doc="number of the newest event"),
    Column("cancel_requested_at", Double),
    Column("worker_id", IdText, doc="queued: where the wake-up went; running: who holds the lease"),
    Column("gpus", Json, nullable=False, doc="device indices while running"),
    Column("dispatched_at", Double, doc="when the wake-up was last sent; None: not yet"),
    Column("lease_expires_at", Double),
    Column("error", Json),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("queued_at", Double, doc="since when it waits; None: since it was made"),
    Column("not_before", Double, doc="end of the pause after a failure: nobody gets it earlier"),
    Column("pause_requested_at", Double),
    Column("preempt_requested_at", Double, doc="when it was asked to make room for a job of a higher priority"),
    Column("discard_requested_at", Double, doc="when a cancel asked for no last checkpoint"),
    Column("keep_days", Double, doc="days from its end to its removal; None: the installation's"),
    Column("traceparent", String(64), doc="W3C trace context of the request that submitted it"),
    Index(None, "owner", "id"),
    Index(None, "owner", "status", "id"),
    Index(None, "status", "finished_at"),
    Index(None, "status", "dispatched_at"),
    Index(None, "status", "num_gpus", "priority", "id"),
    Index(None, "status", "lease_expires_at"),
)

attempts = Table(
    "attempts",
    metadata,
    _job_id(),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", IdText, nullable=False),
    Column("gpus", Json, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", String(16), doc="succeeded, failed, cancelled, paused, requeued or lost"),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("error", Json),
    Column("waited_seconds", Double, doc="in the queue before it, pauses after failures left out"),
)

events = Table(
    "events",
    metadata,
    _job_id(),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("step", Text),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False, doc="sha256 of the canonical body, hex"),
    # No foreign key: the key is taken before the job's row, so that of two equal submissions one waits for the other.
    Column("job_id", IdText, nullable=False, index=True),
    Column("created_at", Double, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("job_id", IdText, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("storage_key", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("job_id", "path"),
)

job_secrets = Table(
    "job_secrets",
    metadata,
    _job_id(),
    Column("field", String(64), primary_key=True),
    Column("key_id", String(16), nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
)

previews = Table(
    "previews",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("status", String(16), nullable=False, doc="queued, running, succeeded or failed"),
    Column("file_id", IdText, nullable=False),
    Column("num_samples", Integer, nullable=False),
    Column("config", Json, nullable=False, doc="resolved, secrets as null"),
    Column("required_keys", Json, nullable=False, doc="registry name to the key a worker must announce"),
    Column("attempt", Integer, nullable=False, doc="counts claims; the fence of every later write"),
    Column("failures", Integer, nullable=False, doc="lost leases"),
    Column("worker_id", IdText, doc="who renders it"),
    Column("lease_expires_at", Double),
    Column("result", Json, doc="what was rendered"),
    Column("error", Json),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Index(None, "status", "id"),
    Index(None, "owner", "status"),
)

preview_secrets = Table(
    "preview_secrets",
    metadata,
    Column("preview_id", IdText, ForeignKey("previews.id", ondelete="CASCADE"), primary_key=True),
    Column("field", String(64), primary_key=True),
    Column("key_id", String(16), nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    _job_id(),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("first_line", Integer, primary_key=True, autoincrement=False),
    Column("num_lines", Integer, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("storage_key", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("host", Text, nullable=False),
    Column("gpus", Json, nullable=False, doc="one object a GPU: index, name, memory_bytes"),
    Column("slots", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("catalogue_digest", String(64), nullable=False),
    Column("plugin_errors", Json, doc="one object a plugin that failed: plugin, message; None: none is known"),
    Column("registered_at", Double, nullable=False),
    Column("last_seen_at", Double, nullable=False),
    Column("departed_at", Double, doc="set when the worker is known to be gone"),
    Column("gpu_readings", Json, doc="one object a GPU: index, memory_used_bytes, utilization (0 to 1)"),
)

catalogues = Table(
    "catalogues",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("registries", Json, nullable=False),
    Column("configs", Json, nullable=False, doc="registry key of a Config to its JSON Schema"),
    Column("created_at", Double, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("events", Json, nullable=False, doc="types of events that are sent"),
    Column("description", Text),
    Column("key_id", String(16), nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("disabled_at", Double, doc="nothing is sent since then"),
    Column("disabled_reason", Text),
    Index(None, "owner", "id"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", IdText, primary_key=True, doc="the message's id, the same in every try"),
    Column("webhook_id", IdText, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("job_id", IdText, nullable=False),
    Column("type", Text, nullable=False),
    Column("payload", Text, nullable=False, doc="the body as it is signed and sent"),
    Column("tries", Integer, nullable=False),
    Column("next_try_at", Double, doc="None: delivered, or given up"),
    Column("claimed_until", Double, doc="a sender is at it until then"),
    Column("delivered_at", Double),
    Column("last_status", Integer, doc="of the newest answer; None: there was none"),
    Column("last_error", Text),
    Column("created_at", Double, nullable=False),
    Index(None, "next_try_at"),
    Index(None, "webhook_id", "id"),
)

storage_removals = Table(
    "storage_removals",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("storage_key", Text, nullable=False, doc="a file, or all below it"),
    Column("not_before", Double, nullable=False),
    Index(None, "not_before"),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

marks = Table(
    "marks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("at", Double, nullable=False, doc="by the database's clock"),
)
