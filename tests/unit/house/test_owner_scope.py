"""Whoever reads or changes what belongs to an owner says whose it is: by construction, not by remembering to."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

APP = Path(__file__).parents[3] / "app"
OWNED_TABLES = frozenset(
    {
        *("jobs", "attempts", "events", "artifacts", "log_chunks", "job_secrets", "idempotency_keys"),
        *("files", "previews", "preview_secrets", "secrets", "webhooks", "webhook_deliveries"),
    }
)
MARK = "The SQL on"
"""So begins the docstring of a module that may hold queries: all others call its functions."""
OWNER_TYPES = frozenset({"JobRow", "ToldJob", "WebhookView"})
"""A row that was found by its owner stands for the owner."""
SYSTEM_WIDE: Mapping[str, str] = {
    "jobs.repository.lock_job": "workers and the reconciler leave the owner out; the owner's side names it",
    "jobs.repository.insert_job": "the values name the owner",
    "jobs.repository.lock_expired_jobs": "the reconciler takes back leases of all owners",
    "jobs.repository.lock_jobs_of_worker": "a dead worker's jobs are taken back whoever owns them",
    "jobs.repository.find_unfinished_among": "a worker looks which of its workspaces are still needed",
    "retention.repository.lock_old_jobs": "what is old goes, whoever owns it",
    "retention.repository.lock_old_files": "what is old goes, whoever owns it",
    "retention.repository.delete_old_idempotency_keys": "what is old goes, whoever owns it",
    "retention.repository.delete_departed_workers": "what is old goes, whoever owns it",
    "jobs.repository.count_jobs_by_status": "metrics, for admins",
    "jobs.repository.has_undispatched_job": "whether the queue is empty; tells nothing of a job",
    "jobs.records.insert_secrets": "of a job that the same transaction inserts or has locked",
    "jobs.records.list_secrets": "the worker's claim; encrypted",
    "jobs.records.delete_secrets": "the worker's last word, after its fence was checked",
    "jobs.fleet.list_occupants": "room on workers is shared by all owners",
    "jobs.fleet.lock_waiting": "the queue is shared by all owners",
    "jobs.fleet.mark_dispatched": "the queue is shared by all owners",
    "jobs.fleet.withdraw_dispatch": "the queue is shared by all owners",
    "jobs.fleet.withdraw_dispatches_to": "the queue is shared by all owners",
    "monitoring.repository.read_queue": "metrics, for admins",
    "monitoring.repository.read_speeds": "metrics, for admins",
    "monitoring.repository.count_pending_deliveries": "metrics, for admins",
    "webhooks.repository.insert_webhook": "the values name the owner",
    "webhooks.repository.disable": "the sender's word after it has locked the receiver, or the owner's after a look-up",
    "webhooks.deliveries.insert_delivery": "to a webhook that the same transaction has found by its owner",
    "webhooks.deliveries.has_due": "the sender serves all owners",
    "webhooks.deliveries.claim": "the sender serves all owners",
    "webhooks.deliveries.lock_receiver": "the sender serves all owners",
    "webhooks.deliveries.write_delivered": "the sender's word, by the fence of its claim",
    "webhooks.deliveries.write_failed": "the sender's word, by the fence of its claim",
    "webhooks.deliveries.remove_old": "what has ended long ago, of all owners",
    "previews.repository.insert_preview": "the values name the owner",
    "previews.repository.list_candidates": "workers render the previews of all owners",
    "previews.repository.take": "workers render the previews of all owners",
    "previews.repository.count_rows": "of a file that the worker's claim has found by its owner",
    "previews.repository.list_secrets": "the worker's claim; encrypted",
    "previews.repository.has_overdue": "the reconciler looks after the previews of all owners",
    "previews.repository.expire": "the reconciler looks after the previews of all owners",
    "secrets.sealed_rows.list_rows_of_other_keys": "a change of the installation's key; encrypted",
    "secrets.sealed_rows.replace_sealed": "a change of the installation's key; encrypted",
}
"""Functions on owned tables that take no owner, and why they need none. None of them is called by the HTTP surface."""


def list_modules(folder: Path = APP) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_repository(module: ast.Module) -> bool:
    return (ast.get_docstring(module) or "").startswith(MARK)


def find_owned_tables(module: ast.Module) -> set[str]:
    """The names under which a module has owned tables."""
    return {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "app.db.models"
        for alias in node.names
        if alias.name in OWNED_TABLES
    }


def find_raw_sql(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            statement = str(node.args[0].value).lower().split()
            if name in ("text", "exec_driver_sql") and OWNED_TABLES & set(statement):
                yield " ".join(statement)


def find_functions_on(module: ast.Module, tables: set[str]) -> Iterator[ast.FunctionDef]:
    """Public functions with a connection that use one of the tables, themselves or by way of others of the module."""
    bodies: dict[str, set[str]] = {}
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    for node in module.body:
        used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        if isinstance(node, ast.FunctionDef):
            bodies[node.name] = used
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bodies |= {target.id: used - {target.id} for target in targets if isinstance(target, ast.Name)}
    touching = set(tables)
    while grown := {name for name, used in bodies.items() if name not in touching and used & touching}:
        touching |= grown
    asking = [node for node in functions if "connection" in {argument.arg for argument in node.args.args}]
    return (node for node in asking if node.name in touching and not node.name.startswith("_"))


def names_an_owner(function: ast.FunctionDef) -> bool:
    """By an argument `owner` that cannot be left out, a row that has one, or the fence of a worker's attempt."""
    arguments = function.args
    optional = {
        argument.arg for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default
    }
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for argument in given:
        if argument.arg in ("owner", "attempt") and argument.arg not in optional:
            return True
        if argument.annotation is not None and ast.unparse(argument.annotation) in OWNER_TYPES:
            return True
    return False


