"""Previews of prepared samples, what went wrong with a worker's plugins, and uploads that are sent twice.

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    _create_previews()
    op.create_table(
        "preview_secrets",
        sa.Column("preview_id", ID, nullable=False),
        sa.Column("field", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["preview_id"], ["previews.id"], name=op.f("fk_preview_secrets_preview_id_previews"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("preview_id", "field", name=op.f("pk_preview_secrets")),
    )
    op.add_column("files", sa.Column("idempotency_key", sa.String(length=255)))
    op.create_index(op.f("ix_files_owner_idempotency_key"), "files", ["owner", "idempotency_key"], unique=True)
    op.add_column("workers", sa.Column("plugin_errors", JSON))


def downgrade() -> None:
    op.drop_column("workers", "plugin_errors")
    op.drop_index(op.f("ix_files_owner_idempotency_key"), "files")
    op.drop_column("files", "idempotency_key")
    op.drop_table("preview_secrets")
    op.drop_table("previews")


def _create_previews() -> None:
    op.create_table(
        "previews",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("file_id", ID, nullable=False),
        sa.Column("num_samples", sa.Integer(), nullable=False),
        sa.Column("config", JSON, nullable=False),
        sa.Column("required_keys", JSON, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("worker_id", ID),
        sa.Column("lease_expires_at", sa.Double()),
        sa.Column("result", JSON),
        sa.Column("error", JSON),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_previews")),
    )
    op.create_index(op.f("ix_previews_status_id"), "previews", ["status", "id"])
    op.create_index(op.f("ix_previews_owner_status"), "previews", ["owner", "status"])
