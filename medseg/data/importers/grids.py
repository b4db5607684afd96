"""Grids of NIfTI files from their headers alone: do image and mask of a case lie on each other?"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.data.importers.file_names import is_nifti
from medseg.data.manifest import Case
from medseg.errors import InputError, StorageError
from medseg.geometry import same_affine
from medseg.io.foreign import foreign_parser
from medseg.io.limits import DEFAULT_LIMITS, open_regular
from medseg.io.nifti_header import HEADER_BYTES, NiftiHeader, parse_nifti_header


def grid_problems(case: Case, *, channels: int = 1) -> list[str]:
    """What is wrong with the grids of a case's NIfTI files; files of other formats are not opened.

    Parameters
    ----------
    case : Case
    channels : int, optional
        Channels that the data set names: an image in one file may hold as many along a fourth axis.

    Returns
    -------
    list of str
        A sentence for each file whose header cannot be read, for each with more than three axes,
        and for each whose shape or affine differs from that of the first image. The affine is
        compared where both files have one (`geometry.same_affine`, 0.01 mm).
    """
    files = [("image", path) for path in case.images]
    files += [("label", case.label)] if case.label is not None else []
    headers: list[tuple[str, Path, NiftiHeader]] = []
    problems: list[str] = []
    for role, path in files:
        if not is_nifti(path):
            continue
        try:
            header = read_header(path)
        except (InputError, StorageError) as err:
            problems.append(str(err))
            continue
        axes = _axes(header.shape)
        in_one_file = role == "image" and len(case.images) == 1 and channels > 1
        if in_one_file and len(axes) == 4 and axes[3] == channels:
            headers.append((role, path, replace(header, shape=axes[:3])))
        elif in_one_file:
            problems.append(
                f"image {path} has the shape {header.shape}; expected a fourth axis of {channels} channels"
            )
        elif len(axes) > 3:
            problems.append(
                f"{role} {path} has {len(_axes(header.shape))} axes, shape {header.shape}; medseg reads 2 or 3: "
                "write each channel or time point into a file of its own"
            )
        else:
            headers.append((role, path, header))
    return problems + _differences(headers)


def read_header(path: Path) -> NiftiHeader:
    """The header of a .nii or .nii.gz file; no voxel is read.

    Raises
    ------
    ImageReadError, GeometryError
        As `nifti_header.parse_nifti_header`.
    """
    with ExitStack() as stack:
        stack.enter_context(foreign_parser(path, "the header cannot be read"))
        raw = stack.enter_context(open_regular(path))
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if compressed else raw
        return parse_nifti_header(stream.read(HEADER_BYTES), path, DEFAULT_LIMITS)


def _differences(headers: Sequence[tuple[str, Path, NiftiHeader]]) -> list[str]:
    if not headers:
        return []
    first_role, first_path, first = headers[0]
    return [
        f"{first_role} and {role} do not share a grid: {_described(first_path, first)}, "
        f"but {_described(path, header)}"
        for role, path, header in headers[1:]
        if not _same_grid(first, header)
    ]


def _same_grid(first: NiftiHeader, second: NiftiHeader) -> bool:
    shape = _axes(first.shape)
    if shape != _axes(second.shape):
        return False
    if first.affine is None or second.affine is None:
        return True
    return same_affine(first.affine, second.affine, shape)


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The spatial axes: without those of length one at the end, and without the colours of a picture."""
    if len(shape) == 5 and shape[2:4] == (1, 1) and shape[4] == 3:  # how ITK stores an RGB picture
        return shape[:2]
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _described(path: Path, header: NiftiHeader) -> str:
    shape = " x ".join(str(n) for n in _axes(header.shape))
    if header.affine is None:
        return f"{path} has {shape} voxels and no affine"
    rows = "; ".join(" ".join(f"{v:.4g}" for v in row) for row in header.affine[:3])
    return f"{path} has {shape} voxels and the affine [{rows}]"
