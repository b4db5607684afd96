"""An archive that is asked by C-FIND, and gives its studies by C-GET or C-MOVE."""

from __future__ import annotations

from medseg.node.arrival import Arrival, Peer
from medseg.node.association import STATUS
from medseg.node.clock import Clock
from medseg.node.source_options import DimseSource as DimseOptions
from medseg.node.sources.archive_query import keys_of
from medseg.node.sources.marks import Marks
from medseg.node.sources.source import Taker
from medseg.pacs.query import FoundStudy, QueryClient

_TIMEOUT_S = 60.0
_UNKNOWN = -1


class DimseSource:
    """See `Source`. A study is fetched again when the archive has more instances of it than at the last look.

    Parameters
    ----------
    options : DimseOptions
    intake : Taker
    marks : Marks
    clock : Clock
    """

    def __init__(self, options: DimseOptions, *, intake: Taker, marks: Marks, clock: Clock) -> None:
        self.name, self.every_s = options.name, options.every
        self._options, self._intake, self._marks, self._clock = options, intake, marks, clock
        self._client = QueryClient(options, timeout_s=_TIMEOUT_S)

    def look(self) -> int:
        """Fetch the studies that match and have grown."""
        taken = 0
        for study in self._studies():
            count = _UNKNOWN if study.instances is None else study.instances
            if self._marks.get(study.study_uid) != str(count):
                taken += self._fetch(study.study_uid)
                self._marks.set(study.study_uid, str(count))
        return taken

    def _studies(self) -> list[FoundStudy]:
        keys = keys_of(self._options.query, now=self._clock.now())
        found: dict[str, FoundStudy] = {}
        for modality in self._options.query.modality or ("",):
            for study in self._client.find_studies(keys | {"ModalitiesInStudy": modality}):
                found[study.study_uid] = study
        return list(found.values())

    def _fetch(self, study_uid: str) -> int:
        if self._options.retrieve == "get":
            return self._client.get_study(study_uid, self._store)
        # What is moved comes in by the node's own listener, which counts it.
        self._client.move_study(study_uid, self._options.calling_ae_title)
        return 0

    def _store(self, data_set: bytes, syntax: str, sop_class_uid: str, sop_instance_uid: str) -> int:
        receipt = self._intake.accept(
            Arrival(
                data_set=data_set,
                transfer_syntax_uid=syntax,
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                peer=Peer(route="query", name=self.name),
            )
        )
        return STATUS[receipt.verdict]
