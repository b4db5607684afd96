"""The node as a whole: its parts made, joined, started and stopped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from sqlalchemy import Connection, func, select

from medseg import __version__
from medseg.database import Database
from medseg.errors import ConfigError, MedsegError, StorageError
from medseg.io.foreign import PARSER_ERRORS
from medseg.node import sealing
from medseg.node.audit import Audit
from medseg.node.callers import check_open
from medseg.node.clock import Clock
from medseg.node.deidentify import deidentifier
from medseg.node.dimse_server import DimseServer
from medseg.node.http_side import http_server
from medseg.node.intake import Deidentifier, Intake
from medseg.node.isolation import WALLS, network_wall
from medseg.node.job_model import JobModel, job_model
from medseg.node.job_queue import JobQueue, ResultFile
from medseg.node.life import Life
from medseg.node.listen_options import ServerTlsOptions
from medseg.node.node_lock import node_lock, turn
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.retention import Retention
from medseg.node.scheduler import Scheduler
from medseg.node.sources.make import source_threads
from medseg.node.sources.ups_performer import NodeParts
from medseg.node.tables import SCHEMA_VERSION, about, instances, metadata
from medseg.node.vault import Vault
from medseg.node.web.accounts import Accounts, read_accounts
from medseg.node.work_items import WorkItems
from medseg.node.workers import Workers
from medseg.node.worklist_check import check_worklists
from medseg.pacs.outbox import Outbox
from medseg.pacs.secret import read_secret
from medseg.pacs.senders import sender_for
from medseg.pacs.tls import server_context

if TYPE_CHECKING:
    from medseg.node.web.server import HttpServer

_log = logging.getLogger(__name__)
_BEAT_S = 1.0
_RETENTION_S = 300.0
_OTHERS_WRITE_S = 86400.0
STOP_WITHIN_S = 25.0


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


class Node:
    """All parts of a running node; made by `running`.

    Parameters
    ----------
    config : NodeConfig
    checked : Checked
    clock : Clock
    """

    def __init__(self, config: NodeConfig, checked: Checked, clock: Clock) -> None:
        self.config, self.clock, self.models = config, clock, checked.models
        self.database = Database(checked.database_url, metadata)
        self.vault = Vault(config.folder, checked.key, shared=not self.database.is_sqlite)
        _check_version(self.database)
        _check_folder(self.database, self.vault)
        self.audit = Audit(config.folder, config.audit, clock)
        self.life = Life(self.database, clock, config.name)
        self.outbox = Outbox(
            self.database,
            config.destinations,
            read=self.vault.read,
            clock=clock,
            owner=self.life.node_id,
            told=self._delivered,
        )
        self.queue = JobQueue(
            self.database,
            clock,
            self.life.node_id,
            deliver=self._deliver,
            attempts=config.jobs.attempts,
            first_wait_s=config.jobs.first_wait,
        )
        self.intake = Intake(
            config.storage,
            database=self.database,
            vault=self.vault,
            audit=self.audit,
            clock=clock,
            secret=_secret(self.vault),
            deidentify=checked.deidentify,
        )
        self.scheduler = Scheduler(
            config.rules,
            {name: model.digest for name, model in checked.models.items()},
            config.studies,
            database=self.database,
            vault=self.vault,
            queue=self.queue,
            audit=self.audit,
            clock=clock,
            requested=config.requested_rules(),
        )
        self.work_items = WorkItems(self.database, clock, self.life.node_id)
        self.workers = Workers(
            config.jobs,
            config.review,
            checked.models,
            database=self.database,
            queue=self.queue,
            vault=self.vault,
            audit=self.audit,
        )
        self.retention = Retention(
            config.storage, database=self.database, vault=self.vault, audit=self.audit, clock=clock
        )
        self.dimse: DimseServer | None = None
        if config.dimse is not None:
            self.dimse = DimseServer(
                config.dimse,
                callers=config.callers,
                intake=self.intake,
                audit=self.audit,
                tls=checked.dimse_tls,
                instance_limit=config.storage.instance_limit,
                warn_conflict=config.storage.on_conflict == "warn",
                report=self._commitment,
            )
        self.http: HttpServer | None = None
        if config.http is not None and checked.accounts is not None:
            self.http = http_server(self, config.http, checked.accounts, secret=_secret(self.vault))
        self.sources = source_threads(config.sources, self._parts())
        self._stop, self._ended = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._rules = {rule.name: rule for rule in config.rules}

    def start(self) -> str:
        """Recover what the last end left, then start every part; a sentence about what was found.

        Raises
        ------
        StorageError
            Database, disk or address cannot be used.
        """
        self.life.begin()
        if self.database.is_sqlite:
            dead = self.life.bury_all_others()
            swept = self.retention.sweep()
        else:
            dead = self.life.dead()
            swept = self.retention.sweep(max(_OTHERS_WRITE_S, 2 * self.config.jobs.max_time))
        queued = self.queue.take_over(dead)
        again = self.outbox.recover(dead)
        self.work_items.take_over(dead)
        self.intake.start()
        if self.dimse is not None:
            self.dimse.start()
        if self.http is not None:
            self.http.start()
        wall = network_wall()
        _log.log(logging.WARNING if wall == "none" else logging.INFO, "%s", WALLS[wall])
        self.workers.start()
        self.outbox.start()
        for source in self.sources:
            source.start()
        for name, work, every in (
            ("scheduler", self.scheduler.tick, min(1.0, self.config.studies.stable_after)),
            ("retention", self.retention.run, _RETENTION_S),
        ):
            self._run_every(name, work, every, until=self._stop)
        # Others would take over what still ends in its time.
        self._run_every("beat", self._beat, _BEAT_S, until=self._ended)
        self.audit.record("start", version=__version__, jobs=queued, deliveries=again, swept=swept)
        kept = self._stored_instances()
        return (
            f"instances {kept}, jobs re-queued {queued}, deliveries taken up {again}, "
            f"half-written files removed {swept}"
        )

    def listeners(self) -> dict[str, str]:
        """What listens where, for people."""
        found = {}
        if self.dimse is not None and self.config.dimse is not None:
            options = self.config.dimse
            secured = " over TLS" if options.tls is not None else ""
            found["DICOM"] = f"{options.ae_title} at {options.host}:{self.dimse.port}{secured}"
        if self.http is not None and self.config.http is not None:
            scheme = "https" if self.config.http.tls is not None else "http"
            found["HTTP"] = f"{scheme}://{_url_host(self.config.http.host)}:{self.http.port}"
        return found

    def problems(self) -> tuple[str, ...]:
        """Why studies are not taken at the moment, without what disk and database say themselves."""
        if self._stop.is_set():
            return ("the node is stopping",)
        lost = [thread.name for thread in self._threads if not thread.is_alive()]
        lost += ["DICOM listener"] if self.dimse is not None and not self.dimse.alive else []
        return tuple(f"the part {name} has ended" for name in lost)

    def _stored_instances(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(instances)).scalar_one())

    def stop(self, within_s: float = STOP_WITHIN_S) -> str:
        """Take nothing more, finish what can be finished in time; a sentence about it."""
        end = time.monotonic() + within_s - 3.0
        self._stop.set()
        self.workers.claim_no_more()
        for source in self.sources:
            source.stop(0.0)
        if self.dimse is not None:
            self.dimse.stop(min(10.0, within_s / 3))
        if self.http is not None:
            self.http.stop(min(6.0, within_s / 4))
        self.workers.stop(max(1.0, end - time.monotonic() - 3.0))
        self.outbox.stop(max(1.0, end - time.monotonic()))
        self.intake.stop()
        self._ended.set()
        for thread in self._threads:
            thread.join(1.0)
        with contextlib.suppress(StorageError):
            self.life.end()
        outcomes = self.workers.outcomes
        finished, returned = outcomes["done"] + outcomes["held"], outcomes["put_back"]
        self.audit.record("stop", finished=finished, returned=returned)
        self.database.close()
        return f"finished {finished}, returned {returned} to the queue"

    def _parts(self) -> NodeParts:
        """What sources need of the node."""
        return NodeParts(
            intake=self.intake,
            database=self.database,
            vault=self.vault,
            queue=self.queue,
            scheduler=self.scheduler,
            items=self.work_items,
            audit=self.audit,
            clock=self.clock,
            destinations=self.config.destinations,
            rules=frozenset(rule.name for rule in self.config.rules),
            ae_title=self.config.dimse.ae_title if self.config.dimse is not None else "MEDSEG",
            file_limit=self.config.storage.instance_limit,
        )

    def _run_every(
        self, name: str, work: Callable[[], Any], every_s: float, *, until: threading.Event
    ) -> None:
        def loop() -> None:
            while not until.wait(every_s):
                try:
                    work()
                except MedsegError as err:
                    _log.error("%s: %s", name, err)
                except Exception:
                    _log.exception("%s failed", name)

        thread = threading.Thread(target=loop, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _beat(self) -> None:
        self.life.beat()
        if not self.database.is_sqlite:
            dead = self.life.dead()
            self.queue.take_over(dead)
            self.outbox.recover(dead)
            self.work_items.take_over(dead)

    def _deliver(self, connection: Connection, job_id: int, rule: str, files: Sequence[ResultFile]) -> None:
        """The results of a job that its rule's destinations want, as deliveries."""
        options = self._rules.get(rule)
        for name in options.send_to if options is not None else ():
            for file in files:
                if file.kind in self.config.destinations[name].kinds and file.sop_instance_uid:
                    self.outbox.put(
                        connection,
                        destination=name,
                        sop_class_uid=file.sop_class_uid,
                        sop_instance_uid=file.sop_instance_uid,
                        path=file.path,
                        job_id=job_id,
                    )

    def _delivered(self, destination: str, state: str, sop_instance_uid: str, reason: str) -> None:
        self.audit.record(
            "delivery",
            outcome=state,
            destination=destination,
            sop_instance_uid=sop_instance_uid,
            reason=reason,
        )

    def _commitment(self, data: bytes, syntax: str, event_type: int) -> int:
        """A report of storage commitment that came to our own listener; the status of the answer."""
        try:
            information: Dataset = read_dataset(
                io.BytesIO(data), syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
            )
            return self.outbox.report(information, event_type)
        except PARSER_ERRORS:
            return 0x0110
        except StorageError:
            return 0x0213


