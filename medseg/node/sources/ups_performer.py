"""What becomes of one work item: claimed, its input fetched, computed, delivered, and told of to the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from medseg.database import Database
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.job_queue import JobQueue, NewJob
from medseg.node.scheduler import Scheduler
from medseg.node.source_options import UpsSource as UpsOptions
from medseg.node.sources.source import Taker
from medseg.node.sources.ups_input import UpsInput
from medseg.node.sources.ups_outcome import UpsOutcome
from medseg.node.vault import Vault
from medseg.node.work_items import AskedJob, WorkItem, WorkItems
from medseg.pacs.dicom_json import text_of
from medseg.pacs.options import Destination
from medseg.pacs.ups_client import State, UpsClient
from medseg.pacs.workitem import (
    Code,
    DiscontinuationReason,
    Output,
    cancel_is_requested,
    cancellation,
    performed,
    progress,
)

PRIORITIES = {"HIGH": 10, "MEDIUM": 0, "LOW": -10}
"""What Scheduled Procedure Step Priority adds to the priority of the rule."""

_SENDING = 90
_ENDS = ("COMPLETED", "CANCELED")
_GONE = "it is no longer on the work list"
_FASTER = "another performer was faster"

_Step = Callable[[WorkItem], WorkItem | None]


class Coded(Protocol):
    """A coded concept, of settings or of a data set."""

    @property
    def value(self) -> str: ...
    @property
    def scheme(self) -> str: ...


def key_of(code: Coded) -> tuple[str, str]:
    """What makes two codes the same."""
    return code.value, code.scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What of the node performs work items.

    Parameters
    ----------
    destinations : mapping of str to Destination
        Archives by name.
    rules : frozenset of str
        Names.
    ae_title : str
        Of the node; where results stay that go nowhere.
    file_limit : int
        Largest instance, bytes.
    """

    intake: Taker
    database: Database
    vault: Vault
    queue: JobQueue
    scheduler: Scheduler
    items: WorkItems
    audit: Audit
    clock: Clock
    destinations: Mapping[str, Destination]
    rules: frozenset[str]
    ae_title: str
    file_limit: int


