"""Studies that have come to rest -> jobs of the rules that match."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import RowMapping, and_, select, update

from medseg.database import Database
from medseg.errors import MedsegError
from medseg.io.dicom_facts import view_position
from medseg.io.dicom_file import parse_front, scan_file
from medseg.io.dicom_header import DicomHeader
from medseg.io.limits import DEFAULT_LIMITS
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.completeness import slice_geometry
from medseg.node.job_input import job_input
from medseg.node.job_queue import JobQueue, NewJob
from medseg.node.options import StudyOptions
from medseg.node.rule_options import RuleOptions
from medseg.node.rules import Candidate, choose, why_not
from medseg.node.tables import instances, series, studies
from medseg.node.vault import Vault

_log = logging.getLogger(__name__)
_PIXELS = 0x7FE00008


@dataclass(slots=True)
class _Watched:
    """A study that is being received: its arrivals, since when they have not grown, and its series once looked at."""

    arrivals: int
    since: float
    candidates: list[Candidate] | None = None


class Scheduler:
    """Looks at the studies that are being received; `tick` is called again and again by one thread.

    Parameters
    ----------
    rules : sequence of RuleOptions
    models : mapping of str to str
        Digest of the model and of the settings, by name of the rule.
    options : StudyOptions
    requested : collection of str
        Names of the rules that work items ask for.
    database : Database
    vault : Vault
    queue : JobQueue
    audit : Audit
    clock : Clock
    """

    def __init__(
        self,
        rules: Sequence[RuleOptions],
        models: Mapping[str, str],
        options: StudyOptions,
        *,
        database: Database,
        vault: Vault,
        queue: JobQueue,
        audit: Audit,
        clock: Clock,
        requested: Collection[str] = (),
    ) -> None:
        self._rules, self._models, self._options = rules, models, options
        self._on_arrival = [rule for rule in rules if _on_arrival(rule, requested)]
        self._database, self._vault, self._queue = database, vault, queue
        self._audit, self._clock = audit, clock
        self._watched: dict[str, _Watched] = {}

    def tick(self) -> int:
        """Settle the studies that are due; the number of jobs that were queued.

        A study is due when no instance has come for `stable_after`, and where its positions show a gap for
        `wait_for_gaps` longer. Time is that of the monotonic clock; a restart begins to wait anew.
        """
        now, queued = self._clock.monotonic(), 0
        open_studies = self._receiving()
        self._watched = {uid: seen for uid, seen in self._watched.items() if uid in open_studies}
        for uid, arrivals in open_studies.items():
            seen = self._watched.get(uid)
            if seen is None or seen.arrivals != arrivals:
                seen = self._watched[uid] = _Watched(arrivals, now)
            if now - seen.since < self._options.stable_after:
                continue
            try:
                queued += self._settle(uid, seen, now)
            except MedsegError as err:
                _log.error("a study cannot be looked at: %s", err)
        return queued

    def _receiving(self) -> dict[str, int]:
        query = select(studies.c.study_uid, studies.c.arrivals).where(studies.c.state == "receiving")
        with self._database.read() as connection:
            return {row.study_uid: row.arrivals for row in connection.execute(query)}

    def _settle(self, study_uid: str, seen: _Watched, now: float) -> int:
        first_look = seen.candidates is None
        # The headers of a study that waits for a gap are read once, not at every tick.
        candidates = seen.candidates = (
            self._candidates(study_uid) if seen.candidates is None else seen.candidates
        )
        gaps = [one.geometry.gap for one in candidates if one.geometry.gap and self._wanted(one)]
        if gaps and now - seen.since < self._options.stable_after + self._options.wait_for_gaps:
            if first_look:
                self._note(study_uid, f"waits for more: {gaps[0]}")
            return 0
        new, told = self._jobs(self._on_arrival, candidates, study_uid)
        same = and_(studies.c.study_uid == study_uid, studies.c.arrivals == seen.arrivals)
        with self._database.write() as connection:
            settled = (
                update(studies)
                .where(same)
                .values(
                    state="settled", settled_arrivals=seen.arrivals, note="; ".join([*gaps, *told])[:4000]
                )
            )
            if not connection.execute(settled).rowcount:
                # More has come in between.
                return 0
            queued = [self._queue.put(connection, job) for job in new]
        del self._watched[study_uid]
        count = sum(job_id is not None for job_id in queued)
        self._audit.record("study_settled", study_uid=study_uid, jobs=count, gaps=len(gaps))
        return count

    def _wanted(self, candidate: Candidate) -> bool:
        return any(not why_not(rule.match, candidate) for rule in self._rules)

    def _note(self, study_uid: str, text: str) -> None:
        with self._database.write() as connection:
            connection.execute(update(studies).where(studies.c.study_uid == study_uid).values(note=text))

    def asked(
        self, rule: str, study_uid: str, series_uids: Collection[str]
    ) -> tuple[list[NewJob], list[str]] | None:
        """Jobs of one rule on some series of a study, not queued, and for the series that it leaves why.

        None while the study may still grow.

        Raises
        ------
        MedsegError
            An instance cannot be read.
        """
        query = select(studies.c.state).where(studies.c.study_uid == study_uid)
        with self._database.read() as connection:
            if connection.execute(query).scalar() != "settled":
                return None
        candidates = [one for one in self._candidates(study_uid) if one.series_uid in series_uids]
        return self._jobs([one for one in self._rules if one.name == rule], candidates, study_uid)

    def _jobs(
        self, rules: Sequence[RuleOptions], candidates: Sequence[Candidate], study_uid: str
    ) -> tuple[list[NewJob], list[str]]:
        """Jobs of some rules, and for the series that a rule leaves why."""
        new, told = [], []
        for rule in rules:
            choice = choose(rule, candidates)
            new += [self._job(rule, candidate, study_uid) for candidate in choice.chosen]
            told += [
                f"{rule.name} leaves {_called(candidate)}: {reason}" for candidate, reason in choice.left
            ]
        return new, told

    def _job(self, rule: RuleOptions, candidate: Candidate, study_uid: str) -> NewJob:
        with self._database.read() as connection:
            given = job_input(connection, candidate.series_uid)
        return NewJob(
            study_uid=study_uid,
            series_uid=candidate.series_uid,
            rule=rule.name,
            model=self._models[rule.name],
            input=given.digest,
            instances=len(given.paths),
            priority=rule.priority,
        )

    def _candidates(self, study_uid: str) -> list[Candidate]:
        query = select(series).where(series.c.study_uid == study_uid).order_by(series.c.series_uid)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [self._candidate(row) for row in rows]

    def _candidate(self, row: RowMapping) -> Candidate:
        query = select(instances.c.path).where(instances.c.series_uid == row["series_uid"])
        with self._database.read() as connection:
            paths = connection.execute(query).scalars().all()
        views: set[str] = set()

        def headers() -> Iterator[DicomHeader]:
            for path in paths:
                header = read_header(self._vault, path)
                views.add(view_position(header))
                yield header

        geometry = slice_geometry(headers())
        return Candidate(**{name: row[name] for name in _COPIED}, geometry=geometry, views=frozenset(views))


def _on_arrival(rule: RuleOptions, requested: Collection[str]) -> bool:
    return rule.runs == "on_arrival" or (rule.runs == "auto" and rule.name not in requested)


_COPIED = ("series_uid", "modality", "body_part", "description", "protocol", "number", "called_by", "mixed")


def read_header(vault: Vault, path: str) -> DicomHeader:
    """The header of a stored instance.

    Raises
    ------
    StorageError, ImageReadError
        It cannot be read.
    """
    name = Path(path)
    if not vault.encrypted:
        return DicomHeader.of(scan_file(vault.place(path), DEFAULT_LIMITS).dataset, name)
    content = vault.read(path)
    dataset, _, _ = parse_front(io.BytesIO(content), len(content), name, DEFAULT_LIMITS, stop_at=_PIXELS)
    return DicomHeader.of(dataset, name)


def _called(candidate: Candidate) -> str:
    number = "" if candidate.number is None else f" {candidate.number}"
    return f"series{number} ({candidate.modality or 'no modality'})"
