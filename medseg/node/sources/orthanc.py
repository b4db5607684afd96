"""An Orthanc in front of the node: its feed of changes is followed from where it was left."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from medseg.errors import PacsRejectedError
from medseg.node.arrival import Peer
from medseg.node.clock import Clock
from medseg.node.source_options import OrthancSource as OrthancOptions
from medseg.node.sources.marks import Marks
from medseg.node.sources.source import Taker, offer
from medseg.pacs.dicomweb_client import AnswerTooLongError, DicomwebClient, read_bounded

_PAGE = 100
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_CURSOR, _LEFT = "changes", "left"
_MOST_LEFT = 20
"""Of more instances that Orthanc does not give the fault is its own, and the feed waits."""
_GIVE_UP_S = 24 * 3600.0
_TIMEOUT_S = 60.0


class OrthancSource:
    """See `Source`. The place in the feed moves when an instance is stored, so none is left out.

    Parameters
    ----------
    options : OrthancOptions
    intake : Taker
    marks : Marks
    clock : Clock
    file_limit : int
        Largest file that is fetched, bytes.

    References
    ----------
    Orthanc Book, REST API, "Tracking changes": `GET /changes?since=&limit=` answers Changes, Last and Done.
    """

    def __init__(
        self, options: OrthancOptions, *, intake: Taker, marks: Marks, clock: Clock, file_limit: int
    ) -> None:
        self.name, self.every_s = options.name, options.every
        self._intake, self._marks, self._clock, self._limit = intake, marks, clock, file_limit
        self._client = DicomwebClient(options, timeout_s=_TIMEOUT_S)
        self._trouble: PacsRejectedError | None = None

    def look(self) -> int:
        """Take the instances of all changes since the last look, and those that could not be had before."""
        self._trouble = None
        page = self._first_page()
        taken = self._take_left()
        while True:
            since = self._cursor()
            for change in page["Changes"]:
                taken += self._change(change)
            # A feed that does not go on is looked at again later, not at once.
            if page.get("Done", True) or self._cursor() == since:
                break
            page = self._page()
            if page["Last"] < self._cursor():
                raise self._no_feed("does not count upwards")
        if self._trouble is not None:
            raise self._trouble
        return taken

    def _cursor(self) -> int:
        return int(self._marks.get(_CURSOR) or 0)

    def _first_page(self) -> Mapping[str, Any]:
        page = self._page()
        if page["Last"] < self._cursor():
            # Another database answers at the same address: it is followed from its beginning.
            self._marks.set(_CURSOR, "0")
            page = self._page()
        return page

    def _page(self) -> Mapping[str, Any]:
        """The changes behind the cursor."""
        params = {"since": str(self._cursor()), "limit": str(_PAGE)}
        page = self._client.get_json("/changes", params=params, accept="application/json")
        if not isinstance(page, Mapping) or not isinstance(page.get("Changes"), list):
            raise self._no_feed("is not that of an Orthanc")
        if not _is_place(page.get("Last")):
            raise self._no_feed("does not say where it ends")
        return page

    def _no_feed(self, what: str) -> PacsRejectedError:
        return PacsRejectedError(f"source {self.name}: {self._client.url}/changes {what}")

    def _change(self, change: Any) -> int:
        place = change.get("Seq") if isinstance(change, Mapping) else None
        if not _is_place(place) or place <= self._cursor():
            raise self._no_feed("does not count upwards")
        taken, identifier = 0, str(change.get("ID"))
        if change.get("ChangeType") == "NewInstance" and _ID.fullmatch(identifier):
            taken = self._take_or_leave(identifier)
        self._marks.set(_CURSOR, str(place))
        return taken

    def _take_or_leave(self, identifier: str) -> int:
        """Take an instance; one that cannot be had holds the others up only where there are many of that kind."""
        try:
            return self._take(identifier)
        except _NotHadError as err:
            left = self._left()
            if len(left) >= _MOST_LEFT:
                raise
            self._set_left(left | {identifier: self._clock.now()})
            self._trouble = err
            return 0

    def _take_left(self) -> int:
        """Ask once more for what could not be had."""
        taken, left = 0, self._left()
        for identifier, since in list(left.items()):
            try:
                taken += self._take(identifier)
            except _NotHadError as err:
                # A clock that was set back gives nothing up.
                if self._clock.now() - since < _GIVE_UP_S:
                    continue
                self._intake.reject(self._peer, f"{err} for a day; it is asked for no more")
            left.pop(identifier)
            self._set_left(left)
        return taken

    def _left(self) -> dict[str, float]:
        found: dict[str, float] = json.loads(self._marks.get(_LEFT) or "{}")
        return found

    def _set_left(self, left: Mapping[str, float]) -> None:
        self._marks.set(_LEFT, json.dumps(left))

    @property
    def _peer(self) -> Peer:
        return Peer(route="orthanc", name=self.name)

    def _take(self, identifier: str) -> int:
        try:
            content = self._file(identifier)
        except AnswerTooLongError as err:
            self._intake.reject(self._peer, f"{err} (storage.instance_limit)")
            return 0
        receipt = None if content is None else offer(self._intake, content, self._peer)
        return int(receipt is not None and receipt.verdict == "stored")

    def _file(self, identifier: str) -> bytes | None:
        """The file of an instance, None where it was deleted since; AnswerTooLongError where it is too large."""
        with self._client.request("GET", f"/instances/{identifier}/file") as answer:
            if answer.status_code == 404:
                return None
            if answer.status_code >= 400:
                raise _NotHadError(f"{self._client.url} answers {answer.status_code} for an instance")
            self._client.check(answer)
            return read_bounded(answer, self._limit)


class _NotHadError(PacsRejectedError):
    """Orthanc has an instance in its index, and does not give it: its file is damaged, or the disk is away."""


def _is_place(value: Any) -> TypeGuard[int]:
    """Whether it is a place in the feed."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
