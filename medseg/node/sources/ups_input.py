"""The input of work items: retrieved from the configured archives alone, and handed to the intake."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Column, select

from medseg.database import Database
from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.node.arrival import Peer, Receipt
from medseg.node.source_options import ArchiveOptions, UpsSource
from medseg.node.sources.source import Taker, offer
from medseg.node.tables import instances, results
from medseg.pacs.dicomweb_client import DicomwebClient
from medseg.pacs.workitem import InputReference

_TIMEOUT_S = 60.0
_BATCH = 500
_ONE_BY_ONE = 8
"""So many instances of a series are asked for one by one; of more the series is read, and the rest of it left."""

_log = logging.getLogger(__name__)


class InputAwayError(PacsUnreachableError):
    """No archive that may have the input answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Archive:
    url: str
    ae_title: str | None
    client: DicomwebClient


class UpsInput:
    """Retrieves the input of work items.

    Parameters
    ----------
    options : UpsSource
    intake : Taker
    database : Database
    file_limit : int
        Largest instance, bytes.
    """

    def __init__(self, options: UpsSource, *, intake: Taker, database: Database, file_limit: int) -> None:
        self._intake, self._database, self._limit = intake, database, file_limit
        self._peer = Peer(route="ups", name=options.name)
        self._archives = [_archive(one) for one in options.archives or (options,)]

    def missing(self, inputs: Iterable[InputReference]) -> int:
        """How many instances are not stored; one at least for a series that was not looked at."""
        count = 0
        for reference in inputs:
            stored = self._stored(reference.instances)
            count += len(reference.instances) - len(stored) if reference.instances else 1
        return count

    def series(self, inputs: Iterable[InputReference]) -> dict[str, set[str]]:
        """Series Instance UIDs of the stored input, by Study Instance UID."""
        found: dict[str, set[str]] = defaultdict(set)
        wanted = [uid for reference in inputs for uid in reference.instances]
        for batch in _batches(wanted):
            query = select(instances.c.study_uid, instances.c.series_uid).distinct()
            with self._database.read() as connection:
                rows = connection.execute(query.where(instances.c.sop_instance_uid.in_(batch))).all()
            for study, series in rows:
                found[study].add(series)
        return found

    def fetch(self, inputs: Sequence[InputReference]) -> tuple[tuple[InputReference, ...], int]:
        """Retrieve what is missing; the references, with the instances of those that named none, and how many came.

        Raises
        ------
        InputAwayError
            Something is missing, and an archive that may have it does not answer.
        StorageError
            The node has no room.
        """
        known, taken = [], 0
        trouble: PacsUnreachableError | None = None
        for reference in inputs:
            after, came, away = self._from_archives(reference)
            known.append(after)
            taken += came
            trouble = trouble or away
        if trouble is not None:
            raise InputAwayError(str(trouble)) from trouble
        return tuple(known), taken

    def _from_archives(
        self, reference: InputReference
    ) -> tuple[InputReference, int, PacsUnreachableError | None]:
        away, taken = None, 0
        for archive in self._in_order(reference):
            if not self.missing([reference]):
                return reference, taken, None
            try:
                came = list(self._retrieve(archive, reference))
            except PacsUnreachableError as err:
                away = away or err
                continue
            except PacsRejectedError:
                # Another archive may have it; the text may hold UIDs.
                _log.info("input of a work item is not to be had from %s", archive.url)
                continue
            taken += sum(receipt.verdict == "stored" for receipt in came)
            if came and not reference.instances:
                uids = {receipt.sop_instance_uid for receipt in came}
                reference = replace(reference, instances=tuple(sorted(uids)))
        return reference, taken, away if self.missing([reference]) else None

    def _retrieve(self, archive: _Archive, reference: InputReference) -> Iterator[Receipt]:
        """What became of the wanted instances that the archive gave."""
        only = frozenset(reference.instances) or None
        for path in self._paths(reference):
            for content in archive.client.retrieve(path, part_limit=self._limit):
                receipt = offer(self._intake, content, self._peer, only=only, study_uid=reference.study_uid)
                if receipt is not None and receipt.sop_instance_uid and receipt.verdict != "mismatch":
                    yield receipt

    def _paths(self, reference: InputReference) -> list[str]:
        path = f"/studies/{reference.study_uid}"
        if not reference.series_uid:
            return [path]
        path += f"/series/{reference.series_uid}"
        wanted = set(reference.instances) - self._stored(reference.instances)
        if not 0 < len(wanted) <= _ONE_BY_ONE:
            return [path]
        return [f"{path}/instances/{uid}" for uid in sorted(wanted)]

    def _in_order(self, reference: InputReference) -> list[_Archive]:
        """Archives that the reference names, else all. Its URLs choose among them; none of them is called."""
        named = [
            archive
            for archive in self._archives
            if archive.ae_title in reference.ae_titles
            or any(url == archive.url or url.startswith(f"{archive.url}/") for url in reference.urls)
        ]
        return named or self._archives

    def _stored(self, uids: Sequence[str]) -> set[str]:
        """Those that are here, as instances or as results of the node."""
        columns: tuple[Column[str], ...] = (instances.c.sop_instance_uid, results.c.sop_instance_uid)
        found: set[str] = set()
        for batch in _batches(uids):
            with self._database.read() as connection:
                for column in columns:
                    found |= set(connection.execute(select(column).where(column.in_(batch))).scalars())
        return found


def _batches(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(uids), _BATCH):
        yield uids[start : start + _BATCH]


def _archive(options: ArchiveOptions | UpsSource) -> _Archive:
    title = options.ae_title if isinstance(options, ArchiveOptions) else None
    client = DicomwebClient(options, timeout_s=_TIMEOUT_S)
    return _Archive(url=client.url, ae_title=title, client=client)
