"""A change of the installation's secret key: everything that older keys encrypted is encrypted with the present one."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.db.session import SessionFactory, snapshot, transaction
from app.secrets import sealed_rows
from app.secrets.cipher import SecretCipher, UnreadableSecret, build_cipher
from app.secrets.sealed_rows import SEALED_TABLES, SealedTable
from app.settings import Settings

_BATCH_ROWS = 200


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many rows of each table were encrypted anew, and how many no configured key opens."""

    num_resealed: Mapping[str, int]
    num_unreadable: Mapping[str, int]


def rotate_secrets(sessions: SessionFactory, settings: Settings) -> Rotated:
    """Encrypts every row of an older key with the present one, in short transactions; may be interrupted and repeated.

    A row that nobody can open is left as it is. Raises BadSecretKey.
    """
    resealed, unreadable = {}, {}
    for sealed in SEALED_TABLES:
        name = sealed.table.name
        resealed[name], unreadable[name] = _rotate_table(sessions, sealed, build_cipher(settings, sealed.purpose))
    return Rotated(resealed, unreadable)


def _rotate_table(sessions: SessionFactory, sealed: SealedTable, cipher: SecretCipher) -> tuple[int, int]:
    num_resealed = num_unreadable = 0
    after: tuple[str, ...] | None = None
    while True:
        with snapshot(sessions) as connection:
            rows = sealed_rows.list_rows_of_other_keys(
                connection, sealed, key_id=cipher.key_id, after=after, limit=_BATCH_ROWS
            )
        if not rows:
            return num_resealed, num_unreadable
        with transaction(sessions) as connection:
            for row in rows:
                scope_id, old = sealed.scope_of(row), sealed_rows.read_sealed(sealed, row)
                try:
                    new = cipher.seal(scope_id, field=old.field, value=cipher.open(scope_id, old))
                except UnreadableSecret:
                    num_unreadable += 1
                    continue
                num_resealed += sealed_rows.replace_sealed(connection, sealed, row, new)
        after = sealed_rows.read_primary_key(sealed, rows[-1])
