"""The node as a whole: its parts made, joined, started and stopped."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select

from medseg import __version__
from medseg.database import Database
from medseg.errors import StorageError
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.delivering import commitment_report, put_results, tell_delivery
from medseg.node.dimse_server import DimseServer
from medseg.node.expiry import expiring
from medseg.node.home import check_folder, check_version, patients_key
from medseg.node.http_side import http_server
from medseg.node.intake import Intake
from medseg.node.isolation import WALLS, network_wall
from medseg.node.job_queue import JobQueue, ResultFile
from medseg.node.leftovers import Leftovers
from medseg.node.life import Life
from medseg.node.node_lock import node_lock
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.periodic import Periodic
from medseg.node.retention import Retention
from medseg.node.scheduler import Scheduler
from medseg.node.settings_check import Checked, check
from medseg.node.sources.make import source_threads
from medseg.node.sources.ups_performer import NodeParts
from medseg.node.tables import instances, metadata
from medseg.node.vault import Vault
from medseg.node.work_items import WorkItems
from medseg.node.workers import Workers
from medseg.pacs.outbox import Outbox

if TYPE_CHECKING:
    from medseg.node.web.server import HttpServer

_log = logging.getLogger(__name__)
_BEAT_S = 1.0
_RETENTION_S = 300.0
_COUNTED_S = 10.0
_OTHERS_WRITE_S = 86400.0
STOP_WITHIN_S = 25.0


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
        self.certificates = checked.certificates
        self.database = Database(checked.database_url, metadata)
        self.life = Life(self.database, clock, config.name)
        self.vault = Vault(
            config.folder, checked.key, shared=not self.database.is_sqlite, owner=self.life.node_id
        )
        check_version(self.database, config.folder)
        secret = patients_key(self.vault)
        check_folder(self.database, config.folder, secret)
        self.audit = Audit(config.folder, config.audit, clock)
        self.outbox = Outbox(
            self.database,
            config.destinations,
            read=self.vault.read,
            clock=clock,
            owner=self.life.node_id,
            told=partial(tell_delivery, self.audit),
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
            secret=secret,
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
        self.leftovers = Leftovers(
            database=self.database, vault=self.vault, intake=self.intake, audit=self.audit
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
                report=partial(commitment_report, self.outbox),
            )
        self.http: HttpServer | None = None
        if config.http is not None and checked.accounts is not None:
            self.http = http_server(self, config.http, checked.accounts, secret=secret)
        self.sources = source_threads(config.sources, self._parts())
        self._stop, self._ended = threading.Event(), threading.Event()
        self._periodic = Periodic()

    def start(self) -> str:
        """Recover what the last end left, then start every part; a sentence about what was found.

        Raises
        ------
        StorageError
            Database, disk or address cannot be used.
        """
        self.life.begin()
        alone = self.database.is_sqlite
        dead = self.life.bury_all_others() if alone else self.life.dead()
        self.intake.start()
        older_than = 0.0 if alone else max(_OTHERS_WRITE_S, 2 * self.config.jobs.max_time)
        found, swept = self.leftovers.look(older_than)
        queued, again = self._take_over(dead)
        if self.dimse is not None:
            self.dimse.start()
        if self.http is not None:
            self.http.start()
        wall = network_wall()
        _log.log(logging.WARNING if wall == "none" else logging.INFO, "%s", WALLS[wall])
        for line in expiring(self.certificates, self.clock.now()):
            _log.warning("%s", line)
        self.workers.start()
        self.outbox.start()
        for source in self.sources:
            source.start()
        for name, work, every in (
            ("scheduler", self.scheduler.tick, min(1.0, self.config.studies.stable_after)),
            ("retention", self.retention.run, _RETENTION_S),
            ("audit", self.audit.tell_counted, _COUNTED_S),
        ):
            self._periodic.run(name, work, every, until=self._stop)
        # Others would take over what still ends in its time.
        self._periodic.run("beat", self._beat, _BEAT_S, until=self._ended)
        self.audit.record(
            "start", version=__version__, jobs=queued, deliveries=again, without_row=found, swept=swept
        )
        self.leftovers.start()
        kept = self._stored_instances()
        return (
            f"instances {kept}, jobs re-queued {queued}, deliveries taken up {again}, "
            f"images without a row {found}, half-written files removed {swept}"
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
        lost = self._periodic.ended()
        lost += ["DICOM listener"] if self.dimse is not None and not self.dimse.alive else []
        silent = self.life.problem()
        return (*(f"the part {name} has ended" for name in lost), *([silent] if silent else []))

    def _stored_instances(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(instances)).scalar_one())

    def stop(self, within_s: float = STOP_WITHIN_S) -> str:
        """Take nothing more, finish what can be finished in time; a sentence about it."""
        end = time.monotonic() + within_s - 3.0
        self._stop.set()
        self.workers.claim_no_more()
        self.leftovers.stop()
        for source in self.sources:
            source.stop(0.0)
        if self.dimse is not None:
            self.dimse.stop(min(10.0, within_s / 3))
        if self.http is not None:
            self.http.stop(min(6.0, within_s / 4))
        self.workers.stop(max(1.0, end - time.monotonic() - 3.0))
        self.outbox.stop(max(1.0, end - time.monotonic()))
        self.intake.stop()
        self.vault.remove_scratch_of([self.life.node_id])
        self._ended.set()
        self._periodic.join(1.0)
        with contextlib.suppress(StorageError):
            self.life.end()
        outcomes = self.workers.outcomes
        finished, returned = outcomes["done"] + outcomes["held"], outcomes["put_back"]
        self.audit.tell_counted(at_once=True)
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

    def _beat(self) -> None:
        self.life.beat()
        if not self.database.is_sqlite:
            self._take_over(self.life.dead())
            self.life.bury_silent()

    def _take_over(self, dead: Sequence[str]) -> tuple[int, int]:
        """Take jobs, deliveries and work items over and remove the plain copies; how many of the first two."""
        queued = self.queue.take_over(dead)
        again = self.outbox.recover(dead)
        self.work_items.take_over(dead)
        self.vault.remove_scratch_of(dead)
        return queued, again

    def _deliver(self, connection: Connection, job_id: int, rule: str, files: Sequence[ResultFile]) -> None:
        put_results(
            self.outbox,
            connection,
            rule=next((one for one in self.config.rules if one.name == rule), None),
            destinations=self.config.destinations,
            job_id=job_id,
            files=files,
        )


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
