"""Where the frames of a segmentation lie and which source instances they come from, in DICOM's words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.errors import GeometryError, InputError
from medseg.export.dicom_elements import code, decimal_text, item, sequence, text
from medseg.export.identity import derived_uid
from medseg.geometry import affine_lps_to_ras, tilt_degrees
from medseg.io.dicom_header import DicomHeader
from medseg.provenance import sha256_json
from medseg.volume import ImageGrid

_ORTHOGONAL = 1e-4
_TILT_DEGREES = 0.05
_POSITION_DECIMALS, _COSINE_DECIMALS, _LENGTH_DECIMALS = 8, 12, 9


@dataclass(frozen=True)
class SegPlace:
    """Rows, columns, planes and references of the frames, one plane for each slice of the grid.

    Parameters
    ----------
    rows, columns : int
    orientation, spacing : tuple of str
        Image Orientation (Patient), LPS+, and Pixel Spacing; empty for a projection image, which has neither.
    thickness, between : str
        Slice Thickness and Spacing Between Slices in mm, "" where unknown.
    positions : tuple of tuple of str
        Image Position (Patient) of each slice, LPS+ mm; empty for a projection image.
    frame_of_reference_uid : str
        "" for a projection image.
    sop_class_uid : str
        Of the source instances.
    instances : tuple of (str, int)
        SOP Instance UID and frame number of each slice; 0 for a single-frame instance.
    same_pixels : bool
        Whether a pixel of a frame is a pixel of its source frame; not so for a mosaic.
    notes : tuple of str
    """

    rows: int
    columns: int
    orientation: tuple[str, ...]
    spacing: tuple[str, ...]
    thickness: str
    between: str
    positions: tuple[tuple[str, ...], ...]
    frame_of_reference_uid: str
    sop_class_uid: str
    instances: tuple[tuple[str, int], ...]
    same_pixels: bool
    notes: tuple[str, ...]

    @property
    def projection(self) -> bool:
        """Whether there is no patient geometry."""
        return not self.orientation

    @cached_property
    def unique_instances(self) -> tuple[str, ...]:
        """Every source instance once."""
        return tuple(dict.fromkeys(uid for uid, _ in self.instances))

    def derivation(self, k: int) -> bytes:
        """Derivation Image Sequence of slice k, as bytes (PS3.3 C.7.6.16.2.6)."""
        uid, frame = self.instances[k]
        reference = [text(0x00081150, b"UI", self.sop_class_uid), text(0x00081155, b"UI", uid)]
        if frame:
            reference.append(text(0x00081160, b"IS", str(frame)))
        reference.append(text(0x0028135A, b"CS", "YES" if self.same_pixels else "NO"))
        reference.append(
            code(0x0040A170, "121322", "DCM", "Source image for image processing operation"),
        )
        derivation = code(0x00089215, "113076", "DCM", "Segmentation")
        return sequence(0x00089124, [item(sequence(0x00082112, [item(*reference)]), derivation)])

    def plane_position(self, k: int) -> bytes:
        """Plane Position Sequence of slice k, as bytes; nothing for a projection image."""
        if self.projection:
            return b""
        return sequence(0x00209113, [item(text(0x00200032, b"DS", *self.positions[k]))])


def place_of(grid: ImageGrid, header: DicomHeader) -> SegPlace:
    """Place of a segmentation on an image's grid.

    Parameters
    ----------
    grid : ImageGrid
        Its source names the instance of each slice.
    header : DicomHeader
        Of the first file, checked by `check_source`.

    Raises
    ------
    GeometryError
        Rows and columns are not the source's, or the axes of a slice are not at right angles.
    """
    source = header.layers[-1]
    columns, rows = grid.shape[:2]
    uids = grid.source.sop_instance_uids
    numbers = grid.source.frame_numbers or (0,) * len(uids)
    # A mosaic holds all slices in one picture, so its pixels are not the slices'.
    mosaic = len(uids) > 1 and len(set(uids)) == 1 and not grid.source.frame_numbers
    if not mosaic and (columns, rows) != (source.Columns, source.Rows):
        raise GeometryError(
            f"the label map has {columns} columns and {rows} rows, "
            f"the source image {source.Columns} and {source.Rows}"
        )
    notes: list[str] = []
    return SegPlace(
        rows=rows,
        columns=columns,
        sop_class_uid=grid.source.sop_class_uid or str(source.SOPClassUID),
        instances=tuple(zip(uids, numbers, strict=True)),
        same_pixels=not mosaic,
        **_planes(grid, header, notes),
        notes=tuple(notes),
    )


def _planes(grid: ImageGrid, header: DicomHeader, notes: list[str]) -> dict[str, Any]:
    if grid.affine is None:
        empty = dict.fromkeys(("orientation", "spacing", "positions"), ())
        return {**empty, **dict.fromkeys(("thickness", "between", "frame_of_reference_uid"), "")}
    affine = affine_lps_to_ras(grid.affine)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    rows, columns = affine[:3, 0] / lengths[0], affine[:3, 1] / lengths[1]
    if abs(float(rows @ columns)) > _ORTHOGONAL:
        raise GeometryError(
            f"the axes of a slice are not at right angles (cosine {float(rows @ columns):.5f}); "
            "DICOM cannot say that; write NIfTI, or resample to a straight grid"
        )
    slices = grid.shape[2] if len(grid.shape) == 3 else 1
    gap = abs(float(np.cross(rows, columns) @ affine[:3, 2])) if slices > 1 else 0.0
    positions = affine[:3, 3] + np.outer(np.arange(slices), affine[:3, 2])
    thickness = _thickness(header, gap, notes)
    if slices > 1 and tilt_degrees(grid.affine) > _TILT_DEGREES:
        notes.append(
            f"The slices are shifted along a tilt of {tilt_degrees(grid.affine):.1f} degrees, and so are the frames of "
            "the DICOM SEG; readers that know only box-shaped volumes (3D Slicer, highdicom) cannot place them."
        )
    return {
        "orientation": _texts(np.concatenate([rows, columns]), _COSINE_DECIMALS),
        "spacing": _texts(lengths[[1, 0]], _LENGTH_DECIMALS),
        "thickness": thickness,
        # One slice has no neighbour; readers take this for the depth of its voxels.
        "between": decimal_text(gap, _LENGTH_DECIMALS) if gap else thickness,
        "positions": tuple(_texts(position, _POSITION_DECIMALS) for position in positions),
        "frame_of_reference_uid": _frame_of_reference(grid, header.layers[-1], notes),
    }


def _texts(values: NDArray[np.float64], decimals: int) -> tuple[str, ...]:
    return tuple(decimal_text(float(value), decimals) for value in values)


def _thickness(header: DicomHeader, gap: float, notes: list[str]) -> str:
    """The source's; else the distance of the slices, because readers refuse Pixel Measures without one."""
    found = header.numbers("SliceThickness")
    if len(found) == 1 and 0 < found[0] < np.inf:
        return decimal_text(found[0], _LENGTH_DECIMALS)
    if not gap:
        raise InputError(
            "the source slice has no slice thickness, and a DICOM SEG of a slice must state one; "
            "add SliceThickness to the source if it is known, or write NIfTI"
        )
    notes.append(
        f"The source image has no slice thickness; the DICOM SEG gives the distance of the slices, {gap:g} mm."
    )
    return decimal_text(gap, _LENGTH_DECIMALS)


def _frame_of_reference(grid: ImageGrid, source: Dataset, notes: list[str]) -> str:
    stated = str(source.get("FrameOfReferenceUID") or grid.source.frame_of_reference_uid)
    if stated:
        return stated
    # PS3.3 C.7.4.1: planes in the patient need a frame of reference; its UID says only which objects
    # share one, so that all results of one series must get the same.
    notes.append(
        "The source image has no frame of reference; the DICOM SEG has one made from the series' UID."
    )
    series = [str(source.StudyInstanceUID), str(source.SeriesInstanceUID)]
    return derived_uid("frame of reference", sha256_json(series))
