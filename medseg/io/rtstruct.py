"""RT Structure Set of any writer -> masks on the grid of the image it was drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from medseg.errors import GeometryError, ImageReadError, LabelError
from medseg.io.contour_slices import PlacedContours, SlicePlanes, place_contours
from medseg.io.dicom_file import parse_file
from medseg.io.dicom_header import uid_name
from medseg.io.foreign import foreign_parser, recorded_warnings
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits, read_bytes
from medseg.io.polygon_fill import FilledBox, SlicePolygons, fill_polygons
from medseg.io.roi_contours import Contour, items_of, read_contours
from medseg.io.rois import Roi, read_rois, table_of, unique_names
from medseg.labels import LabelTable
from medseg.volume import ImageGrid

_SHOWN_OVERLAPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RtStructure:
    """A structure set on the grid of an image; masks are made when they are asked for.

    Parameters
    ----------
    rois : tuple of Roi
        In the order of the file, those without a closed contour included.
    notes : tuple of str
        What a user of the masks must know, one sentence each.
    """

    path: Path
    rois: tuple[Roi, ...]
    notes: tuple[str, ...]
    _planes: SlicePlanes = field(repr=False)
    _grid_shape: tuple[int, ...] = field(repr=False)
    _polygons: dict[int, SlicePolygons] = field(repr=False)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Voxels whose centre lies inside the contours of the ROI with this ROI Number.

        Returns
        -------
        (I, J, K) bool array, or (I, J) where the image is one slice; in Fortran order.

        Raises
        ------
        LabelError
            No ROI has the number.
        """
        if number not in self._polygons:
            known = ", ".join(str(roi.number) for roi in self.rois)
            raise LabelError(f"{self.path}: no ROI has the number {number}; known: {known}")
        mask = np.zeros(self._planes.shape, dtype=np.bool_, order="F")
        filled = self._fill(number)
        mask[filled.slices] = filled.mask
        return mask.reshape(self._grid_shape, order="F")

    def label_map(self) -> NDArray[np.uint16]:
        """Class indices of `table`: place of the ROI in `rois`, from 1; 0 where there is none.

        Returns
        -------
        (I, J, K) or (I, J) uint16 array, in Fortran order.

        Raises
        ------
        LabelError
            ROIs that share voxels; names them with the number of voxels.
        """
        labels = np.zeros(self._planes.shape, dtype=np.uint16, order="F")
        shared: dict[tuple[int, int], int] = {}
        for index, roi in enumerate(self.rois, start=1):
            filled = self._fill(roi.number)
            part = labels[filled.slices]
            counts = np.bincount(part[filled.mask], minlength=1)
            shared |= {(int(other), index): int(counts[other]) for other in np.flatnonzero(counts) if other}
            part[filled.mask & (part == 0)] = index
        if shared:
            raise LabelError(self._overlap(shared))
        return labels.reshape(self._grid_shape, order="F")

    def table(self) -> LabelTable:
        """A label for each ROI, its value the place in `rois`.

        Names that stand twice get the ROI number behind them. Two ROIs with one code, one left and
        one right, are a pair.
        """
        return table_of(self.rois)

    def _fill(self, number: int) -> FilledBox:
        return fill_polygons(self._polygons[number], self._planes.shape)

    def _overlap(self, shared: dict[tuple[int, int], int]) -> str:
        names = unique_names(self.rois)
        worst = sorted(shared.items(), key=lambda item: -item[1])[:_SHOWN_OVERLAPS]
        pairs = "; ".join(f"{names[a - 1]} and {names[b - 1]}: {n} voxels" for (a, b), n in worst)
        more = f" and {len(shared) - len(worst)} pairs more" if len(shared) > len(worst) else ""
        return (
            f"{self.path}: structures overlap, which one label map cannot hold ({pairs}{more}); "
            "take their masks one by one"
        )


