"""Folder and database of a node belong together, and both to this version of medseg."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from sqlalchemy import select

from medseg.database import Database
from medseg.errors import ConfigError
from medseg.node.node_lock import turn
from medseg.node.tables import SCHEMA_VERSION, about
from medseg.node.vault import KEPT, Vault

_PATIENTS_KEY = "patients.key"


def patients_key(vault: Vault) -> bytes:
    """Key of the digests that stand for patients; made at the first start and kept."""
    name = _PATIENTS_KEY
    if not vault.place(name).exists():
        # Nodes that share the folder must not have a key each.
        with turn(vault.folder / f"{name}.lock"):
            if not vault.place(name).exists():
                vault.write(name, secrets.token_bytes(32))
                vault.place(name).chmod(0o600)
    return vault.read(name)


def check_folder(database: Database, folder: Path, key: bytes) -> None:
    """Refuse a database whose rows name files of another folder; the key in the folder tells which it is.

    Raises
    ------
    ConfigError
    """
    digest = _folder_digest(key)
    with database.write() as connection:
        row = {"key": "folder", "value": digest}
        connection.execute(database.insert(about).values(row).on_conflict_do_nothing())
        found = connection.execute(select(about.c.value).where(about.c.key == "folder")).scalar_one()
    _refuse_folder(found, digest, folder)


def check_version(database: Database, folder: Path) -> None:
    """Refuse a database of another version of the tables; write ours into a new one.

    A new one beside files of patients is refused, too: all of them would be taken for new, segmented and sent again.

    Raises
    ------
    ConfigError
    """
    row = {"key": "schema", "value": str(SCHEMA_VERSION)}
    with database.write() as connection:
        # Not rowcount: that of an INSERT is -1 with psycopg.
        written = database.insert(about).values(row).on_conflict_do_nothing().returning(about.c.key)
        new = connection.execute(written).first() is not None
        if new:
            refuse_unknown_files(folder)
        found = connection.execute(select(about.c.value).where(about.c.key == "schema")).scalar_one()
    _refuse_version(found)


def look(database: Database, vault: Vault) -> None:
    """What `check_version` and `check_folder` would refuse at a start; nothing is written.

    Raises
    ------
    ConfigError
    StorageError
        The database does not answer, or the vault's key is another one than that of the folder.
    """
    found: dict[str, str] = {}
    if database.has(about.name):
        with database.read() as connection:
            found = {row.key: row.value for row in connection.execute(select(about.c.key, about.c.value))}
    if "schema" in found:
        _refuse_version(found["schema"])
    else:
        refuse_unknown_files(vault.folder)
    if vault.place(_PATIENTS_KEY).exists():
        digest = _folder_digest(vault.read(_PATIENTS_KEY))
        _refuse_folder(found.get("folder", digest), digest, vault.folder)


def _folder_digest(key: bytes) -> str:
    return hashlib.sha256(b"folder" + key).hexdigest()


def _refuse_folder(found: str, digest: str, folder: Path) -> None:
    if found != digest:
        raise ConfigError(
            f"the database belongs to another folder than {folder}: nodes that share a database share `folder`, "
            "and a backup is restored with its patients.key"
        )


def refuse_unknown_files(folder: Path) -> None:
    """Refuse files of patients beside a new database, which does not know them.

    Raises
    ------
    ConfigError
    """
    if kept := [top for top in KEPT if _has_file(folder / top)]:
        raise ConfigError(
            f"the database is new, and {folder} has files that it does not know in {' and '.join(kept)}; they "
            "would be taken for new: restore the database from a backup, or move these folders away"
        )


def _refuse_version(found: str) -> None:
    if found != str(SCHEMA_VERSION):
        raise ConfigError(
            f"the database was written by another medseg (tables of version {found}, this one has {SCHEMA_VERSION}); "
            "install that one, or choose another `folder`"
        )


def _has_file(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))
