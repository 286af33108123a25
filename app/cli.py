"""The command `finesmith-server`: run the service, or parts of it, and look after its database and keys."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy.exc import SQLAlchemyError

from app.settings import Settings

if TYPE_CHECKING:
    from app.keys.service import KeyService

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finesmith: a self-hosted fine-tuning service.",
)
keys_app = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(keys_app, name="keys")

Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: FINESMITH_HOST, else 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. Default: 8000.")]
ListenFd = Annotated[int | None, typer.Option(hidden=True, help="Inherited socket to serve on.")]


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            typer.echo(f"Setting FINESMITH_{name.upper()}: {problem['msg']}", err=True)
        sys.exit(2)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        typer.echo(
            f"The database does not work: {reason}. Is it at the present schema (`finesmith-server migrate`)?", err=True
        )
        sys.exit(1)


@app.command()
def up(host: Host = None, port: Port = None, workers: Annotated[int, typer.Option(min=0, max=64)] = 1) -> None:
    """Run everything on this machine: database, broker, server and worker, until Ctrl+C."""
    from app.embedded import run_embedded

    raise typer.Exit(run_embedded(_load_settings(host, port), num_workers=workers))


@app.command()
def api(host: Host = None, port: Port = None, listen_fd: ListenFd = None) -> None:
    """Run the HTTP server alone."""
    from app.server import run_server
    from trainer_core.watchdog import exit_when_stdin_closes, kill_descendants

    settings = _load_settings(host, port)
    if os.environ.get("FINESMITH_PARENT_PIPE") == "1":
        exit_when_stdin_closes(kill_descendants)
    elif not is_loopback(settings.host):
        _refuse_without_keys(settings)
    run_server(settings, listener=socket.socket(fileno=listen_fd) if listen_fd is not None else None)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(context: typer.Context) -> None:
    """Run a worker on this machine; options are those of `python -m worker`."""
    os.execv(sys.executable, [sys.executable, "-m", "worker", *context.args])


@app.command()
def migrate() -> None:
    """Bring the database to the present schema."""
    from app.db.migrate import upgrade

    upgrade(_load_settings().database_url)
    typer.echo("The database is at the present schema.")


@app.command()
def healthcheck() -> None:
    """Say whether a worker of this host is online; for a container's health check. Exit status 1: none is.

    While the database is away nobody can tell, and a worker goes on with its jobs: that is no reason to restart it.
    """
    from app.db.session import SessionFactory, build_engine
    from app.jobs.workers import WorkerService

    settings = _load_settings()
    service = WorkerService(
        SessionFactory(build_engine(settings.database_url, pool_size=1)), live_seconds=settings.lease_seconds
    )
    try:
        workers = service.list()
    except SQLAlchemyError as error:
        typer.echo(f"the database does not answer ({type(error).__name__})")
        return
    online = [found.id for found in workers if found.host == socket.gethostname() and found.status == "online"]
    typer.echo(f"online: {', '.join(online) or 'no worker of this host'}")
    raise typer.Exit(0 if online else 1)


@keys_app.command("create")
def create_key(
    owner: Annotated[str, typer.Option(help="Whose jobs and files the key sees.")] = "default",
    name: Annotated[str, typer.Option(help="For people.")] = "made on the command line",
    admin: Annotated[bool, typer.Option("--admin", help="Also let it manage keys and read metrics.")] = False,
    expires_in_days: Annotated[float | None, typer.Option(min=0.001, help="Lifetime. Default: until revoked.")] = None,
) -> None:
    """Make a key and print it, this once."""
    from app.keys.service import InvalidKeyRequest

    scopes = ("jobs", "admin") if admin else ("jobs",)
    seconds = None if expires_in_days is None else expires_in_days * 86_400
    try:
        _, plaintext = _open_keys().create(owner, name, scopes, expires_in_seconds=seconds)
    except InvalidKeyRequest as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(plaintext)


@keys_app.command("list")
def list_keys() -> None:
    """Show all keys, without the keys themselves."""
    table = Table(Column("id", no_wrap=True), "owner", "name", "scopes", "state")
    for key in _open_keys().list():
        state = "revoked" if key.revoked_at else "valid"
        table.add_row(key.id, key.owner, key.name, " ".join(key.scopes), state)
    Console().print(table)


@keys_app.command("revoke")
def revoke_key(key_id: str) -> None:
    """Take a key's power away, within 30 seconds on every server."""
    from app.keys.service import KeyNotFound

    try:
        _open_keys().revoke(key_id)
    except KeyNotFound as error:
        raise typer.BadParameter(error.message) from error
    typer.echo(f"{key_id} is revoked.")


def is_loopback(host: str) -> bool:
    """True if only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _load_settings(host: str | None = None, port: int | None = None) -> Settings:
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    # Not the constructor: its signature also has the library's own options, which these names are not.
    return Settings.model_validate(given)


def _refuse_without_keys(settings: Settings) -> None:
    if any(key.revoked_at is None for key in _open_keys(settings).list()):
        return
    message = (
        f"Refusing to listen on {settings.host}: there is no API key yet. "
        "Make one first with `finesmith-server keys create`, or listen on 127.0.0.1."
    )
    typer.echo(message, err=True)
    raise typer.Exit(2)


def _open_keys(settings: Settings | None = None) -> KeyService:
    from app.db.session import SessionFactory, build_engine
    from app.keys.service import KeyService

    settings = settings or _load_settings()
    return KeyService(SessionFactory(build_engine(settings.database_url)), settings)


if __name__ == "__main__":
    main()
