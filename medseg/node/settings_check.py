"""What can be found out about settings before anything is started: models, certificates, keys, secrets."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.amounts import time_text
from medseg.deidentification.deidentifier import deidentifier
from medseg.errors import ConfigError, StorageError
from medseg.node import sealing
from medseg.node.callers import check_open
from medseg.node.expiry import certificate_ends
from medseg.node.intake import Deidentifier
from medseg.node.job_model import JobModel, job_model
from medseg.node.listen_options import ServerTlsOptions
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.rule_options import RuleOptions
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
    certificates: Mapping[str, float]


def check(config: NodeConfig) -> Checked:
    """Look at folder, models, certificates, keys and secrets of the settings; nothing is written.

    Raises
    ------
    ConfigError
        What of them cannot be used, all at once.
    StorageError
        The folder cannot be one.
    """
    problems = _Problems()
    with problems.of():
        _check_folder(config.folder)
    if config.dimse is None and config.http is None and not config.sources:
        problems.add(ConfigError("nothing can come in: expected `dimse`, `http` or `sources`"))
    tls, accounts = _check_listeners(config, problems)
    for name, destination in config.destinations.items():
        with problems.of(f"destinations.{name}"):
            sender_for(destination)
    for source in config.sources:
        with problems.of(f"source {source.name}"):
            _check_login(source)
    key, deidentify, url = _secrets(config, problems)
    models = {}
    for rule in config.rules:
        with problems.of():
            models[rule.name] = job_model(rule)
            _check_sent(rule, models[rule.name].exports, config)
    problems.end()
    check_worklists(config, models)
    return Checked(
        models=models,
        dimse_tls=tls,
        accounts=accounts,
        database_url=url,
        key=key,
        deidentify=deidentify,
        certificates=certificate_ends(config),
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


def _check_listeners(
    config: NodeConfig, problems: _Problems
) -> tuple[ssl.SSLContext | None, Accounts | None]:
    """TLS of the DICOM listener, accounts of the other."""
    tls = accounts = None
    if config.dimse is not None:
        with problems.of():
            check_open(config.dimse, config.callers)
        with problems.of():
            tls = listener_tls(config.dimse.tls, field="dimse.tls")
    if config.http is not None:
        with problems.of():
            accounts = read_accounts(config.http)
        with problems.of():
            listener_tls(config.http.tls, field="http.tls")
    return tls, accounts


def _secrets(config: NodeConfig, problems: _Problems) -> tuple[bytes | None, Deidentifier | None, str]:
    """Key of the storage, what takes identifiers out, address of the database."""
    key = deidentify = None
    url = f"sqlite:///{config.folder.absolute() / 'node.db'}"
    with problems.of():
        if config.storage.key is not None:
            key = sealing.parse_key(read_secret(config.storage.key, field="storage.key"), field="storage.key")
    with problems.of():
        if config.deidentify is not None:
            secret = read_secret(config.deidentify.key, field="deidentify.key")
            deidentify = deidentifier(config.deidentify, secret.encode())
    with problems.of():
        if isinstance(config.database, PostgresqlOptions):
            url = read_secret(config.database.url, field="database.url")
    return key, deidentify, url


def _check_sent(rule: RuleOptions, exports: Sequence[str], config: NodeConfig) -> None:
    for name in rule.send_to:
        kinds = config.destinations[name].kinds
        if not set(kinds) & set(exports):
            raise ConfigError(
                f"rule {rule.name}: nothing of it goes to {name}: its exports are {', '.join(exports)}, and "
                f"destinations.{name}.kinds takes {', '.join(kinds)}; add what is missing to one of them"
            )


class _Problems:
    """What cannot be used, gathered until all was looked at."""

    def __init__(self) -> None:
        self._found: list[ConfigError | StorageError] = []

    def add(self, problem: ConfigError | StorageError) -> None:
        """Keep a problem."""
        self._found.append(problem)

    @contextlib.contextmanager
    def of(self, name: str = "") -> Iterator[None]:
        """Go on behind the block where something in it cannot be used; `name` says whose setting it is."""
        try:
            yield
        except (ConfigError, StorageError) as err:
            self.add(ConfigError(f"{name}: {err}") if name else err)

    def end(self) -> None:
        """Raise what was found."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            lines = "\n".join(f"  {problem}" for problem in self._found)
            raise ConfigError(f"{len(self._found)} problems\n\n{lines}")


def listener_tls(options: ServerTlsOptions | None, *, field: str) -> ssl.SSLContext | None:
    """The TLS context of a listener, None without TLS."""
    if options is None:
        return None
    return server_context(options.certificate, options.key, options.client_authorities, field=field)
