"""An installation on SQLite for each test, whose webhooks may reach loopback."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import CoreInstallation, migrate_sqlite, open_installation


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema and no rows, to be copied."""
    return migrate_sqlite(tmp_path_factory.mktemp("schema"))


@pytest.fixture
def core(tmp_path: Path, migrated_sqlite: Path) -> Iterator[CoreInstallation]:
    shutil.copyfile(migrated_sqlite, tmp_path / "finesmith.db")
    with open_installation(tmp_path, webhook_allowed_hosts="127.0.0.1") as installation:
        yield installation