def read_rtstruct(path: Path, *, like: ImageGrid, limits: ReadLimits = DEFAULT_LIMITS) -> RtStructure:
    """Read a structure set for the image whose grid is `like`.

    Closed contours of a slice are combined by even-odd, so that a contour inside another is a hole,
    and holes joined by a keyhole are holes too. Points and open lines enclose nothing and are left
    out. Nothing is interpolated between slices. Each of these, and whatever else changes a mask, is
    in `notes`.

    Parameters
    ----------
    path : Path
    like : ImageGrid
        With an affine. Its instances are compared with those that the contours refer to.
    limits : ReadLimits, optional

    Returns
    -------
    RtStructure

    Raises
    ------
    ImageReadError
        Not an RT Structure Set, or damaged: coordinates that are no numbers, lying counts.
    GeometryError
        Contours that do not lie in the image's slices, another frame of reference (unless the
        contours refer to the image's own instances), or an image without patient geometry.

    References
    ----------
    DICOM PS3.3 C.8.8.5, C.8.8.6 (C.8.8.6.1 on types of contours) and C.8.8.8.
    """
    path = Path(path)
    planes = SlicePlanes.of(like)
    dataset, _ = parse_file(read_bytes(path, limits), path, limits)
    with foreign_parser(path, "the structure set cannot be parsed", quote=False), recorded_warnings():
        _check_class(dataset, path)
        contours = _contours_by_roi(dataset, path)
        rois = read_rois(dataset, contours.keys(), path)
        notes = _check_frame(dataset, rois, contours, like, path)
    slice_of = _slices_of_instances(like)
    placed = {
        roi.number: place_contours(
            contours.get(roi.number, []), planes, slice_of, roi=f"ROI {roi.number} ({roi.name})", path=path
        )
        for roi in rois
    }
    return RtStructure(
        path=path,
        rois=rois,
        notes=(*notes, *_notes(rois, placed)),
        _planes=planes,
        _grid_shape=like.shape,
        _polygons={number: item.polygons for number, item in placed.items()},
    )


def _check_class(dataset: Dataset, path: Path) -> None:
    found = str(dataset.get("SOPClassUID") or "")
    if found != RTStructureSetStorage:
        raise ImageReadError(f"{path}: expected an RT structure set, found {uid_name(found)}")


def _contours_by_roi(dataset: Dataset, path: Path) -> dict[int, list[Contour]]:
    contours: dict[int, list[Contour]] = {}
    for item in items_of(dataset, "ROIContourSequence", path):
        number = int(item.ReferencedROINumber)
        found = read_contours(item, f"ROI {number}", path)
        contours.setdefault(number, []).extend(found)
    return contours


def _slices_of_instances(like: ImageGrid) -> dict[tuple[str, int], int]:
    source = like.source
    frames = source.frame_numbers or (0,) * len(source.sop_instance_uids)
    return {place: k for k, place in enumerate(zip(source.sop_instance_uids, frames, strict=False))}


def _check_frame(
    dataset: Dataset, rois: Sequence[Roi], contours: dict[int, list[Contour]], like: ImageGrid, path: Path
) -> list[str]:
    """Whether structures and image share a space; a note where that rests on something else than its UID."""
    image = like.source.frame_of_reference_uid
    whole = str(dataset.get("FrameOfReferenceUID") or "")
    named = {roi.frame_of_reference_uid or whole for roi in rois if contours.get(roi.number)}
    if named <= {image} and image:
        return []
    referred = {contour.image[0] for found in contours.values() for contour in found if contour.image}
    if referred and referred <= set(like.source.sop_instance_uids):
        return ["The frame of reference is not the image's, but the contours refer to the image's instances."]
    if image and named - {""}:
        raise GeometryError(
            f"{path}: the structures lie in frame of reference ...{min(named - {''})[-12:]}, the image in "
            f"...{image[-12:]}, and the contours do not refer to the image's instances; give the image they "
            "were drawn on"
        )
    return [
        "Structure set or image does not name its frame of reference; the coordinates are taken to be of one space."
    ]


def _notes(rois: Sequence[Roi], placed: dict[int, PlacedContours]) -> list[str]:
    notes = [f"{roi.name}: {note}." for roi in rois for note in placed[roi.number].notes]
    empty = [roi.name for roi in rois if not len(placed[roi.number].polygons)]
    return [*notes, *([f"Without a closed contour in the image: {', '.join(empty)}."] if empty else [])]
