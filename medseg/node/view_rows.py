"""Rows as the page and the API show them: pseudonyms instead of identifiers, which stand apart for operators."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medseg.privacy import pseudonym


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagLine:
    """A flag: its code, level, structure and sentences."""

    code: str
    level: str
    structure: str
    text: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job. `study_uid`, `series_uid` and `description` are for operators alone.

    `unsent` is the number of its deliveries that a person may still stop.
    """

    id: int
    study: str
    patient: str
    rule: str
    state: str
    attempts: int
    instances: int
    modality: str
    body_part: str
    verdict: str
    flags: tuple[FlagLine, ...]
    reason: str
    unsent: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    not_before: float
    peak_bytes: int | None
    repeat: int
    superseded_by: int | None
    model: str
    study_uid: str
    series_uid: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A study with what came of it."""

    study: str
    patient: str
    state: str
    series: int
    instances: int
    jobs: int
    first_at: float
    last_at: float
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """A file of a job."""

    id: int
    job_id: int
    kind: str
    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """Something that goes to an archive."""

    id: int
    destination: str
    state: str
    kind: str
    job_id: int | None
    instance: str
    attempts: int
    not_before: float
    created_at: float
    sent_at: float | None
    committed_at: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """A start of a node."""

    node_id: str
    name: str
    process: int
    started_at: float
    beat: int
    stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItemRow:
    """A claimed work item. `workitem_uid` is for operators alone."""

    id: int
    source: str
    item: str
    state: str
    rule: str
    jobs: tuple[int, ...]
    told: str
    reason: str
    created_at: float
    ended_at: float | None
    workitem_uid: str


def patient_name(digest: str) -> str:
    """What stands for a patient: the beginning of the keyed digest."""
    return f"P-{digest[:8].upper()}" if digest else ""


def job_row(row: Mapping[str, Any]) -> JobRow:
    """A row of the jobs, joined with their studies and series, which may be gone by now."""
    own = {name: row[name] for name in JobRow.__slots__ if name in row}
    joined = {name: row[name] or "" for name in ("modality", "body_part", "description")}
    return JobRow(
        **own
        | joined
        | {
            "study": pseudonym(row["study_uid"]),
            "patient": patient_name(row["patient"] or ""),
            "flags": flag_lines(row["flags"]),
            "reason": _with_conflicts(row["reason"], row["conflicts"]),
        }
    )


def _with_conflicts(reason: str, count: int) -> str:
    """The reason of a job, and what a reader must know of instances of its series that came again."""
    if not count:
        return reason
    which = "an instance of its series" if count == 1 else f"{count} instances of its series"
    said = f"{which} came again with other content, and the first was kept"
    return f"{reason.removesuffix('.')}; {said}" if reason else said


def study_row(row: Mapping[str, Any]) -> StudyRow:
    """A row of the studies with its counts."""
    own = {name: row[name] for name in StudyRow.__slots__ if name in row}
    return StudyRow(
        **own
        | {
            "study": pseudonym(row["study_uid"]),
            "patient": patient_name(row["patient"]),
            "instances": row["instances"] or 0,
        }
    )


def delivery_row(row: Mapping[str, Any]) -> DeliveryRow:
    """A row of the deliveries, with the kind of its result."""
    own = {name: row[name] for name in DeliveryRow.__slots__ if name in row}
    return DeliveryRow(**own | {"kind": row["kind"] or "", "instance": pseudonym(row["sop_instance_uid"])})


def work_item_row(row: Mapping[str, Any]) -> WorkItemRow:
    """A row of the work items."""
    own = {name: row[name] for name in WorkItemRow.__slots__ if name in row}
    jobs = tuple(int(job) for job, _ in json.loads(row["jobs"]))
    percent, _, text = row["told"].partition(" ")
    told = f"{percent} %, {text}" if text else ""
    return WorkItemRow(**own | {"item": pseudonym(row["workitem_uid"]), "jobs": jobs, "told": told})


def flag_lines(text: str) -> tuple[FlagLine, ...]:
    """Flags from their JSON; what is not a list of tables counts as none."""
    try:
        found = json.loads(text)
    except ValueError:
        return ()
    if not isinstance(found, list):
        return ()
    names = FlagLine.__slots__
    return tuple(
        FlagLine(**{name: str(flag.get(name) or "") for name in names})
        for flag in found
        if isinstance(flag, dict)
    )
