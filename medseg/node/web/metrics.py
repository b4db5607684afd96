"""Counters and gauges in the text format of Prometheus; nothing in them tells who a patient is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from medseg import __version__
from medseg.memory import resident_bytes
from medseg.node.arrival import Verdict
from medseg.node.tables import JOB_STATES, STUDY_STATES, WORK_ITEM_STATES
from medseg.node.view import Live, Overview
from medseg.pacs.outbox_table import DELIVERY_STATES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels: TypeAlias = Mapping[str, str]
Sample: TypeAlias = tuple[Labels, float]
Kind = Literal["counter", "gauge"]


def metrics_text(overview: Overview, live: Live, *, ready: bool) -> str:
    """All metrics of a node.

    Parameters
    ----------
    overview : Overview
        What the tables say.
    live : Live
        What the process knows; its counters begin at its start.
    ready : bool
        Whether `/ready` says yes.

    References
    ----------
    Prometheus, Text-based exposition format 0.0.4.
    """
    return "".join(
        (
            _metric("info", "gauge", "Version of the node.", [({"version": __version__}, 1)]),
            _metric("start_time_seconds", "gauge", "When it was started.", [({}, live.started_at)]),
            _metric("ready", "gauge", "Whether it takes studies.", [({}, ready)]),
            *_intake(overview, live),
            *_work(overview, live),
            *_machine(live),
        )
    )


def _intake(overview: Overview, live: Live) -> Sequence[str]:
    return (
        _metric(
            "instances_total",
            "counter",
            "Instances that came, by what became of them.",
            _by("verdict", live.verdicts, get_args(Verdict)),
        ),
        _metric("stored_instances", "gauge", "Instances that are kept.", [({}, overview.stored_instances)]),
        _metric("stored_bytes", "gauge", "Bytes of them.", [({}, overview.stored_bytes)]),
        _metric("associations_open", "gauge", "Open DICOM associations.", [({}, live.associations)]),
        _metric(
            "associations_total",
            "counter",
            "DICOM associations, by how they began or ended.",
            _by("outcome", live.association_ends),
        ),
        _metric("studies", "gauge", "Studies by state.", _by("state", overview.studies, STUDY_STATES)),
    )


def _work(overview: Overview, live: Live) -> Sequence[str]:
    sent = [
        ({"destination": name, "state": state}, counts.get(state, 0))
        for name, counts in overview.deliveries.items()
        for state in DELIVERY_STATES
    ]
    return (
        _metric("jobs", "gauge", "Jobs by state.", _by("state", overview.jobs, JOB_STATES)),
        _metric("queue_age_seconds", "gauge", "How long the oldest job waits.", [({}, overview.queue_age_s)]),
        _metric("job_tries_total", "counter", "Tries of jobs by outcome.", _by("outcome", live.job_outcomes)),
        _metric("deliveries", "gauge", "Deliveries by destination and state.", sent),
        _metric(
            "work_items",
            "gauge",
            "Claimed work items by state.",
            _by("state", overview.work_items, WORK_ITEM_STATES),
        ),
    )


def _machine(live: Live) -> Sequence[str]:
    free: list[Sample] = [] if live.space is None else [({}, live.space.free)]
    memory = [({"process": "node"}, resident_bytes()), ({"process": "workers"}, live.worker_bytes)]
    return (
        _metric("disk_free_bytes", "gauge", "Free space of the disk.", free),
        _metric("memory_bytes", "gauge", "Resident memory.", memory),
        _metric(
            "certificate_expires_timestamp_seconds",
            "gauge",
            "When the certificate of a setting expires.",
            [({"setting": name}, end) for name, end in live.certificates.items()],
        ),
    )


def _by(label: str, counts: Mapping[str, int], known: Sequence[str] = ()) -> list[Sample]:
    """A sample for each value of a label; those that are known are there from the start."""
    return [({label: value}, counts.get(value, 0)) for value in dict.fromkeys([*known, *counts])]


def _metric(name: str, kind: Kind, text: str, samples: Sequence[Sample]) -> str:
    lines = [f"# HELP medseg_{name} {text}", f"# TYPE medseg_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"medseg_{name}{{{inside}}} {value:.17g}" if inside else f"medseg_{name} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
