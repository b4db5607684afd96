"""Jobs in the database: who runs what, what became of it, and what a person may do about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from medseg.database import Database
from medseg.node.clock import Clock
from medseg.node.tables import deliveries, jobs, results, studies
from medseg.pacs.outbox_table import UNSENT_STATES

_LONGEST_WAIT_S = 3600.0
_IDENTITY = ("series_uid", "rule", "model", "input")
_WITHOUT_RESULTS = ("failed", "given_up", "cancelled")
_ANEW = {"state": "queued", "attempts": 0, "not_before": 0.0, "owner": "", "reason": ""}
_OUTDATED = "its series has changed since it was queued; a newer job replaces it"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that is to be: what of `tables.jobs` makes it this one."""

    study_uid: str
    series_uid: str
    rule: str
    model: str
    input: str
    instances: int
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that this node runs now; `attempts` counts this try."""

    id: int
    study_uid: str
    series_uid: str
    rule: str
    input: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A row of `tables.results`."""

    kind: str
    path: str
    size: int
    sha256: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A job whose results lie in the vault.

    Parameters
    ----------
    folder : str
        Of the results.
    files : tuple of ResultFile
    verdict : str
        pass, note, review or fail.
    flags : tuple of mapping
        As the record of the case has them.
    reason : str
        What a reader must know.
    held : bool
        Whether a person decides before anything is sent.
    peak_bytes : int or None
        Memory that it took.
    """

    folder: str
    files: tuple[ResultFile, ...]
    verdict: str
    flags: tuple[Mapping[str, Any], ...] = field(default=())
    reason: str = ""
    held: bool = False
    peak_bytes: int | None = None


Deliver = Callable[[Connection, int, str, Sequence[ResultFile]], None]
"""Writes the deliveries of a job, by its id, rule and files, in the transaction that is given."""


class JobQueue:
    """The jobs of all nodes, as one of them sees them.

    Parameters
    ----------
    database : Database
    clock : Clock
    node_id : str
        Of this start of the node.
    deliver : callable
        See `Deliver`.
    attempts : int
        Tries before a job is given up.
    first_wait_s : float
        Wait after the first failed try; it doubles with each.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        node_id: str,
        *,
        deliver: Deliver,
        attempts: int,
        first_wait_s: float,
    ) -> None:
        self._database, self._clock, self._node_id, self._deliver = database, clock, node_id, deliver
        self._attempts, self._first_wait_s = attempts, first_wait_s

    def put(self, connection: Connection, job: NewJob) -> int | None:
        """Queue a job in the caller's transaction; its id, or None where the very same was queued before.

        Earlier jobs of the same series and rule are superseded: what of them was not sent yet never is.
        """
        row = {
            "study_uid": job.study_uid,
            "series_uid": job.series_uid,
            "rule": job.rule,
            "model": job.model,
            "input": job.input,
            "instances": job.instances,
            "priority": job.priority,
            "state": "queued",
            "created_at": self._clock.now(),
        }
        new = self._database.insert(jobs).values(row).on_conflict_do_nothing().returning(jobs.c.id)
        job_id = connection.execute(new).scalar()
        if job_id is None:
            return None
        before = and_(jobs.c.series_uid == job.series_uid, jobs.c.rule == job.rule, jobs.c.id != job_id)
        connection.execute(
            update(jobs).where(before, jobs.c.reason == _OUTDATED).values(superseded_by=job_id)
        )
        earlier = and_(before, jobs.c.state.not_in(("superseded", "cancelled")))
        old = list(connection.execute(select(jobs.c.id).where(earlier)).scalars())
        if old:
            connection.execute(
                update(jobs)
                .where(jobs.c.id.in_(old))
                .values(state="superseded", superseded_by=job_id, owner="")
            )
            _cancel_deliveries(connection, old)
            reason = _with_place(connection, job_id, "")
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(reason=reason))
        return int(job_id)

    def ask(self, connection: Connection, job: NewJob) -> tuple[int, bool]:
        """A job that is asked for by name, in the caller's transaction; its id, and whether it was queued for this.

        The very same job is done once: one that waits, runs, is held or has results stands for it. One that ended
        without results is queued again.
        """
        new = self.put(connection, job)
        if new is not None:
            return new, True
        same = and_(*(jobs.c[name] == getattr(job, name) for name in _IDENTITY))
        latest = select(jobs.c.id, jobs.c.state).where(same).order_by(jobs.c.repeat.desc()).limit(1)
        found = connection.execute(latest).one()
        if found.state == "superseded":
            return self._once_more(connection, found.id), True
        if found.state not in _WITHOUT_RESULTS:
            return found.id, False
        again = update(jobs).where(jobs.c.id == found.id).values(_ANEW)
        connection.execute(again)
        return found.id, True

    def claim(self) -> Job | None:
        """The next job, now this node's; None where nothing is due. Its try is counted before it begins."""
        now = self._clock.steady()
        # A clock that was set back before a restart must not hold jobs up for longer than any wait.
        due = or_(jobs.c.not_before <= now, jobs.c.not_before > now + _LONGEST_WAIT_S)
        first = (
            select(*(jobs.c[name] for name in Job.__slots__))
            .where(jobs.c.state == "queued", due)
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(1)
        )
        # Looked at without a lock first, as nothing is due most of the time.
        with self._database.read() as connection:
            if connection.execute(first).first() is None:
                return None
        with self._database.write() as connection:
            row = connection.execute(self._database.locked(first)).mappings().first()
            if row is None:
                return None
            attempts = row["attempts"] + 1
            taken = update(jobs).where(jobs.c.id == row["id"])
            connection.execute(
                taken.values(
                    state="running",
                    owner=self._node_id,
                    attempts=attempts,
                    started_at=self._clock.now(),
                    ended_at=None,
                )
            )
        return Job(**(dict(row) | {"attempts": attempts}))

    def finish(self, job: Job, done: Finished) -> bool:
        """Write results, state and deliveries in one transaction; False where the job was taken away meanwhile."""
        state = "held" if done.held else "done"
        values = {
            "state": state,
            "owner": "",
            "verdict": done.verdict,
            "flags": json.dumps(list(done.flags)),
            "folder": done.folder,
            "peak_bytes": done.peak_bytes,
            "ended_at": self._clock.now(),
        }
        with self._database.write() as connection:
            values["reason"] = _with_place(connection, job.id, done.reason)
            if not connection.execute(update(jobs).where(self._mine(job)).values(values)).rowcount:
                return False
            connection.execute(results.delete().where(results.c.job_id == job.id))
            rows = [{"job_id": job.id, **_columns(file)} for file in done.files]
            if rows:
                connection.execute(results.insert(), rows)
            if not done.held:
                self._deliver(connection, job.id, job.rule, done.files)
        return True

    def refuse(self, job: Job, reason: str) -> None:
        """The input is refused, which no further try would change."""
        self._end(job, state="failed", reason=reason)

    def outdated(self, job: Job) -> None:
        """Its series holds other instances than it was queued for: the rules are asked again once the study rests.

        The study is open again already where a slice has come; it is opened here for whatever else has happened.
        """
        values = {"state": "superseded", "owner": "", "ended_at": self._clock.now(), "reason": _OUTDATED}
        with self._database.write() as connection:
            if connection.execute(update(jobs).where(self._mine(job)).values(values)).rowcount:
                again = update(studies).where(studies.c.study_uid == job.study_uid)
                connection.execute(again.values(state="receiving"))

    def failed_try(self, job: Job, reason: str) -> str:
        """A try failed: the job waits for the next one, or is given up; its new state."""
        if job.attempts >= self._attempts:
            self._end(job, state="given_up", reason=f"given up after {job.attempts} tries: {reason}")
            return "given_up"
        wait = min(self._first_wait_s * 2 ** (job.attempts - 1), _LONGEST_WAIT_S)
        text = f"try {job.attempts} of {self._attempts}: {reason}"
        self._set(job, state="queued", owner="", reason=text, not_before=self._clock.steady() + wait)
        return "queued"

    def wait_for_room(self, job: Job, reason: str) -> str:
        """A try failed for want of space on the disk, and does not count; the new state."""
        self._set(
            job,
            state="queued",
            owner="",
            attempts=job.attempts - 1,
            reason=f"waits for room on the disk: {reason}",
            not_before=self._clock.steady() + self._first_wait_s,
        )
        return "queued"

    def put_back(self, job: Job) -> None:
        """The node stops; the try does not count."""
        self._set(job, state="queued", owner="", attempts=job.attempts - 1, not_before=0.0)

    def take_over(self, dead: Sequence[str]) -> int:
        """Queue again what dead nodes were running, or give it up where its tries are used up; their number.

        A job that ends its node each time is given up like any other.
        """
        if not dead:
            return 0
        theirs = and_(jobs.c.state == "running", jobs.c.owner.in_(list(dead)))
        worn = and_(theirs, jobs.c.attempts >= self._attempts)
        with self._database.write() as connection:
            reason = f"given up after {self._attempts} tries: the node ended while it ran"
            given_up = connection.execute(
                update(jobs)
                .where(worn)
                .values(state="given_up", owner="", reason=reason, ended_at=self._clock.now())
            ).rowcount
            back = connection.execute(
                update(jobs)
                .where(theirs)
                .values(state="queued", owner="", reason="the node ended while it ran")
            ).rowcount
        return int(given_up + back)

    def release(self, job_id: int) -> bool:
        """A person lets held results go out; whether the job was held."""
        with self._database.write() as connection:
            held = update(jobs).where(jobs.c.id == job_id, jobs.c.state == "held").values(state="done")
            if not connection.execute(held).rowcount:
                return False
            rule = connection.execute(select(jobs.c.rule).where(jobs.c.id == job_id)).scalar_one()
            columns = [results.c[name] for name in ResultFile.__slots__]
            files = connection.execute(select(*columns).where(results.c.job_id == job_id)).mappings()
            self._deliver(connection, job_id, rule, [ResultFile(**row) for row in files])
        return True

    def hold(self, job_id: int) -> bool:
        """A person stops results that were not sent yet; whether any was stopped."""
        mine = and_(deliveries.c.job_id == job_id, deliveries.c.state.in_(UNSENT_STATES))
        done = and_(jobs.c.id == job_id, jobs.c.state == "done")
        with self._database.write() as connection:
            if connection.execute(select(deliveries.c.id).where(mine)).first() is None:
                return False
            if not connection.execute(update(jobs).where(done).values(state="held")).rowcount:
                return False
            connection.execute(deliveries.delete().where(mine))
        return True

    def retry(self, job_id: int) -> bool:
        """A person lets a failed or given-up job run again from its first try; whether it had ended so."""
        ended = and_(jobs.c.id == job_id, jobs.c.state.in_(_WITHOUT_RESULTS))
        again = update(jobs).where(ended).values(_ANEW)
        with self._database.write() as connection:
            return bool(connection.execute(again).rowcount)

    def cancel(self, job_id: int, reason: str = "cancelled by a person") -> bool:
        """A person stops a job that waits, runs or is held; nothing of it is sent. Whether there was one."""
        live = and_(jobs.c.id == job_id, jobs.c.state.in_(("queued", "running", "held")))
        with self._database.write() as connection:
            stopped = update(jobs).where(live)
            values = {
                "state": "cancelled",
                "owner": "",
                "reason": reason,
                "ended_at": self._clock.now(),
            }
            return bool(connection.execute(stopped.values(values)).rowcount)

    def repeat(self, job_id: int) -> int | None:
        """A person asks for the same once more: a new job; None where there is no such job, or it still runs."""
        with self._database.write() as connection:
            old = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
            if old is None or old["state"] in ("queued", "running"):
                return None
            return self._once_more(connection, job_id)

    def _once_more(self, connection: Connection, job_id: int) -> int:
        old = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one()
        same = and_(*(jobs.c[name] == old[name] for name in _IDENTITY))
        last = connection.execute(select(func.max(jobs.c.repeat)).where(same)).scalar_one()
        kept = (*_IDENTITY, "study_uid", "instances", "priority")
        row = {name: old[name] for name in kept} | {
            "repeat": last + 1,
            "state": "queued",
            "created_at": self._clock.now(),
        }
        new = self._database.insert(jobs).values(row).returning(jobs.c.id)
        return int(connection.execute(new).scalar_one())

    def still_mine(self, job: Job) -> bool:
        """Whether a running job was neither cancelled nor superseded."""
        with self._database.read() as connection:
            return connection.execute(select(jobs.c.id).where(self._mine(job))).first() is not None

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(jobs.c.state, func.count().label("number")).group_by(jobs.c.state)
            )
            return {row.state: row.number for row in rows}

    def _mine(self, job: Job) -> Any:
        return and_(jobs.c.id == job.id, jobs.c.state == "running", jobs.c.owner == self._node_id)

    def _end(self, job: Job, **values: Any) -> None:
        self._set(job, owner="", ended_at=self._clock.now(), **values)

    def _set(self, job: Job, **values: Any) -> None:
        with self._database.write() as connection:
            if "reason" in values:
                values["reason"] = _with_place(connection, job.id, values["reason"])
            connection.execute(update(jobs).where(self._mine(job)).values(values))


