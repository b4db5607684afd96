"""Which series a DICOM mask was drawn on: pairs masks that no name brings together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from medseg.io.sniff import sniff

_SERIES = ("ReferencedSeriesSequence", "RTReferencedSeriesSequence")
_WAY = ("ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence", *_SERIES)


def source_series(path: Path) -> frozenset[str]:
    """Series Instance UIDs that a SEG or RTSTRUCT names as its images; empty for any other file."""
    if path.suffix.casefold() not in ("", ".dcm") or sniff(path) != "dicom":
        return frozenset()
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(_WAY))
    except (InvalidDicomError, OSError, ValueError, EOFError):
        # The mask is read once more to be compared; what is wrong with it is told there.
        return frozenset()
    return frozenset(_series_in(header))


def _series_in(header: Dataset) -> Iterable[str]:
    for keyword in _WAY:
        for item in header.get(keyword) or ():
            if keyword in _SERIES and item.get("SeriesInstanceUID"):
                yield str(item.SeriesInstanceUID)
            yield from _series_in(item)


def pairs_by_series(ours: Mapping[str, Path], theirs: Mapping[str, Path]) -> dict[str, str]:
    """Names of predictions by the names of the references that were drawn on the same series, where no other was.

    Parameters
    ----------
    ours, theirs : mapping of str to Path
        Name -> a DICOM file of that mask.
    """
    drawn = [{name: source_series(path) for name, path in part.items()} for part in (ours, theirs)]
    found = {}
    for name, series in drawn[1].items():
        near = [other for other, seen in drawn[0].items() if series & seen]
        back = [other for other, seen in drawn[1].items() if series & seen]
        if len(near) == 1 and len(back) == 1:
            found[name] = near[0]
    return found
