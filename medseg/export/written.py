"""What came of an export; light, so that nothing is loaded to say it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenObject:
    """What came of an export.

    Parameters
    ----------
    path : Path or None
        None where there was nothing to write; `notes` say why.
    sop_instance_uid, series_instance_uid : str
        "" where no file was written.
    notes : tuple of str
        What a reader of the result must know, one sentence each.
    """

    path: Path | None
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    notes: tuple[str, ...] = ()
