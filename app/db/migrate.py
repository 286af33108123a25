"""Brings a database to the schema of this version; needs no alembic.ini."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from app.db.session import SessionFactory, build_engine, transaction

MIGRATIONS_FOLDER = Path(__file__).resolve().parents[2] / "migrations"
# Any number, the same in every process: whoever migrates holds this lock of PostgreSQL until the commit.
_LOCK_KEY = 7_310_528


def upgrade(url: str, revision: str = "head") -> None:
    """Runs the migrations that are missing, in one transaction; makes SQLite's folder and file when missing.

    Several processes may call it at once: one works, the others wait and find nothing to do.
    """
    _make_folder(url)
    _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Undoes migrations down to `revision` (`base`: all of them, and every row with them)."""
    _run(url, lambda config: command.downgrade(config, revision))


def build_alembic_config(connection: Connection) -> AlembicConfig:
    """Alembic's configuration for a connection that the caller commits."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _make_folder(url: str) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)


def _run(url: str, work: Callable[[AlembicConfig], None]) -> None:
    engine = build_engine(url, pool_size=1)
    try:
        with transaction(SessionFactory(engine)) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            work(build_alembic_config(connection))
    finally:
        engine.dispose()