def name_function(path: Path, function: ast.FunctionDef) -> str:
    return ".".join([*path.relative_to(APP).with_suffix("").parts, function.name])


def find_unscoped() -> set[str]:
    found = set()
    for path in list_modules():
        module = parse(path)
        if is_repository(module):
            functions = find_functions_on(module, find_owned_tables(module) | ({"SealedTable"} & _names_of(module)))
            found |= {name_function(path, function) for function in functions if not names_an_owner(function)}
    return found


def _names_of(module: ast.Module) -> set[str]:
    return {node.name for node in module.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("path", list_modules(), ids=lambda path: str(path.relative_to(APP)))
def test_only_repositories_have_queries_on_what_belongs_to_owners(path: Path) -> None:
    module = parse(path)
    if path == APP / "db" / "models.py" or is_repository(module):
        return
    assert find_owned_tables(module) == set(), f"begin its docstring with {MARK!r}, or call a repository's function"
    assert list(find_raw_sql(module)) == []


def test_every_query_on_what_belongs_to_owners_takes_an_owner() -> None:
    unscoped = find_unscoped()
    assert unscoped - set(SYSTEM_WIDE) == set(), "take `owner`, or say in SYSTEM_WIDE why it needs none"
    assert set(SYSTEM_WIDE) - unscoped == set(), "these take an owner now, or are gone"


def test_the_http_surface_reaches_no_repository() -> None:
    repositories = {
        ".".join(["app", *path.relative_to(APP).with_suffix("").parts])
        for path in list_modules()
        if is_repository(parse(path))
    }
    assert len(repositories) >= 8
    for path in (*list_modules(APP / "api"), APP / "auth.py", APP / "main.py"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert imported.isdisjoint(repositories), path


@pytest.mark.parametrize(
    ("source", "is_scoped"),
    [
        ("def find(connection, job_id, *, owner): return select(jobs)", True),
        ("def find(connection, job: JobRow): return select(jobs)", True),
        ("def renew(connection, job_id, *, attempt): return update(jobs)", True),
        ("def find(connection, job_id): return select(jobs)", False),
        ("def find(connection, job_id, *, owner=None): return select(jobs)", False),
        ("_query = select(jobs)\ndef find(connection, job_id): return _query", False),
        ("def _first(job_id): return select(jobs)\ndef find(connection, job_id): return _first(job_id)", False),
    ],
)
def test_this_check_finds_what_it_is_for(source: str, is_scoped: bool) -> None:
    module = ast.parse(f"from app.db.models import jobs\n{source}")
    [function] = find_functions_on(module, find_owned_tables(module))
    assert names_an_owner(function) is is_scoped
