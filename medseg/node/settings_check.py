"""What can be found out about settings before anything is started: models, certificates, keys, secrets."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from medseg.deidentification.deidentifier import deidentifier
from medseg.errors import ConfigError
from medseg.node import sealing
from medseg.node.callers import check_open
from medseg.node.intake import Deidentifier
from medseg.node.job_model import JobModel, job_model
from medseg.node.listen_options import ServerTlsOptions
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.web.accounts import Accounts, read_accounts
from medseg.node.worklist_check import check_worklists
from medseg.pacs.secret import read_secret
from medseg.pacs.senders import sender_for
from medseg.pacs.tls import server_context


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
    """Look at models, certificates, keys and secrets of the settings; nothing is written.

    Raises
    ------
    ConfigError
        The first of them that cannot be used.
    """
    tls = None
    if config.dimse is not None:
        check_open(config.dimse, config.callers)
        tls = listener_tls(config.dimse.tls, field="dimse.tls")
    accounts = None
    if config.http is not None:
        accounts = read_accounts(config.http)
        listener_tls(config.http.tls, field="http.tls")
    for destination in config.destinations.values():
        sender_for(destination)
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


def listener_tls(options: ServerTlsOptions | None, *, field: str) -> ssl.SSLContext | None:
    """The TLS context of a listener, None without TLS."""
    if options is None:
        return None
    return server_context(options.certificate, options.key, options.client_authorities, field=field)
