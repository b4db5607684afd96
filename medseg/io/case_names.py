"""Case ids: safe as file names, unique over a run, and free of what names a person."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from medseg.privacy import safe_name

_SUFFIX = re.compile(
    r"(\.nii)?\.(gz|nii|dcm|dicom|ima|img|hdr|nrrd|nhdr|mha|mhd|mnc|vtk|png|jpe?g|tiff?|bmp)$", re.IGNORECASE
)
_UID_LIKE = re.compile(r"\d+(\.\d+){4,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a case id may be made of.

    Parameters
    ----------
    relative : PurePath
        Path of the file below the folder that was searched.
    identity : str
        Text that differs between any two files, such as the SOP Instance UID or the path.
    identifiers : frozenset of str
        Lower-case words and numbers that must not stand in an id.
    """

    relative: PurePath
    identity: str
    identifiers: frozenset[str] = frozenset()


def stem_of(name: str) -> str:
    """File name without the endings of image files: `a.nii.gz` -> `a`, `IM.0001` stays."""
    return _SUFFIX.sub("", name) or name


def case_ids(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """One id for each candidate, in order.

    The stem of the file name where it is unique; else folders and stem, as many folders as tell the
    files apart; else, and wherever a name holds an identifier of the patient or a UID, `case-` and a
    digest. Ids differ also where upper and lower case do not count.
    """
    ids = [_named(candidate, depth=0) for candidate in candidates]
    deepest = max((len(candidate.relative.parts) for candidate in candidates), default=1)
    for depth in range(1, deepest):
        clashing = _clashing(ids)
        if not clashing:
            break
        ids = [
            _named(c, depth=depth) if i.casefold() in clashing else i
            for c, i in zip(candidates, ids, strict=True)
        ]
    clashing = _clashing(ids)
    ids = [_digest(c) if i.casefold() in clashing else i for c, i in zip(candidates, ids, strict=True)]
    return tuple(ids)


def _clashing(ids: Sequence[str]) -> frozenset[str]:
    counts = Counter(case_id.casefold() for case_id in ids)
    return frozenset(case_id for case_id, count in counts.items() if count > 1)


def _named(candidate: Candidate, *, depth: int) -> str:
    parts = candidate.relative.parts
    folders = parts[max(len(parts) - 1 - depth, 0) : -1]
    text = "_".join((*folders, stem_of(parts[-1])))
    lower = text.casefold()
    words = set(re.split(r"[\W\d_]+", lower)) | set(re.findall(r"\d+", lower))
    reveals = words & candidate.identifiers or _UID_LIKE.search(text)
    return _digest(candidate) if reveals else safe_name(text)


def _digest(candidate: Candidate) -> str:
    return "case-" + hashlib.sha256(candidate.identity.encode("utf-8", "surrogatepass")).hexdigest()[:12]
