"""Pausing and waiting, projects and limits, secrets and webhooks, what is to be removed, and counters.

Revision 0003, after 0002. Every new column is nullable: servers of the earlier version go on beside this schema.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True)

ADDED = {
    "api_keys": (
        ("max_requests_per_minute", sa.Integer()),
        ("max_upload_bytes", sa.BigInteger()),
        ("replaced_by", ID),
    ),
    "jobs": (
        ("queued_at", sa.Double()),
        ("not_before", sa.Double()),
        ("pause_requested_at", sa.Double()),
        ("preempt_requested_at", sa.Double()),
        ("discard_requested_at", sa.Double()),
        ("keep_days", sa.Double()),
        ("traceparent", sa.String(length=64)),
    ),
    "attempts": (("waited_seconds", sa.Double()),),
    "workers": (("gpu_readings", JSON),),
}


def upgrade() -> None:
    for table, columns in ADDED.items():
        for name, type_ in columns:
            op.add_column(table, sa.Column(name, type_))
    op.create_index(op.f("ix_jobs_status_finished_at"), "jobs", ["status", "finished_at"])
    _create_projects()
    _create_secrets()
    _create_webhooks()
    op.create_table(
        "storage_removals",
        sa.Column("id", ID, nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_removals")),
    )
    op.create_index(op.f("ix_storage_removals_not_before"), "storage_removals", ["not_before"])
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_marks")),
    )


def downgrade() -> None:
    for table in ("marks", "counters", "storage_removals", "webhook_deliveries", "webhooks", "secrets", "projects"):
        op.drop_table(table)
    op.drop_index(op.f("ix_jobs_status_finished_at"), "jobs")
    for table, columns in ADDED.items():
        for name, _ in columns:
            op.drop_column(table, name)


def _create_projects() -> None:
    """Every owner that has a key or a job becomes a project."""
    op.create_table(
        "projects",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("max_queued_jobs", sa.Integer()),
        sa.Column("max_running_jobs", sa.Integer()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
    )
    op.execute(
        "INSERT INTO projects (id, name, created_at) SELECT owner, owner, MIN(created_at) FROM"
        " (SELECT owner, created_at FROM api_keys UNION ALL SELECT owner, created_at FROM jobs) AS known GROUP BY owner"
    )


def _create_secrets() -> None:
    op.create_table(
        "secrets",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_secrets")),
        sa.UniqueConstraint("owner", "name", name=op.f("uq_secrets_owner_name")),
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", JSON, nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("disabled_at", sa.Double()),
        sa.Column("disabled_reason", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_owner_id"), "webhooks", ["owner", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", ID, nullable=False),
        sa.Column("webhook_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.Double()),
        sa.Column("claimed_until", sa.Double()),
        sa.Column("delivered_at", sa.Double()),
        sa.Column("last_status", sa.Integer()),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id_webhooks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(op.f("ix_webhook_deliveries_next_try_at"), "webhook_deliveries", ["next_try_at"])
    op.create_index(op.f("ix_webhook_deliveries_webhook_id_id"), "webhook_deliveries", ["webhook_id", "id"])
