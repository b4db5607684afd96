"""What can be found out about settings before anything is started: models, certificates, keys, secrets."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medseg.amounts import time_text
from medseg.deidentification.deidentifier import deidentifier
from medseg.errors import ConfigError, StorageError
from medseg.node import sealing
from medseg.node.callers import check_open
from medseg.node.intake import Deidentifier
from medseg.node.job_model import JobModel, job_model
from medseg.node.listen_options import ServerTlsOptions
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.source_options import DicomwebSource, DimseSource, FolderSource, OrthancSource, Source
from medseg.node.web.accounts import Accounts, read_accounts
from medseg.node.worklist_check import check_worklists
from medseg.pacs.dicomweb_client import DicomwebClient
from medseg.pacs.secret import read_secret
from medseg.pacs.senders import sender_for
from medseg.pacs.tls import client_context, server_context


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What can be found out before anything is started."""

    models: dict[str, JobModel]
    dimse_tls: ssl.SSLContext | None
    accounts: Accounts | None
    database_url: str
    key: bytes | None
    deidentify: Deidentifier | None


def check(config: NodeConfig) -> Checked:
    """Look at folder, models, certificates, keys and secrets of the settings; nothing is written.

    Raises
    ------
    ConfigError
        The first of them that cannot be used.
    StorageError
        The folder cannot be one.
    """
    _check_folder(config.folder)
    tls = None
    if config.dimse is not None:
        check_open(config.dimse, config.callers)
        tls = listener_tls(config.dimse.tls, field="dimse.tls")
    accounts = None
    if config.http is not None:
        accounts = read_accounts(config.http)
        listener_tls(config.http.tls, field="http.tls")
    for name, destination in config.destinations.items():
        with _of(f"destinations.{name}"):
            sender_for(destination)
    for source in config.sources:
        with _of(f"source {source.name}"):
            _check_login(source)
    key = None
    if config.storage.key is not None:
        key = sealing.parse_key(read_secret(config.storage.key, field="storage.key"), field="storage.key")
    deidentify = None
    if config.deidentify is not None:
        secret = read_secret(config.deidentify.key, field="deidentify.key")
        deidentify = deidentifier(config.deidentify, secret.encode())
    url = f"sqlite:///{config.folder.absolute() / 'node.db'}"
    if isinstance(config.database, PostgresqlOptions):
        url = read_secret(config.database.url, field="database.url")
    if config.dimse is None and config.http is None and not config.sources:
        raise ConfigError("nothing can come in: expected `dimse`, `http` or `sources`")
    models = {rule.name: job_model(rule) for rule in config.rules}
    check_worklists(config, models)
    return Checked(
        models=models, dimse_tls=tls, accounts=accounts, database_url=url, key=key, deidentify=deidentify
    )


def missing_folders(config: NodeConfig) -> list[str]:
    """A sentence for each watched folder that is not there; it may be mounted later."""
    watched = (source for source in config.sources if isinstance(source, FolderSource))
    return [
        f"source {source.name}: the folder {source.folder} is not there; it is looked for every "
        f"{time_text(source.every)}"
        for source in watched
        if not source.folder.is_dir()
    ]


def _check_folder(folder: Path) -> None:
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise StorageError(f"folder: {there} is a file; expected a folder, which is made where there is none")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(
            f"folder: {there} cannot be written by user {os.geteuid()}; give it to this user, or choose another"
        )


def _check_login(source: Source) -> None:
    """Logins and certificates; those of work lists are looked at with their archives."""
    if isinstance(source, OrthancSource | DicomwebSource):
        DicomwebClient(source, timeout_s=1.0).close()
    elif isinstance(source, DimseSource) and source.tls is not None:
        client_context(source.tls, field="tls")


@contextlib.contextmanager
def _of(name: str) -> Iterator[None]:
    """Say whose setting it is that cannot be used."""
    try:
        yield
    except ConfigError as err:
        raise ConfigError(f"{name}: {err}") from err


def listener_tls(options: ServerTlsOptions | None, *, field: str) -> ssl.SSLContext | None:
    """The TLS context of a listener, None without TLS."""
    if options is None:
        return None
    return server_context(options.certificate, options.key, options.client_authorities, field=field)