class UpsPerformer:
    """Takes the work items of one list from claim to end.

    What is promised to the server is written down before it is sent, and every step can be repeated: after a crash,
    or without an answer, an item goes on where it was.

    Parameters
    ----------
    options : UpsOptions
    parts : NodeParts
    worklist : UpsClient
    """

    def __init__(self, options: UpsOptions, parts: NodeParts, worklist: UpsClient) -> None:
        self._options, self._parts, self._list, self._items = options, parts, worklist, parts.items
        self._input = UpsInput(
            options, intake=parts.intake, database=parts.database, file_limit=parts.file_limit
        )
        self._outcome = UpsOutcome(parts.database, parts.vault, parts.destinations, parts.ae_title)
        self._rules = {key_of(one): one.rule for one in options.workitems}
        self._steps: dict[str, _Step] = {
            "claiming": self._claim_again,
            "claimed": self._prepare,
            "asked": self._follow,
            "finishing": self._finish,
        }
        self.taken = 0

    def claim(self, item: WorkItem) -> None:
        """Claim an item that was just written down, and begin with it.

        Raises
        ------
        MedsegError
            As `go_on`.
        """
        answer = self._list.change_state(item.workitem_uid, "IN PROGRESS", item.transaction_uid)
        if answer == "done":
            self._go_on(self._claimed(item))
        else:
            self._let_go(item, _FASTER if answer == "refused" else _GONE)

    def go_on(self, item: WorkItem) -> None:
        """Take an item as far as it goes at this look.

        Raises
        ------
        PacsUnreachableError
            The server is away.
        InputAwayError
            An archive is away.
        PacsRejectedError
            The server gives a malformed answer to this item, or lets nobody in.
        StorageError
            The node has no room.
        """
        self._go_on(self._looked_after(item) if item.state in ("claimed", "asked") else item)

    def _go_on(self, item: WorkItem | None) -> None:
        while item is not None and item.state in self._steps:
            item = self._steps[item.state](item)

    def _looked_after(self, item: WorkItem) -> WorkItem | None:
        """The item, where the server still has it in our hands; its end is near where it was asked to be canceled."""
        found = self._list.read(item.workitem_uid)
        if found is None:
            return self._let_go(item, _GONE)
        state = text_of(found, "ProcedureStepState")
        if state == "SCHEDULED":
            # The server has lost the claim, as one that was set back to a backup.
            return self._items.set(item, state="claiming")
        if state != "IN PROGRESS":
            return self._let_go(item, f"somebody else has set it to {_known(state)}")
        if cancel_is_requested(found) and not self._is_done(item):
            self._stop_jobs(item)
            return self._cancel(item, "unspecified", "its cancellation was asked for")
        return item

    def _claim_again(self, item: WorkItem) -> WorkItem | None:
        """Claim an item whose earlier claim may have been heard, although its answer was not."""
        answer = self._list.change_state(item.workitem_uid, "IN PROGRESS", item.transaction_uid)
        if answer == "refused":
            # PS3.4 table CC.2.1-2: C302 also for who has it. Only its performer may write into it.
            answer = self._list.update(item.workitem_uid, progress(0, "claimed"), item.transaction_uid)
        if answer == "done":
            claimed = self._claimed(item)
            return None if claimed is None else self._looked_after(claimed)
        return self._let_go(item, _FASTER if answer == "refused" else _GONE)

    def _claimed(self, item: WorkItem) -> WorkItem | None:
        claimed = self._items.set(item, state="claimed", started_at=self._parts.clock.now())
        self._record(item, "claimed")
        return claimed

    def _prepare(self, item: WorkItem) -> WorkItem | None:
        """Have the input, then the jobs."""
        if item.rule not in self._parts.rules:
            return self._cancel(item, "unspecified", f"the rule {item.rule} is no longer there")
        if self._input.missing(item.request.inputs):
            fetched = self._fetch(item)
            if fetched is None or fetched.state != "claimed":
                return fetched
            item = fetched
        return self._ask(item)

    def _fetch(self, item: WorkItem) -> WorkItem | None:
        """Retrieve what is missing; None where some of it is to be tried again."""
        self._tell(item, 5, "the input is being retrieved")
        inputs, taken = self._input.fetch(item.request.inputs)
        self.taken += taken
        missing = self._input.missing(inputs)
        known = self._items.set(
            item, request=replace(item.request, inputs=inputs), tries=item.tries + bool(missing)
        )
        if known is None or not missing:
            return known
        if known.tries < self._options.tries:
            return None
        total = sum(max(1, len(one.instances)) for one in inputs)
        text = f"{missing} of {total} instances of the input cannot be retrieved or stored"
        return self._cancel(known, "objects_incomplete", text)

    def _ask(self, item: WorkItem) -> WorkItem | None:
        """Queue the jobs of the rule that the item names, each once, in one transaction with its state."""
        new: list[NewJob] = []
        told: list[str] = []
        for study, series in sorted(self._input.series(item.request.inputs).items()):
            found = self._parts.scheduler.asked(item.rule, study, series)
            if found is None:
                self._tell(item, 10, "waits whether more instances of the study come")
                return None
            new += found[0]
            told += found[1]
        if not new:
            text = "; ".join(told) or "there is no series to be computed"
            return self._cancel(item, "objects_unsupported", text)
        extra = PRIORITIES.get(item.request.priority, 0)
        with self._parts.database.write() as connection:
            asked = [
                self._parts.queue.ask(connection, replace(job, priority=job.priority + extra)) for job in new
            ]
            jobs = tuple(AskedJob(id=job_id, own=own) for job_id, own in asked)
            return self._items.set_within(connection, item, state="asked", jobs=jobs)

    def _follow(self, item: WorkItem) -> WorkItem | None:
        """Tell how far the jobs are, until their results were delivered."""
        job_ids = [job.id for job in item.jobs]
        now = self._outcome.progress(job_ids)
        if now.standing == "gone":
            return self._items.set(item, state="claimed", jobs=())
        if now.standing == "failed":
            return self._cancel(item, now.reason, now.text)
        if now.standing == "working":
            self._tell(item, now.percent, now.text)
            return None
        outputs = self._outcome.outputs(job_ids)
        outcome = {
            "state": "COMPLETED",
            "at": self._parts.clock.now(),
            "outputs": [_as_json(output) for output in outputs],
        }
        return self._items.set(item, state="finishing", outcome=outcome)

    def _finish(self, item: WorkItem) -> WorkItem | None:
        """Write the final attributes, then the final state, whichever of it has been done before."""
        wanted: State = item.outcome["state"]
        found = self._list.read(item.workitem_uid)
        if found is None:
            return self._let_go(item, _GONE)
        state = text_of(found, "ProcedureStepState")
        if state == wanted:
            return self._ended(item)
        if state in _ENDS:
            return self._let_go(item, f"somebody else has set it to {state}")
        answer = self._list.update(item.workitem_uid, self._final(item), item.transaction_uid)
        if answer == "done":
            answer = self._list.change_state(item.workitem_uid, wanted, item.transaction_uid)
        if answer == "done":
            return self._ended(item)
        if answer == "refused" and wanted == "COMPLETED":
            text = "the work list does not take its result as complete"
            return self._cancel(item, "unspecified", text)
        return self._let_go(item, "the work list does not take its end" if answer == "refused" else _GONE)

    def _final(self, item: WorkItem) -> dict[str, Any]:
        outcome = item.outcome
        if outcome["state"] == "CANCELED":
            return cancellation(outcome["reason"], outcome["text"], at=outcome["at"])
        station = self._options.station
        return performed(
            station=Code(value=station.value, scheme=station.scheme, meaning=station.meaning),
            workitem=self._code(item),
            began=item.started_at or outcome["at"],
            ended=outcome["at"],
            description=f"medseg {item.rule}",
            outputs=[_of_json(output) for output in outcome["outputs"]],
        )

    def _code(self, item: WorkItem) -> Code:
        """The code of the item that named its rule."""
        mine = (code for code in item.request.codes if self._rules.get(key_of(code)) == item.rule)
        return next(mine, item.request.codes[0])

    def _ended(self, item: WorkItem) -> WorkItem | None:
        state, text = item.outcome["state"].lower(), item.outcome.get("text", "")
        self._items.end(item, state, text)
        self._record(item, state, text)
        return None

    def _cancel(self, item: WorkItem, reason: DiscontinuationReason, text: str) -> WorkItem | None:
        outcome = {"state": "CANCELED", "at": self._parts.clock.now(), "reason": reason, "text": text[:1000]}
        return self._items.set(item, state="finishing", outcome=outcome)

    def _let_go(self, item: WorkItem, reason: str) -> WorkItem | None:
        """The item is not ours any more; what was queued for it alone is stopped."""
        self._stop_jobs(item)
        self._items.end(item, "let_go", reason)
        self._record(item, "let_go", reason)
        return None

    def _stop_jobs(self, item: WorkItem) -> None:
        for job in item.jobs:
            if job.own and not self._items.others_wait_for(item, job.id):
                self._parts.queue.cancel(job.id, "the work item that asked for it was canceled")

    def _is_done(self, item: WorkItem) -> bool:
        standing = self._outcome.progress([job.id for job in item.jobs])
        return standing.standing == "done" or standing.percent >= _SENDING

    def _tell(self, item: WorkItem, percent: int, text: str) -> None:
        """Tell the server how far an item is, once for each step; what it says to that does not matter."""
        said = f"{percent} {text}"
        if item.told != said:
            self._list.update(item.workitem_uid, progress(percent, text), item.transaction_uid)
            self._items.set(item, told=said)

    def _record(self, item: WorkItem, outcome: str, reason: str = "") -> None:
        self._parts.audit.record(
            "work_item",
            outcome=outcome,
            source=self._options.name,
            workitem_uid=item.workitem_uid,
            rule=item.rule,
            jobs=[job.id for job in item.jobs],
            reason=reason,
        )


def _known(state: str) -> str:
    """A state for a log; what a server makes up is not repeated."""
    return state if state in _ENDS else "an unknown state"


def _as_json(output: Output) -> dict[str, Any]:
    names = ("study_uid", "series_uid", "instances", "ae_titles", "urls")
    return {name: getattr(output, name) for name in names}


def _of_json(found: Mapping[str, Any]) -> Output:
    instances: Sequence[Sequence[str]] = found["instances"]
    return Output(
        study_uid=found["study_uid"],
        series_uid=found["series_uid"],
        instances=tuple((sop_class, uid) for sop_class, uid in instances),
        ae_titles=tuple(found["ae_titles"]),
        urls=tuple(found["urls"]),
    )
