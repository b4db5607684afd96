"""A work list whose items the node performs (UPS-RS, IHE AIW-I): which of them it claims, and when it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydicom.uid import generate_uid

from medseg.errors import MedsegError, PacsRejectedError
from medseg.node.source_options import UpsSource as UpsOptions
from medseg.node.sources.ups_input import InputAwayError
from medseg.node.sources.ups_performer import PRIORITIES, NodeParts, UpsPerformer, key_of
from medseg.node.work_items import WorkItem
from medseg.pacs.dicom_json import JsonDataSet, items_of, text_of, uid_of
from medseg.pacs.ups_client import UpsClient
from medseg.pacs.workitem import Code, MalformedWorkitemError, codes_of, read_request

_TIMEOUT_S = 60.0
_MOST_READ = 200
"""Scheduled items that are read at one look."""


class UpsSource:
    """See `Source`.

    Parameters
    ----------
    options : UpsOptions
    parts : NodeParts

    References
    ----------
    DICOM PS3.18 section 11, PS3.4 Annex CC; IHE Radiology, AI Workflow for Imaging.
    """

    def __init__(self, options: UpsOptions, parts: NodeParts) -> None:
        self.name, self.every_s = options.name, options.every
        self._options, self._parts = options, parts
        bare = options.transaction_uid == "bare"
        self._list = UpsClient(options, timeout_s=_TIMEOUT_S, bare_transaction_uid=bare)
        self._performer = UpsPerformer(options, parts, self._list)
        self._rules = {(one.value, one.scheme): one.rule for one in options.workitems}
        self._noticed: dict[str, str] = {}
        self._noticed_before: dict[str, str] = {}

    def look(self) -> int:
        """Go on with the items that are open, then claim new ones; the instances that came."""
        trouble: MedsegError | None = None
        before = self._performer.taken
        for item in self._parts.items.open(self.name):
            trouble = self._guarded(item.workitem_uid, self._performer.go_on, item) or trouble
        room = self._options.at_most - len(self._parts.items.open(self.name))
        if room > 0:
            trouble = self._claim_new(room) or trouble
            self._noticed_before, self._noticed = self._noticed, {}
        if trouble is not None:
            raise trouble
        return self._performer.taken - before

    def _guarded(
        self, workitem_uid: str, work: Callable[[WorkItem], None], item: WorkItem
    ) -> MedsegError | None:
        """Trouble with one item holds no other up; that of its archive is told to who looks."""
        try:
            work(item)
        except PacsRejectedError as err:
            self._notice(workitem_uid, str(err))
        except InputAwayError as err:
            return err
        return None

    def _claim_new(self, room: int) -> MedsegError | None:
        """Claim scheduled items that are to be done here, the most urgent first."""
        found = {}
        for one in self._scheduled():
            uid = uid_of(one, "SOPInstanceUID")
            if not uid:
                self._notice("", "an item of the work list has no valid SOP Instance UID")
            elif self._may_be_ours(one):
                found[uid] = one
        trouble: MedsegError | None = None
        known = self._parts.items.known(self.name, list(found))
        # What was odd at the last look comes last, and there is an end to what is read.
        order = sorted(
            found.keys() - known, key=lambda uid: (uid in self._noticed_before, _urgency(found[uid]))
        )
        for uid in order[:_MOST_READ]:
            if room <= 0:
                break
            item = self._written_down(uid)
            if item is not None:
                room -= 1
                trouble = self._guarded(uid, self._performer.claim, item) or trouble
        return trouble

    def _scheduled(self) -> Iterator[JsonDataSet]:
        query = self._options.query
        keys = {}
        if query.label is not None:
            keys["WorklistLabel"] = query.label
        # Schemes are compared here: not every server matches them.
        if query.station is not None:
            keys["ScheduledStationNameCodeSequence.CodeValue"] = query.station.value
        if not query.by_code:
            yield from self._list.scheduled(keys)
            return
        for value in dict.fromkeys(one.value for one in self._options.workitems):
            yield from self._list.scheduled(keys | {"ScheduledWorkitemCodeSequence.CodeValue": value})

    def _may_be_ours(self, found: JsonDataSet) -> bool:
        """Whether an item is worth to be read, by what the search says of it."""
        ready, codes = text_of(found, "InputReadinessState") in ("", "READY"), codes_of(found)
        return ready and (not codes or any(key_of(code) in self._rules for code in codes))

    def _written_down(self, uid: str) -> WorkItem | None:
        """A row for an item that is going to be claimed; None where it is not for this node, or odd."""
        try:
            found = self._list.read(uid)
            rule = None if found is None else self._rule_for(found)
            if found is None or rule is None:
                return None
            request = read_request(found)
        except (PacsRejectedError, MalformedWorkitemError) as err:
            self._notice(uid, str(err))
            return None
        transaction = str(generate_uid(prefix=None))
        return self._parts.items.add(self.name, uid, rule=rule, request=request, transaction_uid=transaction)

    def _rule_for(self, found: JsonDataSet) -> str | None:
        """The rule that a scheduled item asks for, where label, station and readiness are right.

        All is compared once more: a server may pass over a key that it does not know.
        """
        query = self._options.query
        if text_of(found, "ProcedureStepState") != "SCHEDULED":
            return None
        if text_of(found, "InputReadinessState") not in ("", "READY"):
            return None
        if query.label is not None and text_of(found, "WorklistLabel") != query.label:
            return None
        stations = map(Code.read, items_of(found, "ScheduledStationNameCodeSequence"))
        if query.station is not None and key_of(query.station) not in map(key_of, stations):
            return None
        return next((self._rules[key] for key in map(key_of, codes_of(found)) if key in self._rules), None)

    def _notice(self, uid: str, reason: str) -> None:
        """Write down what is odd about an item, once."""
        if reason not in (self._noticed_before.get(uid), self._noticed.get(uid)):
            self._parts.audit.record(
                "work_item", outcome="left", source=self.name, workitem_uid=uid, reason=reason
            )
        self._noticed[uid] = reason


def _urgency(item: JsonDataSet) -> tuple[int, str, str]:
    """Order among scheduled items: priority, then when they are planned."""
    rank = -PRIORITIES.get(text_of(item, "ScheduledProcedureStepPriority"), 0)
    return rank, text_of(item, "ScheduledProcedureStepStartDateTime"), text_of(item, "SOPInstanceUID")
