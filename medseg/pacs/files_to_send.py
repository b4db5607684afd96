"""The files that a user names -> which of them can be sent, and why not the others; nothing is left out in silence."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import ImageReadError, StorageError
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_header import DicomHeader
from medseg.io.files_below import files_below
from medseg.io.limits import DEFAULT_LIMITS, read_bytes, reason_of
from medseg.io.sniff import is_something, kind_of, read_head
from medseg.pacs.sending import Outgoing

_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file or folder that was named, or lies in a named folder.

    Parameters
    ----------
    path : Path
    state : str
        "" where it can be sent; no DICOM; other: it lies in a folder and is of another kind, as pictures and tables
        beside results; unread: the system does not let us; same: another file has the same bytes; refused: another
        file has the same SOP Instance UID and other content.
    reason : str
    same_as : Path or None
    """

    path: Path
    state: str = ""
    reason: str = ""
    same_as: Path | None = None


def found_files(inputs: Sequence[Path]) -> Iterator[FoundFile]:
    """Look at each file.

    Raises
    ------
    StorageError
        An input is not there.
    """
    first: dict[str, Path] = {}
    for top in inputs:
        for path, reason in files_below(top):
            found = FoundFile(path=path, state="unread", reason=reason) if reason else _looked_at(path, first)
            # Who names a file itself means it.
            beside = path is not top and found.state == "no DICOM" and _is_other(path)
            yield replace(found, state="other", reason="") if beside else found


def outgoing(path: Path) -> Outgoing:
    """A file as it is handed to an archive.

    Raises
    ------
    ImageReadError, StorageError
        It is no DICOM, too large, or cannot be read.
    """
    header = DicomHeader.of(scan_file(path, DEFAULT_LIMITS).dataset, path)
    sop_class_uid, sop_instance_uid = map(header.uid, _IDENTIFIERS)
    content = read_bytes(path, DEFAULT_LIMITS)
    return Outgoing(sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, content=content)


def _looked_at(path: Path, first: dict[str, Path]) -> FoundFile:
    try:
        header = DicomHeader.of(scan_file(path, DEFAULT_LIMITS).dataset, path)
        missing = [keyword for keyword in _IDENTIFIERS if not header.uid(keyword)]
        if missing:
            return FoundFile(path=path, state="no DICOM", reason=f"{missing[0]} is missing")
        other = first.setdefault(header.uid("SOPInstanceUID"), path)
        if other is path:
            return FoundFile(path=path)
        if filecmp.cmp(other, path, shallow=False):
            return FoundFile(path=path, state="same", same_as=other)
    except ImageReadError as err:
        return FoundFile(path=path, state="no DICOM", reason=str(err).removeprefix(f"{path}: "))
    except StorageError as err:
        return FoundFile(path=path, state="unread", reason=str(err))
    except OSError as err:
        return FoundFile(path=path, state="unread", reason=f"{path} cannot be read: {reason_of(err)}")
    reason = f"{other} has the same SOP Instance UID and other content; an archive keeps one of them"
    return FoundFile(path=path, state="refused", reason=reason)


def _is_other(path: Path) -> bool:
    """Whether a file is of another kind and does not pretend to be DICOM."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return False
    try:
        head = read_head(path)
    except (ImageReadError, StorageError):
        return False
    return kind_of(head) != "dicom" and is_something(head)
