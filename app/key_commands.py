"""The commands `finesmith-server keys …` and `finesmith-server secrets …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from app.settings import Settings

if TYPE_CHECKING:
    from app.db.session import SessionFactory
    from app.keys.service import KeyService, KeyView

keys_app = typer.Typer(no_args_is_help=True, help="API keys.")
secrets_app = typer.Typer(no_args_is_help=True, help="What is encrypted in the database.")


@keys_app.command("create")
def create_key(
    owner: Annotated[str, typer.Option(help="Whose jobs and files the key sees.")] = "default",
    name: Annotated[str, typer.Option(help="For people.")] = "made on the command line",
    scope: Annotated[list[str] | None, typer.Option(help="read, submit or admin. Default: submit.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="The same as --scope admin.")] = False,
    expires_in_days: Annotated[float | None, typer.Option(min=0.001, help="Lifetime. Default: until revoked.")] = None,
    max_requests_per_minute: Annotated[int | None, typer.Option(help="Default: the installation's limit.")] = None,
) -> None:
    """Make a key and print it, this once."""
    from app.keys.errors import InvalidKeyRequest
    from app.keys.views import KeyLimits

    scopes = [*(scope or []), *(["admin"] if admin else [])] or ["submit"]
    seconds = None if expires_in_days is None else expires_in_days * 86_400
    limits = KeyLimits(max_requests_per_minute=max_requests_per_minute)
    try:
        _, plaintext = open_keys().create(owner, name, scopes, expires_in_seconds=seconds, limits=limits)
    except InvalidKeyRequest as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(plaintext)


@keys_app.command("list")
def list_keys() -> None:
    """Show all keys, without the keys themselves."""
    table = Table(Column("id", no_wrap=True), "owner", "name", "scopes", "state")
    for key in open_keys().list():
        table.add_row(key.id, key.owner, key.name, " ".join(key.scopes), _describe_state(key))
    Console().print(table)


@keys_app.command("rotate")
def rotate_key(
    key_id: str,
    overlap_hours: Annotated[float, typer.Option(min=0, max=720, help="How long the earlier key goes on working.")] = 0,
) -> None:
    """Make a key like this one in its place, and print it, this once."""
    from app.keys.errors import InvalidKeyRequest, KeyNotFound, KeyNotRotatable

    try:
        _, plaintext = open_keys().rotate(key_id, overlap_seconds=overlap_hours * 3600)
    except (InvalidKeyRequest, KeyNotFound, KeyNotRotatable) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(plaintext)


@keys_app.command("revoke")
def revoke_key(key_id: str) -> None:
    """Take a key's power away, within 30 seconds on every server."""
    from app.keys.errors import KeyNotFound

    try:
        open_keys().revoke(key_id)
    except KeyNotFound as error:
        raise typer.BadParameter(error.message) from error
    typer.echo(f"{key_id} is revoked.")


@secrets_app.command("rotate")
def rotate_secrets() -> None:
    """Encrypt with the present secret key what earlier ones encrypted.

    Before: FINESMITH_SECRET_KEY is the new key and FINESMITH_PREVIOUS_SECRET_KEYS names the old one, on every server
    and worker. Exit status 1: something can be opened with none of them.
    """
    from app.secrets.rotation import rotate_secrets as rotate

    settings = Settings()
    rotated = rotate(_open_sessions(settings), settings)
    for table, number in rotated.num_resealed.items():
        typer.echo(f"{table}: {number} encrypted anew")
    unreadable = {table: number for table, number in rotated.num_unreadable.items() if number}
    for table, number in unreadable.items():
        typer.echo(f"{table}: {number} can be opened with no key that is configured", err=True)
    raise typer.Exit(1 if unreadable else 0)


def open_keys(settings: Settings | None = None) -> KeyService:
    """The service of keys on the installation's database."""
    from app.keys.service import KeyService

    settings = settings or Settings()
    return KeyService(_open_sessions(settings), settings)


def _open_sessions(settings: Settings) -> SessionFactory:
    from app.db.session import SessionFactory, build_engine

    return SessionFactory(build_engine(settings.database_url))


def _describe_state(key: KeyView) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if not key.is_usable:
        return "expired" if key.expires_at is not None else "without a scope"
    return "valid" if key.replaced_by is None else f"valid, replaced by {key.replaced_by}"