@contextlib.contextmanager
def running(config: NodeConfig, *, clock: Clock | None = None) -> Iterator[Node]:
    """A started node; it is stopped when the block ends.

    Raises
    ------
    ConfigError
        See `check`.
    StorageError
        The folder is in use, or cannot be written; the database or an address cannot be used.
    """
    clock = clock or Clock()
    checked = check(config)
    with contextlib.ExitStack() as stack:
        if not isinstance(config.database, PostgresqlOptions):
            stack.enter_context(node_lock(config.folder, clock))
        try:
            config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise StorageError(f"cannot use {config.folder}: {err.strerror or err}") from err
        node = Node(config, checked, clock)
        try:
            _log.info("started: %s", node.start())
            yield node
        finally:
            _log.info("stopped: %s", node.stop())


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _secret(vault: Vault) -> bytes:
    """Key of the digests that stand for patients; made at the first start and kept."""
    name = "patients.key"
    if not vault.place(name).exists():
        # Nodes that share the folder must not have a key each.
        with turn(vault.folder / f"{name}.lock"):
            if not vault.place(name).exists():
                vault.write(name, secrets.token_bytes(32))
                vault.place(name).chmod(0o600)
    return vault.read(name)


def _check_folder(database: Database, vault: Vault) -> None:
    """Refuse a database whose rows name files of another folder; the key in the folder tells which it is."""
    folder = hashlib.sha256(b"folder" + _secret(vault)).hexdigest()
    with database.write() as connection:
        row = {"key": "folder", "value": folder}
        connection.execute(database.insert(about).values(row).on_conflict_do_nothing())
        found = connection.execute(select(about.c.value).where(about.c.key == "folder")).scalar_one()
    if found != folder:
        raise ConfigError(
            f"the database belongs to another folder than {vault.folder}: nodes that share a database share `folder`, "
            "and a backup is restored with its patients.key"
        )


def _check_version(database: Database) -> None:
    """Refuse a database of a later version of the tables; write ours into a new one."""
    row = {"key": "schema", "value": str(SCHEMA_VERSION)}
    with database.write() as connection:
        connection.execute(database.insert(about).values(row).on_conflict_do_nothing())
        found = connection.execute(select(about.c.value).where(about.c.key == "schema")).scalar_one()
    if found != str(SCHEMA_VERSION):
        raise ConfigError(
            f"the database was written by another medseg (tables of version {found}, this one has {SCHEMA_VERSION}); "
            "install that one, or choose another `folder`"
        )
