"""The checksum of an image's files without decoding them: has anything changed since it was read?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medseg.io.dicom_frames import cores
from medseg.io.itk_image import itk_files
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.nifti import nifti_files
from medseg.io.sniff import ITK, sniff
from medseg.provenance import sha256_file


def image_sha256(paths: Sequence[Path], *, limits: ReadLimits = DEFAULT_LIMITS) -> str:
    """What reading an image gives as `Source.sha256`.

    Parameters
    ----------
    paths : sequence of Path
        One file, with the voxel file that its header names; or the files of a DICOM series in the order
        of its slices.
    limits : ReadLimits, optional

    Returns
    -------
    str
        SHA-256 of the file's bytes, hex; of several files that of their hashes in their order.

    Raises
    ------
    ImageReadError
        A header that names its voxel file is damaged.
    """
    files = tuple(paths) if len(paths) > 1 else _files_of(paths[0], limits)
    if len(files) == 1:
        return sha256_file(files[0])
    with ThreadPoolExecutor(min(cores(), len(files))) as pool:
        hashes = list(pool.map(sha256_file, files))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _files_of(path: Path, limits: ReadLimits) -> tuple[Path, ...]:
    kind = sniff(path)
    if kind == "nifti":
        return nifti_files(path, limits)
    return itk_files(path, limits) if kind in ITK else (path,)