def _columns(file: ResultFile) -> dict[str, Any]:
    return {name: getattr(file, name) for name in ResultFile.__slots__}


def _with_place(connection: Connection, job_id: int, reason: str) -> str:
    """A reason after what must not be forgotten: which jobs it supersedes, and whether their results are out."""
    superseded = and_(jobs.c.superseded_by == job_id, jobs.c.reason != _OUTDATED)
    old = list(connection.execute(select(jobs.c.id).where(superseded).order_by(jobs.c.id)).scalars())
    if not old:
        return reason
    gone = and_(deliveries.c.job_id.in_(old), deliveries.c.state.in_(("sending", "sent", "committed")))
    sent = connection.execute(select(deliveries.c.id).where(gone)).first() is not None
    place = f"takes the place of job {', '.join(map(str, old))}"
    place = f"{place}, whose results were sent already" if sent else place
    return f"{place}. {reason}" if reason else place


def _cancel_deliveries(connection: Connection, job_ids: Sequence[int]) -> None:
    """Cancel what waits of these jobs."""
    theirs = deliveries.c.job_id.in_(list(job_ids))
    waiting = and_(theirs, deliveries.c.state.in_(("waiting", "failed")))
    connection.execute(
        update(deliveries)
        .where(waiting)
        .values(state="cancelled", reason="slices came later; a newer job replaces it")
    )
