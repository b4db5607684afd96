"""Masks in DICOM, SEG or RTSTRUCT, brought onto the grid of an image as one label map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.errors import ConfigError, LabelError
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_header import DicomHeader, uid_name
from medseg.io.dicom_seg import read_dicom_seg
from medseg.io.discover import RTSTRUCT, SEGMENTATIONS
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.rtstruct import read_rtstruct
from medseg.labels import LabelTable
from medseg.volume import ImageGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomMasks:
    """A label map from a DICOM object.

    Parameters
    ----------
    label_map : (I, J, K) or (I, J) integer array
        Values of `table`: segment numbers, or the places of ROIs.
    table : LabelTable
        Names, codes and colours as the object has them.
    grid : ImageGrid
        The image's, or where there was none that of the object itself.
    notes : tuple of str
    """

    label_map: NDArray[Any]
    table: LabelTable
    grid: ImageGrid
    notes: tuple[str, ...] = ()


def read_dicom_masks(
    path: Path, grid: ImageGrid | None, *, limits: ReadLimits = DEFAULT_LIMITS
) -> DicomMasks:
    """Read a SEG or an RTSTRUCT.

    Parameters
    ----------
    path : Path
    grid : ImageGrid or None
        Of the image that the masks belong to. None: the grid of the SEG's own frames; an RTSTRUCT has none.
    limits : ReadLimits, optional

    Raises
    ------
    LabelError
        Another kind of object, or structures that overlap and so do not fit one label map.
    ConfigError
        An RTSTRUCT without an image.
    GeometryError, ImageReadError
        See `dicom_seg.read_dicom_seg` and `rtstruct.read_rtstruct`.
    """
    kind = DicomHeader(path, (scan_file(path, limits).dataset,)).uid("SOPClassUID")
    if kind in SEGMENTATIONS:
        seg = read_dicom_seg(path, like=grid, limits=limits)
        return DicomMasks(label_map=seg.label_map(), table=seg.table, grid=seg.grid)
    if kind != RTSTRUCT:
        raise LabelError(f"{path}: expected a mask (SEG or RTSTRUCT), found: {uid_name(kind)}")
    if grid is None:
        raise ConfigError(
            f"{path}: contours lie between voxels of no grid of their own; name the image series that they "
            "belong to (--reference)"
        )
    structures = read_rtstruct(path, like=grid, limits=limits)
    return DicomMasks(
        label_map=structures.label_map(), table=structures.table(), grid=grid, notes=structures.notes
    )


def read_dicom_labels(path: Path, grid: ImageGrid, *, limits: ReadLimits = DEFAULT_LIMITS) -> NDArray[Any]:
    """Label map of a SEG or RTSTRUCT on the grid of an image; see `read_dicom_masks`."""
    return read_dicom_masks(path, grid, limits=limits).label_map
