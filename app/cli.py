"""The command `finesmith-server`: run the service, or parts of it, and look after its database and keys."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from contextlib import nullcontext
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.key_commands import keys_app, open_keys, secrets_app
from app.secret_key import BadSecretKey
from app.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finesmith: a self-hosted fine-tuning service.",
)
app.add_typer(keys_app, name="keys")
app.add_typer(secrets_app, name="secrets")

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
    except BadSecretKey as error:
        typer.echo(f"{error}.", err=True)
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
    listener = socket.socket(fileno=listen_fd) if listen_fd is not None else None
    # An inherited socket listens where it was bound, whatever the settings say.
    address = settings.host if listener is None else str(listener.getsockname()[0])
    with listener or nullcontext():
        if not is_loopback(address):
            _refuse_without_keys(settings, address)
        run_server(settings, listener=listener)


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


def _refuse_without_keys(settings: Settings, address: str) -> None:
    if any(key.is_usable for key in open_keys(settings).list()):
        return
    message = (
        f"Refusing to listen on {address}: there is no API key that opens anything. "
        "Make one first with `finesmith-server keys create`, or listen on 127.0.0.1."
    )
    typer.echo(message, err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    main()
