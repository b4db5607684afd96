"""Names of image files: which ending, which stem, and what a folder holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import ManifestError, StorageError

NIFTI_ENDINGS = (".nii.gz", ".nii")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ENDINGS = (*NIFTI_ENDINGS, ".nrrd", ".nhdr", ".mha", ".mhd", *PICTURE_ENDINGS, ".dcm")
MAX_FILES = 1_000_000


def ending_of(name: str, endings: Sequence[str] = ENDINGS) -> str | None:
    """The ending of an image file as it is written, `.nii.gz` before `.gz`; None for other files."""
    lower = name.casefold()
    for ending in sorted(endings, key=len, reverse=True):
        if lower.endswith(ending.casefold()) and len(name) > len(ending):
            return name[-len(ending) :]
    return None


def image_stem(name: str) -> str:
    """File name without the ending of an image: `a.b.nii.gz` -> `a.b`."""
    ending = ending_of(name)
    return name if ending is None else name[: -len(ending)]


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI in one file."""
    return ending_of(path.name, NIFTI_ENDINGS) is not None


def list_files(folder: Path, *, below: bool = False) -> list[Path]:
    """The files of a folder, sorted, without hidden ones such as `._a.nii.gz` and `.DS_Store`.

    Parameters
    ----------
    folder : Path
    below : bool
        Whether folders inside are searched as well; links to folders are not followed.

    Raises
    ------
    ManifestError
        No such folder, or more than a million files.
    StorageError
        A folder may not be read.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: there is no such folder")
    found: list[Path] = []
    for home, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if below and not name.startswith("."))
        found += [Path(home) / name for name in sorted(names) if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise ManifestError(f"{folder}: more than {MAX_FILES} files; name the folder of one data set")
    return found


def _unreadable(err: OSError) -> None:
    raise StorageError(f"{err.filename} cannot be read: {err.strerror}; check its permissions") from err
