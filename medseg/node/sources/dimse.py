"""An archive that is asked by C-FIND, and gives its studies by C-GET or C-MOVE."""

from __future__ import annotations

import functools

from medseg.errors import MedsegError, StorageError
from medseg.node.arrival import Arrival, Peer
from medseg.node.association import STATUS
from medseg.node.clock import Clock
from medseg.node.dimse_message import SUCCESS
from medseg.node.source_options import DimseSource as DimseOptions
from medseg.node.sources.archive_query import Fetched, fetch_grown, keys_of
from medseg.node.sources.marks import Marks
from medseg.node.sources.source import Taker, later
from medseg.pacs.query import FoundStudy, QueryClient

_TIMEOUT_S = 60.0


class DimseSource:
    """See `Source`. A study is fetched again when the archive has more instances of it than at the last look.

    Parameters
    ----------
    options : DimseOptions
    intake : Taker
    marks : Marks
    clock : Clock
    file_limit : int
        Largest instance, bytes.
    """

    def __init__(
        self, options: DimseOptions, *, intake: Taker, marks: Marks, clock: Clock, file_limit: int
    ) -> None:
        self.name, self.every_s = options.name, options.every
        self._options, self._intake, self._marks, self._clock = options, intake, marks, clock
        self._client = QueryClient(options, timeout_s=_TIMEOUT_S, instance_limit=file_limit)
        self._full, self._taken = "", 0

    def look(self) -> int:
        """Fetch the studies that match and have grown."""
        studies = ((study.study_uid, study.instances) for study in self._studies())
        return fetch_grown(studies, self._marks, count=self._client.count_instances, fetch=self._fetch)

    def _studies(self) -> list[FoundStudy]:
        keys = keys_of(self._options.query, now=self._clock.now())
        found: dict[str, FoundStudy] = {}
        for modality in self._options.query.modality or ("",):
            for study in self._client.find_studies(keys | {"ModalitiesInStudy": modality}):
                found[study.study_uid] = study
        return list(found.values())

    def _fetch(self, study_uid: str) -> Fetched:
        if self._options.retrieve == "get":
            return self._get(study_uid)
        # What is moved comes in by the node's own listener, which counts it.
        moved = self._client.move_study(study_uid, self._options.calling_ae_title)
        return Fetched(taken=0, came=moved)

    def _get(self, study_uid: str) -> Fetched:
        self._full, self._taken = "", 0
        try:
            came = self._client.get_study(study_uid, functools.partial(self._store, study_uid))
        except MedsegError as err:
            if self._full:
                raise StorageError(f"source {self.name}: {self._full}") from err
            raise
        return Fetched(taken=self._taken, came=came)

    def _store(
        self, study_uid: str, data_set: bytes, syntax: str, sop_class_uid: str, sop_instance_uid: str
    ) -> int:
        receipt = self._intake.accept(
            Arrival(
                data_set=data_set,
                transfer_syntax_uid=syntax,
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                study_uid=study_uid,
                peer=Peer(route="query", name=self.name),
            )
        )
        self._taken += receipt.verdict == "stored"
        if later(receipt):
            self._full = receipt.reason
        if later(receipt) or receipt.verdict == "mismatch":
            return STATUS[receipt.verdict]
        # What the intake will never take stands in the audit log; the archive need not send it again.
        return SUCCESS
