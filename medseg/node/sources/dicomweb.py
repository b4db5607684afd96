"""An archive that is asked by QIDO-RS and read by WADO-RS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medseg.node.arrival import Peer
from medseg.node.clock import Clock
from medseg.node.source_options import DicomwebSource as DicomwebOptions
from medseg.node.sources.archive_query import Fetched, fetch_grown, keys_of
from medseg.node.sources.marks import Marks
from medseg.node.sources.source import Taker, offer
from medseg.pacs.dicom_json import number_of, uid_of
from medseg.pacs.dicomweb_client import DicomwebClient

_INSTANCES = "00201208"
_TIMEOUT_S = 60.0
_MOST = 500


class DicomwebSource:
    """See `Source`. A study is read again when the archive has more instances of it than at the last look.

    Parameters
    ----------
    options : DicomwebOptions
    intake : Taker
    marks : Marks
    clock : Clock
    file_limit : int
        Largest instance, bytes.
    """

    def __init__(
        self, options: DicomwebOptions, *, intake: Taker, marks: Marks, clock: Clock, file_limit: int
    ) -> None:
        self.name, self.every_s = options.name, options.every
        self._options, self._intake, self._marks = options, intake, marks
        self._clock, self._limit = clock, file_limit
        self._client = DicomwebClient(options, timeout_s=_TIMEOUT_S)

    def look(self) -> int:
        """Take the studies that match and have grown."""
        return fetch_grown(self._studies(), self._marks, count=self._count, fetch=self._take)

    def _studies(self) -> Iterator[tuple[str, int | None]]:
        keys = keys_of(self._options.query, now=self._clock.now())
        keys |= {"limit": str(_MOST), "includefield": _INSTANCES}
        seen: set[str] = set()
        for modality in self._options.query.modality or ("",):
            for item in self._pages(keys | ({"ModalitiesInStudy": modality} if modality else {})):
                study = uid_of(item, "StudyInstanceUID")
                if study and study not in seen:
                    seen.add(study)
                    yield study, number_of(item, "NumberOfStudyRelatedInstances")

    def _pages(self, keys: dict[str, str]) -> Iterator[Mapping[str, Any]]:
        """All matches, page by page; an archive that knows no offset gives its first page again, which ends it."""
        first = None
        for offset in range(0, _MOST * _MOST, _MOST):
            page = self._client.find("/studies", keys | {"offset": str(offset)})
            begin = uid_of(page[0], "StudyInstanceUID") if page else ""
            if not page or (offset and begin == first):
                return
            first = first or begin
            yield from page
            if len(page) < _MOST:
                return

    def _count(self, study: str) -> int:
        """Instances of a study, for an archive that does not say it with the study."""
        return len(self._client.find(f"/studies/{study}/instances", {}))

    def _take(self, study: str) -> Fetched:
        taken = nameless = 0
        came: set[str] = set()
        peer = Peer(route="dicomweb", name=self.name)
        for content in self._client.retrieve(f"/studies/{study}", part_limit=self._limit):
            receipt = offer(self._intake, content, peer, study_uid=study)
            if receipt is None or not receipt.sop_instance_uid:
                # It cannot be read, and will not be at the next look.
                nameless += 1
            elif receipt.verdict != "mismatch":
                came.add(receipt.sop_instance_uid)
                taken += receipt.verdict == "stored"
        return Fetched(taken=taken, came=len(came) + nameless)
