"""An Orthanc in front of the node: its feed of changes is followed from where it was left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medseg.errors import PacsRejectedError
from medseg.node.arrival import Peer
from medseg.node.source_options import OrthancSource as OrthancOptions
from medseg.node.sources.marks import Marks
from medseg.node.sources.source import Taker, offer
from medseg.pacs.dicomweb_client import AnswerTooLongError, DicomwebClient, read_bounded

_PAGE = 100
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_CURSOR = "changes"
_TIMEOUT_S = 60.0


class OrthancSource:
    """See `Source`. The place in the feed moves when an instance is stored, so none is left out.

    Parameters
    ----------
    options : OrthancOptions
    intake : Taker
    marks : Marks
    file_limit : int
        Largest file that is fetched, bytes.

    References
    ----------
    Orthanc Book, REST API, "Tracking changes": `GET /changes?since=&limit=` answers Changes, Last and Done.
    """

    def __init__(self, options: OrthancOptions, *, intake: Taker, marks: Marks, file_limit: int) -> None:
        self.name, self.every_s = options.name, options.every
        self._intake, self._marks, self._limit = intake, marks, file_limit
        self._client = DicomwebClient(options, timeout_s=_TIMEOUT_S)

    def look(self) -> int:
        """Take the instances of all changes since the last look."""
        taken = 0
        while True:
            since = int(self._marks.get(_CURSOR) or 0)
            page = self._client.get_json(
                "/changes", params={"since": str(since), "limit": str(_PAGE)}, accept="application/json"
            )
            if not isinstance(page, Mapping) or not isinstance(page.get("Changes"), list):
                raise PacsRejectedError(
                    f"source {self.name}: {self._client.url}/changes is not that of an Orthanc"
                )
            last = int(page.get("Last") or 0)
            if 0 <= last < since:
                # Another database answers at the same address: it is followed from its beginning.
                self._marks.set(_CURSOR, "0")
                continue
            for change in page["Changes"]:
                taken += self._change(change)
            # A feed that does not go on is looked at again later, not at once.
            stands = int(self._marks.get(_CURSOR) or 0) == since
            if page.get("Done", True) or stands:
                return taken

    def _change(self, change: Mapping[str, Any]) -> int:
        taken = 0
        if change.get("ChangeType") == "NewInstance" and _ID.fullmatch(str(change.get("ID"))):
            taken = self._take(str(change["ID"]))
        self._marks.set(_CURSOR, str(int(change["Seq"])))
        return taken

    def _take(self, identifier: str) -> int:
        peer = Peer(route="orthanc", name=self.name)
        try:
            content = self._file(identifier)
        except AnswerTooLongError as err:
            self._intake.reject(peer, f"{err} (storage.instance_limit)")
            return 0
        receipt = None if content is None else offer(self._intake, content, peer)
        return int(receipt is not None and receipt.verdict == "stored")

    def _file(self, identifier: str) -> bytes | None:
        """The file of an instance, None where it was deleted since; AnswerTooLongError where it is too large."""
        with self._client.request("GET", f"/instances/{identifier}/file") as answer:
            if answer.status_code == 404:
                return None
            self._client.check(answer)
            return read_bounded(answer, self._limit)
