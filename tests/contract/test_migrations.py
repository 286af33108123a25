"""The schema: made and unmade by the migrations, and the same as the tables say."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import JSON, Column, Double, Float, Integer, LargeBinary, MetaData, insert, inspect, select, text

from app.db.migrate import downgrade, upgrade
from app.db.models import files, metadata, projects, workers
from app.db.session import build_engine


def list_tables(url: str) -> set[str]:
    engine = build_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_upgrade_makes_every_table_and_downgrade_removes_them(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    assert list_tables(empty_database_url) == {*metadata.tables, "alembic_version"}
    downgrade(empty_database_url, "base")
    assert list_tables(empty_database_url) == {"alembic_version"}


def test_upgrade_of_an_up_to_date_database_changes_nothing(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    upgrade(empty_database_url)
    assert list_tables(empty_database_url) >= set(metadata.tables)


def test_an_installation_of_the_first_schema_keeps_its_rows(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0001")
    engine = build_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO workers (id, host, gpus, slots, version, catalogue_digest, registered_at, last_seen_at)"
                " VALUES ('wrk-1', 'host', '[]', 1, '0.1', 'd', 1, 1)"
            )
        )
        for number in (1, 2):
            connection.execute(
                text(
                    "INSERT INTO files (id, owner, filename, purpose, num_bytes, num_samples, row_keys, sha256,"
                    f" storage_key, created_at) VALUES ('file-{number}', 'ann', 'f', 'p', 1, 1, '[]', 's', 'k', 1)"
                )
            )
    upgrade(empty_database_url)
    with engine.connect() as connection:
        assert connection.execute(select(workers.c.plugin_errors)).scalars().all() == [None]
        assert connection.execute(select(files.c.idempotency_key)).scalars().all() == [None, None]
    engine.dispose()
    downgrade(empty_database_url, "0001")
    upgrade(empty_database_url)


@pytest.mark.parametrize("earlier", ["0001", "0002"])
def test_code_of_an_earlier_version_works_on_the_present_schema(empty_database_url: str, earlier: str) -> None:
    """While servers are exchanged one by one, old ones write rows without the columns that they do not know, and read
    rows of new ones with all the columns that they do."""
    upgrade(empty_database_url, earlier)
    engine = build_engine(empty_database_url)
    known = MetaData()
    known.reflect(engine)
    upgrade(empty_database_url)
    with engine.begin() as connection:
        for table in known.sorted_tables:
            if table.name != "alembic_version":
                connection.execute(insert(table).values({column.name: _make_value(column) for column in table.c}))
        for table in known.sorted_tables:
            assert len(connection.execute(select(table)).all()) == 1
    present = inspect(engine)
    for table in known.sorted_tables:
        missing = {column.name for column in table.c} - {column["name"] for column in present.get_columns(table.name)}
        assert not missing, f"{table.name} has lost {missing}"
    engine.dispose()


def test_every_owner_of_an_earlier_version_becomes_a_project(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0002")
    engine = build_engine(empty_database_url)
    with engine.begin() as connection:
        for number, owner in enumerate(["ann", "ann", "bob"]):
            connection.execute(
                text(
                    "INSERT INTO api_keys (id, owner, name, digest, scopes, created_at)"
                    f" VALUES ('key-{number}', '{owner}', 'n', 'd{number}', '[]', {5 + number})"
                )
            )
    upgrade(empty_database_url)
    with engine.connect() as connection:
        rows = connection.execute(select(projects.c.id, projects.c.created_at).order_by(projects.c.id)).all()
    assert [tuple(row) for row in rows] == [("ann", 5.0), ("bob", 7.0)]
    engine.dispose()


def _make_value(column: Column[Any]) -> object:
    if column.foreign_keys or column.name in ("id", "job_id", "preview_id"):
        return "x"
    if isinstance(column.type, (Integer, Double, Float)):
        return 1
    if isinstance(column.type, LargeBinary):
        return b"x"
    return [] if isinstance(column.type, JSON) else "x"


def test_migrated_schema_is_what_the_tables_say(database_url: str) -> None:
    engine = build_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_two_may_upgrade_at_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(upgrade, [empty_database_url] * 2))
    assert list_tables(empty_database_url) >= set(metadata.tables)
