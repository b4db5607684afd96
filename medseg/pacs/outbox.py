"""What is to be sent, until the archive has it: kept in a database, so no restart loses or doubles anything."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import Connection, RowMapping, and_, func, or_, select, update

from medseg.amounts import time_text
from medseg.database import Database
from medseg.errors import MedsegError, StorageError
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.flight import Flight
from medseg.pacs.options import Destination
from medseg.pacs.outbox_table import deliveries
from medseg.pacs.senders import sender_for, wait_before
from medseg.pacs.sending import Outgoing, Sent, all_answered

_BATCH = 50
_BATCH_BYTES = 512 << 20
_LOOK_EVERY_S = 1.0
_STOP_LOOK_S = 0.05
_COMMITMENT_S = 24 * 3600.0
"""How long a promise to keep may take before instances are sent and asked for once more."""

_log = logging.getLogger(__name__)


class Times(Protocol):
    """The clock that the outbox goes by."""

    def now(self) -> float:
        """Seconds since 1970."""

    def steady(self) -> float:
        """The same, as if nobody had set the clock since the start."""

    def earliest(self) -> float:
        """Seconds since 1970 that have passed for sure."""


class Told(Protocol):
    """Hears of every delivery that ends, or fails for good."""

    def __call__(self, destination: str, state: str, sop_instance_uid: str, reason: str) -> None: ...


class Outbox:
    """Delivers the rows of `deliveries`, with a thread for each destination.

    Parameters
    ----------
    database : Database
        Has the table `deliveries`.
    destinations : mapping of str to Destination
    read : callable
        The content of a file by the path of its row.
    clock : Times
    owner : str
        Stands in the rows that are being sent; what a dead owner left is taken up by `recover`.
    told : callable or None
    """

    def __init__(
        self,
        database: Database,
        destinations: Mapping[str, Destination],
        *,
        read: Callable[[str], bytes],
        clock: Times,
        owner: str,
        told: Told | None = None,
    ) -> None:
        self._database, self._destinations, self._read = database, dict(destinations), read
        self._clock, self._owner, self._told = clock, owner, told
        self._senders = {
            name: sender_for(options, report=self.report) for name, options in self._destinations.items()
        }
        self._flights = {name: Flight() for name in self._destinations}
        self._sending: dict[str, Sequence[RowMapping]] = {}
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def put(
        self,
        connection: Connection,
        *,
        destination: str,
        sop_class_uid: str,
        sop_instance_uid: str,
        path: str,
        job_id: int | None = None,
    ) -> None:
        """Write a delivery in the caller's transaction.

        One of the same instance to the same place stays as it is, unless it was given up or cancelled.
        """
        row = {
            "destination": destination,
            "sop_class_uid": sop_class_uid,
            "sop_instance_uid": sop_instance_uid,
            "path": path,
            "job_id": job_id,
            "state": "waiting",
            "created_at": self._clock.now(),
        }
        connection.execute(
            self._database.insert(deliveries)
            .values(row)
            .on_conflict_do_update(
                index_elements=["destination", "sop_instance_uid"],
                set_={"state": "waiting", "path": path, "job_id": job_id, "reason": "", "not_before": 0.0},
                where=deliveries.c.state.in_(("failed", "cancelled")),
            )
        )

    def recover(self, dead: Sequence[str] | None = None) -> int:
        """Take up what other owners were sending; their number.

        Parameters
        ----------
        dead : sequence of str or None
            Owners that live no more; None: all but this one.
        """
        gone = deliveries.c.owner != self._owner if dead is None else deliveries.c.owner.in_(dead)
        back = (
            update(deliveries).where(deliveries.c.state == "sending", gone).values(state="waiting", owner="")
        )
        with self._database.write() as connection:
            return int(connection.execute(back).rowcount)

    def start(self) -> None:
        """Begin to deliver."""
        for name in self._destinations:
            thread = threading.Thread(target=self._work, args=(name,), name=f"outbox-{name}", daemon=True)
            thread.start()
            self._threads[name] = thread

    def stop(self, deadline_s: float) -> None:
        """Begin nothing more, and wait for the answers to what is in flight.

        What has none at the deadline, or for so long that the archive is taken for silent, is sent again after the
        next start.
        """
        self._stop.set()
        for flight in self._flights.values():
            flight.stop()
        end = time.monotonic() + deadline_s
        for name, thread in self._threads.items():
            while thread.is_alive() and time.monotonic() < end and not self._flights[name].is_vain():
                thread.join(_STOP_LOOK_S)
            if thread.is_alive():
                self._leave(name)

    def _leave(self, destination: str) -> None:
        """Write down what an archive has answered that now is silent."""
        by_uid = {answer.sop_instance_uid: answer for answer in self._flights[destination].taken()}
        rows = [row for row in self._sending.get(destination, ()) if row["sop_instance_uid"] in by_uid]
        if self._write_down(rows, by_uid):
            self._tell(destination, rows, by_uid)

    def run_once(self, destination: str) -> int:
        """Try what is due; the number of instances that were delivered."""
        rows = self._claim(destination)
        if not rows:
            return 0
        self._flights[destination].taken()
        self._sending[destination] = rows
        files, unread = self._files(rows)
        answers = unread + (self._send(destination, files) if files else [])
        unanswered = all_answered(files, "again", "no answer for this instance")
        by_uid = {answer.sop_instance_uid: answer for answer in (*unanswered, *answers)}
        if not self._write_down(rows, by_uid):
            return 0
        self._tell(destination, rows, by_uid)
        self._ask_commitment(destination, rows, by_uid)
        return sum(answer.state == "sent" for answer in answers)

    def counts(self) -> dict[str, dict[str, int]]:
        """Deliveries by destination and state."""
        query = select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
            deliveries.c.destination, deliveries.c.state
        )
        found: dict[str, dict[str, int]] = {name: {} for name in self._destinations}
        with self._database.read() as connection:
            for destination, state, count in connection.execute(query):
                found.setdefault(destination, {})[state] = count
        return found

    def retry(self, delivery_id: int) -> bool:
        """Let a delivery that waits, or was given up, be tried at once; whether there was one."""
        return self._change(delivery_id, ("waiting", "failed", "cancelled"), state="waiting", not_before=0.0)

    def cancel(self, delivery_id: int) -> bool:
        """Send it no more; whether it was still to be sent."""
        return self._change(
            delivery_id, ("waiting", "failed"), state="cancelled", reason="cancelled by a person"
        )

    def report(self, information: Dataset, event_type: int) -> int:
        """Take a report of storage commitment (PS3.4 J.3.3); the status of the answer."""
        transaction = str(information.get("TransactionUID") or "")
        failed = _references(information, "FailedSOPSequence")
        # What a report says both of is no promise.
        kept = set(_references(information, "ReferencedSOPSequence")) - set(failed)
        asked = deliveries.c.transaction_uid == transaction
        mine = and_(asked, deliveries.c.state == "sent")
        with self._database.write() as connection:
            # A report may come twice.
            known = connection.execute(select(deliveries.c.id).where(asked)).first() if transaction else None
            if not known:
                # PS3.7 C.5.16: no such object instance; the archive need not try again.
                return 0x0112
            promised = update(deliveries).where(mine, deliveries.c.sop_instance_uid.in_(kept))
            connection.execute(promised.values(state="committed", committed_at=self._clock.now()))
            missing = update(deliveries).where(mine, deliveries.c.sop_instance_uid.in_(failed))
            connection.execute(
                missing.values(
                    state="waiting",
                    transaction_uid="",
                    reason="the archive does not promise to keep it; it is sent again",
                    attempts=deliveries.c.attempts + 1,
                    not_before=self._clock.steady() + 60.0,
                )
            )
        return 0x0000

    def _work(self, destination: str) -> None:
        while not self._stop.is_set():
            try:
                self._resend_uncommitted(destination)
                if self.run_once(destination):
                    continue
            except StorageError as err:
                _log.error("deliveries to %s wait: %s", destination, err)
            except Exception:
                _log.exception("deliveries to %s wait", destination)
            self._stop.wait(_LOOK_EVERY_S)

    def _claim(self, destination: str) -> list[RowMapping]:
        """Rows that are due, marked as being sent."""
        options, now = self._destinations[destination], self._clock.steady()
        # A clock that was set back before a restart must not hold deliveries up for longer than any wait.
        due = or_(deliveries.c.not_before <= now, deliveries.c.not_before > now + options.longest_wait)
        query = (
            select(deliveries)
            .where(deliveries.c.destination == destination, deliveries.c.state == "waiting", due)
            .order_by(deliveries.c.id)
            .limit(_BATCH)
        )
        with self._database.write() as connection:
            rows = list(connection.execute(self._database.locked(query)).mappings())
            ids = [row["id"] for row in rows]
            taken = update(deliveries).where(deliveries.c.id.in_(ids))
            if ids:
                connection.execute(taken.values(state="sending", owner=self._owner))
        return rows

    def _files(self, rows: Sequence[RowMapping]) -> tuple[list[Outgoing], list[Sent]]:
        """What can be read now, and answers for what cannot."""
        files: list[Outgoing] = []
        left: list[Sent] = []
        size = 0
        for row in rows:
            uid = row["sop_instance_uid"]
            if files and size > _BATCH_BYTES:
                left.append(Sent(sop_instance_uid=uid, state="again", retry_after_s=0.0))
                continue
            try:
                content = self._read(row["path"])
            except MedsegError as err:
                left.append(Sent(sop_instance_uid=uid, state="again", reason=str(err)))
                continue
            size += len(content)
            files.append(Outgoing(sop_class_uid=row["sop_class_uid"], sop_instance_uid=uid, content=content))
        return files, left

    def _send(self, destination: str, files: Sequence[Outgoing]) -> list[Sent]:
        try:
            return self._senders[destination].send(files, self._flights[destination])
        except MedsegError as err:
            return all_answered(files, "again", str(err))
        except Exception as err:
            _log.exception("deliveries to %s failed", destination)
            reason = f"internal error, please report it: {type(err).__name__}"
            return all_answered(files, "again", reason)

    def _write_down(self, rows: Sequence[RowMapping], answers: Mapping[str, Sent]) -> bool:
        """Settle what was sent, however long the database is away; False at a stop, after which it is sent again."""
        while True:
            try:
                with self._database.write() as connection:
                    for row in rows:
                        self._settle(connection, row, answers[row["sop_instance_uid"]])
                return True
            except StorageError as err:
                _log.error("what became of deliveries cannot be written: %s", err)
                if self._stop.wait(_LOOK_EVERY_S):
                    return False

    def _settle(self, connection: Connection, row: RowMapping, answer: Sent) -> None:
        options = self._destinations[row["destination"]]
        values: dict[str, Any] = {"owner": "", "reason": answer.reason, "attempts": row["attempts"] + 1}
        if answer.state == "sent":
            values |= {"state": "sent", "sent_at": self._clock.now()}
        elif answer.state == "refused":
            values |= {"state": "failed"}
        elif self._clock.earliest() - row["created_at"] > options.give_up_after:
            age = time_text(options.give_up_after)
            values |= {"state": "failed", "reason": f"given up after {age}: {answer.reason}"}
        else:
            wait = (
                wait_before(values["attempts"], options)
                if answer.retry_after_s is None
                else answer.retry_after_s
            )
            values |= {
                "state": "waiting",
                "not_before": self._clock.steady() + min(wait, options.longest_wait),
            }
            if answer.retry_after_s == 0.0:
                values["attempts"] = row["attempts"]
        # A person may have cancelled it in the meantime, or another node taken it for that of a dead one.
        mine = and_(
            deliveries.c.id == row["id"], deliveries.c.state == "sending", deliveries.c.owner == self._owner
        )
        connection.execute(update(deliveries).where(mine).values(values))

    def _tell(self, destination: str, rows: Sequence[RowMapping], answers: Mapping[str, Sent]) -> None:
        for row in rows if self._told is not None else ():
            answer = answers[row["sop_instance_uid"]]
            if answer.state != "again" and self._told is not None:
                self._told(destination, answer.state, row["sop_instance_uid"], answer.reason)

    def _ask_commitment(
        self, destination: str, rows: Sequence[RowMapping], answers: Mapping[str, Sent]
    ) -> None:
        sender = self._senders[destination]
        sent = [row for row in rows if answers[row["sop_instance_uid"]].state == "sent"]
        if (
            self._destinations[destination].commitment == "none"
            or not sent
            or not isinstance(sender, DimseSender)
        ):
            return
        transaction = str(generate_uid())
        ids = [row["id"] for row in sent]
        # Written first: the report may come before the request is answered.
        with self._database.write() as connection:
            connection.execute(
                update(deliveries).where(deliveries.c.id.in_(ids)).values(transaction_uid=transaction)
            )
        flight = self._flights[destination]
        flight.begin(anyhow=True)
        try:
            sender.ask_commitment(
                [(row["sop_class_uid"], row["sop_instance_uid"]) for row in sent], transaction
            )
        except MedsegError as err:
            with self._database.write() as connection:
                connection.execute(
                    update(deliveries)
                    .where(deliveries.c.id.in_(ids))
                    .values(reason=f"sent; its storage commitment is asked for again: {err}")
                )
        finally:
            flight.end()

    def _resend_uncommitted(self, destination: str) -> None:
        """Send once more what the archive has not promised to keep after a day."""
        if self._destinations[destination].commitment == "none":
            return
        late = and_(
            deliveries.c.destination == destination,
            deliveries.c.state == "sent",
            deliveries.c.sent_at < self._clock.earliest() - _COMMITMENT_S,
        )
        with self._database.write() as connection:
            connection.execute(
                update(deliveries).where(late).values(state="waiting", transaction_uid="", not_before=0.0)
            )

    def _change(self, delivery_id: int, states: tuple[str, ...], **values: Any) -> bool:
        one = and_(deliveries.c.id == delivery_id, deliveries.c.state.in_(states))
        with self._database.write() as connection:
            return bool(connection.execute(update(deliveries).where(one).values(values)).rowcount)


def _references(information: Dataset, keyword: str) -> list[str]:
    return list(_each(information.get(keyword) or []))


def _each(items: Sequence[Dataset]) -> Iterator[str]:
    for item in items:
        yield str(item.get("ReferencedSOPInstanceUID") or "")
