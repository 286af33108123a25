"""The database's own clock as a SQL expression, so that leases do not depend on the clocks of several hosts."""

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class db_now(FunctionElement[float]):
    """Unix seconds at the moment the statement runs (SQLite: to the millisecond)."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _compile_sqlite(element: db_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    # unixepoch('subsec') would need SQLite 3.42; Python builds still ship 3.40.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _compile_postgresql(element: db_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    # now() would be the start of the transaction, which may have waited for a lock since.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
