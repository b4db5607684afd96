"""The sender for an archive, and the waits between its tries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pydicom.dataset import Dataset

from medseg.pacs.dicomweb_client import DicomwebSender
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.options import DicomwebArchive, DimseArchive
from medseg.pacs.sending import Sender


class Waits(Protocol):
    """Settings that say how long to wait, in seconds."""

    @property
    def first_wait(self) -> float: ...
    @property
    def longest_wait(self) -> float: ...


def sender_for(
    options: DimseArchive | DicomwebArchive, *, report: Callable[[Dataset, int], int] | None = None
) -> Sender:
    """What delivers to an archive.

    Raises
    ------
    ConfigError
        A certificate or secret for it cannot be used.
    """
    if isinstance(options, DimseArchive):
        return DimseSender(options, report=report)
    return DicomwebSender(options)


def wait_before(attempts: int, waits: Waits) -> float:
    """Seconds before the next try: they double with each, up to a ceiling."""
    return float(min(waits.first_wait * 2 ** min(attempts - 1, 30), waits.longest_wait))
