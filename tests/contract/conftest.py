"""Each test here runs twice: on SQLite and on PostgreSQL."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from app.db.migrate import upgrade
from app.db.models import metadata
from tests.support.installation import CoreInstallation, migrate_sqlite, open_installation
from tests.support.postgres import PostgresServer, run_postgres

DATABASES = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with run_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """URL of a database with the schema, to be emptied before each test."""
    url = postgres_server.create_database()
    upgrade(url)
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema and no rows, to be copied."""
    return migrate_sqlite(tmp_path_factory.mktemp("schema"))


@pytest.fixture(params=DATABASES)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop_database(url)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the schema and no rows."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_sqlite"), tmp_path / "finesmith.db")
        yield f"sqlite:///{tmp_path / 'finesmith.db'}"
        return
    url: str = request.getfixturevalue("migrated_postgres")
    _empty_tables(url)
    yield url


def _empty_tables(url: str) -> None:
    """Much faster than a database for each test."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))


@pytest.fixture
def core(database_url: str, tmp_path: Path) -> Iterator[CoreInstallation]:
    with open_installation(tmp_path, database_url=database_url) as installation:
        yield installation
