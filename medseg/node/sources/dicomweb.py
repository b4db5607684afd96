"""An archive that is asked by QIDO-RS and read by WADO-RS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydicom.uid import UID

from medseg.node.arrival import Peer
from medseg.node.clock import Clock
from medseg.node.source_options import DicomwebSource as DicomwebOptions
from medseg.node.sources.archive_query import fetch_grown, keys_of
from medseg.node.sources.marks import Marks
from medseg.node.sources.source import Taker, offer
from medseg.pacs.dicomweb_client import DicomwebClient

_STUDY, _INSTANCES = "0020000D", "00201208"
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
        return fetch_grown(self._studies(), self._marks, self._take)

    def _studies(self) -> Iterator[tuple[str, int]]:
        keys = keys_of(self._options.query, now=self._clock.now())
        keys |= {"limit": str(_MOST), "includefield": _INSTANCES}
        seen: set[str] = set()
        for modality in self._options.query.modality or ("",):
            for item in self._pages(keys | ({"ModalitiesInStudy": modality} if modality else {})):
                study, count = str(_first(item, _STUDY) or ""), _first(item, _INSTANCES)
                if UID(study).is_valid and study not in seen:
                    seen.add(study)
                    yield study, count if isinstance(count, int) else self._count(study)

    def _pages(self, keys: dict[str, str]) -> Iterator[Mapping[str, Any]]:
        """All matches, page by page; an archive that knows no offset gives its first page again, which ends it."""
        first = None
        for offset in range(0, _MOST * _MOST, _MOST):
            page = self._client.find("/studies", keys | {"offset": str(offset)})
            begin = _first(page[0], _STUDY) if page else None
            if not page or (offset and begin == first):
                return
            first = first or begin
            yield from page
            if len(page) < _MOST:
                return

    def _count(self, study: str) -> int:
        """Instances of a study, for an archive that does not say it with the study."""
        return len(self._client.find(f"/studies/{study}/instances", {}))

    def _take(self, study: str) -> int:
        taken = 0
        for content in self._client.retrieve(f"/studies/{study}", part_limit=self._limit):
            receipt = offer(self._intake, content, Peer(route="dicomweb", name=self.name))
            taken += receipt is not None and receipt.verdict == "stored"
        return taken


def _first(item: Mapping[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values[0] if isinstance(values, list) and values else None
