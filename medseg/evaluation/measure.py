"""Sizes of what was segmented: areas, volumes, widths, ratios, positions, each with unit and caveats.

Numbers that would mislead are not given bare. A structure that reaches the edge of the image has a
lower bound, an absent one is "absent" and not 0, and without a known spacing the unit is pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import GeometryError, LabelError
from medseg.evaluation.definitions import NO_SPACING
from medseg.evaluation.diameter import longest_diameter
from medseg.evaluation.intensity import Intensities, intensity_quantities
from medseg.evaluation.options import MeasureName
from medseg.evaluation.orientation import LateralAxis, lateral_axis
from medseg.evaluation.quantities import Bound, CaseMeasures, Quantity, StructureMeasures
from medseg.evaluation.shape import ObjectShape, object_shape, widest_extent
from medseg.geometry import voxel_volume_mm3
from medseg.labels import LabelTable
from medseg.volume import SpacingOrigin

DETECTOR_PLANE = "in the detector plane; in the patient it is smaller by the magnification"
ASSUMED_DISPLAY = "the file does not say which side is left; taken as displayed, patient's left on the right"
_NO_SIDES = "no axis of the image runs from left to right"
# SNOMED CT: heart structure; right lung, left lung, both lungs, lung structure.
_HEART_CODES = frozenset({"80891009"})
_LUNG_CODES = frozenset({"3341006", "44029006", "74101002", "39607008"})


def measure_case(
    label_map: NDArray[Any],
    *,
    table: LabelTable,
    measures: Sequence[MeasureName],
    case_id: str,
    spacing_mm: Sequence[float] | None,
    spacing_origin: SpacingOrigin = "unknown",
    patient_orientation: tuple[str, str] | None = None,
    affine: NDArray[np.float64] | None = None,
    intensities: Intensities | None = None,
) -> CaseMeasures:
    """Measure every label and region of a label map.

    Parameters
    ----------
    label_map : (I, J) or (I, J, K) integer array
        Class indices on the grid of the image.
    table : LabelTable
    measures : sequence of MeasureName
        Which quantities to give; box, centroid and form are always there.
    case_id : str
    spacing_mm, spacing_origin, patient_orientation, affine
        As in `Volume`. Sizes are those of the affine where there is one: the cells of a sheared grid
        are smaller than the product of its spacings.
    intensities : Intensities, optional
        Values of the image, for the measure `intensity`.

    Returns
    -------
    CaseMeasures

    Raises
    ------
    GeometryError
        The number of spacings differs from that of the axes, or the image has another shape.
    LabelError
        A class index that the table does not have.
    """
    dims = label_map.ndim
    if spacing_mm is not None and len(spacing_mm) != dims:
        raise GeometryError(f"{dims} axes need {dims} spacings, found {tuple(spacing_mm)}")
    if intensities is not None and intensities.values.shape != label_map.shape:
        raise GeometryError(
            f"image and label map must share a grid, found {intensities.values.shape} and {label_map.shape}"
        )
    if label_map.size and (label_map.min() < 0 or label_map.max() >= table.class_count):
        raise LabelError(
            f"class indices must be 0..{table.class_count - 1}, found {label_map.min()}..{label_map.max()}"
        )
    spacing = None if spacing_mm is None else tuple(float(s) for s in spacing_mm)
    lateral = lateral_axis(spatial_dims=dims, patient_orientation=patient_orientation, affine=affine)
    boxes = tuple(ndimage.find_objects(label_map, max_label=max(table.class_count - 1, 1)))
    image = _Image(label_map, table, spacing, spacing_origin, lateral, affine, intensities, boxes)
    structures = {
        name: _structure(image, name, members, measures) for name, members in table.region_classes().items()
    }
    return CaseMeasures(
        case_id=case_id,
        image_shape=tuple(int(n) for n in label_map.shape),
        spacing_mm=spacing,
        lateral=lateral,
        structures=structures,
        ratios=_ratios(image, structures, measures),
        notes=_notes(image),
    )


@dataclass(frozen=True, slots=True)
class _Image:
    label_map: NDArray[Any]
    table: LabelTable
    spacing: tuple[float, ...] | None
    spacing_origin: SpacingOrigin
    lateral: LateralAxis | None
    affine: NDArray[np.float64] | None
    intensities: Intensities | None
    boxes: tuple[tuple[slice, ...] | None, ...]

    def box(self, members: Sequence[int]) -> tuple[slice, ...] | None:
        """Smallest box that holds these classes; None where there is none of them."""
        found = [box for box in (self.boxes[member - 1] for member in members) if box is not None]
        if not found:
            return None
        return tuple(
            slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True)
        )

    @property
    def steps(self) -> NDArray[np.float64] | None:
        """Columns: steps in mm from voxel to voxel along each axis; None where the spacing is unknown."""
        if self.spacing is None:
            return None
        if self.affine is None:
            return np.diag(self.spacing)
        return np.asarray(self.affine, dtype=np.float64)[:3, : self.label_map.ndim]

    def mask(self, members: Sequence[int], box: tuple[slice, ...] | None = None) -> NDArray[np.bool_]:
        part = self.label_map if box is None else self.label_map[box]
        found = part == members[0]
        for member in members[1:]:
            found |= part == member
        return np.asarray(found, dtype=np.bool_)

    @property
    def size_note(self) -> str:
        return DETECTOR_PLANE if self.spacing_origin == "imager_pixel_spacing" else ""


def _notes(image: _Image) -> tuple[str, ...]:
    notes = []
    if image.spacing is None:
        notes.append(f"{NO_SPACING}: sizes are in {'pixels' if image.label_map.ndim == 2 else 'voxels'}")
    elif image.size_note:
        notes.append(f"sizes are measured {image.size_note}")
    if image.lateral is not None and image.lateral.assumed:
        notes.append(ASSUMED_DISPLAY)
    return tuple(notes)


def _structure(
    image: _Image, name: str, members: tuple[int, ...], measures: Sequence[MeasureName]
) -> StructureMeasures:
    box, whole = image.box(members), tuple(int(n) for n in image.label_map.shape)
    mask = None if box is None else image.mask(members, box)
    shape = (
        None
        if mask is None or box is None
        else object_shape(mask, start=tuple(b.start for b in box), image_shape=whole)
    )
    quantities: dict[str, Quantity] = {}
    if "area" in measures:
        quantities["area"] = _size(image, shape, dims=2)
    if "volume" in measures:
        quantities["volume"] = _size(image, shape, dims=3)
    if "long_axis" in measures:
        quantities["long_axis"] = _long_axis(image, shape, mask)
    if "intensity" in measures:
        quantities |= _intensity(image, shape, mask, box)
    if "width" in measures:
        quantities["width"] = _width(image, shape)
    if "position" in measures:
        quantities |= _position(shape)
    if "shape" in measures:
        quantities |= _form(shape)
    centroid = None if shape is None else shape.centroid
    return StructureMeasures(
        structure=name,
        kind="region" if name in image.table.regions else "label",
        shape=shape,
        fraction=0.0 if shape is None else shape.voxels / image.label_map.size,
        centroid_fraction=None
        if centroid is None
        else tuple((c + 0.5) / n for c, n in zip(centroid, whole, strict=True)),
        centroid_mm=_centroid_mm(image, centroid),
        quantities=quantities,
    )


def _centroid_mm(image: _Image, centroid: tuple[float, ...] | None) -> tuple[float, float, float] | None:
    if centroid is None or image.affine is None:
        return None
    index = np.array([*centroid, *[0.0] * (3 - len(centroid)), 1.0])
    x, y, z = (float(v) for v in (image.affine @ index)[:3])
    return x, y, z


def _size(image: _Image, shape: ObjectShape | None, *, dims: Literal[2, 3]) -> Quantity:
    unit = "mm2" if dims == 2 else "ml"
    if image.label_map.ndim != dims:
        return Quantity(value=None, unit=unit, reason=f"defined for images with {dims} axes only")
    if image.spacing is None:
        unit = "pixels" if dims == 2 else "voxels"
    if shape is None:
        return Quantity(value=None, unit=unit, reason="absent")
    value = float(shape.voxels)
    if image.spacing is not None:
        value *= _cell(image) / (1000.0 if dims == 3 else 1.0)
    return Quantity(value=value, unit=unit, bound="lower" if shape.touches else "exact", note=image.size_note)


def _cell(image: _Image) -> float:
    """Area or volume of a voxel: on a sheared grid less than the product of the spacings."""
    if image.steps is None or image.affine is None:
        return 1.0 if image.spacing is None else float(np.prod(image.spacing))
    if image.label_map.ndim == 3:
        return voxel_volume_mm3(image.affine)
    return float(np.linalg.norm(np.cross(image.steps[:, 0], image.steps[:, 1])))


def _long_axis(image: _Image, shape: ObjectShape | None, mask: NDArray[np.bool_] | None) -> Quantity:
    unit = "mm" if image.steps is not None else "pixels" if image.label_map.ndim == 2 else "voxels"
    if shape is None or mask is None:
        return Quantity(value=None, unit=unit, reason="absent")
    return Quantity(
        value=longest_diameter(mask, np.eye(mask.ndim) if image.steps is None else image.steps),
        unit=unit,
        bound="lower" if shape.touches else "exact",
        note=image.size_note,
    )


def _intensity(
    image: _Image,
    shape: ObjectShape | None,
    mask: NDArray[np.bool_] | None,
    box: tuple[slice, ...] | None,
) -> dict[str, Quantity]:
    if image.intensities is None:
        return {"mean_intensity": Quantity(value=None, unit="1", reason="the image was not given")}
    values = image.intensities.values if box is None else image.intensities.values[box]
    bound: Bound = "unknown" if shape is not None and shape.touches else "exact"
    return intensity_quantities(mask, values, image.intensities, bound=bound)


def _width(image: _Image, shape: ObjectShape | None) -> Quantity:
    """Extent along the left-right axis, outer edge to outer edge."""
    unit = "mm" if image.spacing is not None else "pixels" if image.label_map.ndim == 2 else "voxels"
    if image.lateral is None:
        return Quantity(value=None, unit=unit, reason=_NO_SIDES)
    if shape is None:
        return Quantity(value=None, unit=unit, reason="absent")
    axis = image.lateral.axis
    first, last = shape.box[axis]
    step = 1.0 if image.spacing is None else image.spacing[axis]
    return Quantity(
        value=(last - first + 1) * step,
        unit=unit,
        bound="lower" if _cut_along(shape, axis) else "exact",
        note=image.size_note,
    )


def _cut_along(shape: ObjectShape, axis: int) -> bool:
    return any(face.startswith("ijk"[axis]) for face in shape.touches)


def _position(shape: ObjectShape | None) -> dict[str, Quantity]:
    """Centroid as a voxel index along each axis."""
    if shape is None:
        return {"centroid": Quantity(value=None, unit="voxel index", reason="absent")}
    return {
        f"centroid_{axis}": Quantity(
            value=value, unit="voxel index", bound="unknown" if shape.touches else "exact"
        )
        for axis, value in zip("ijk", shape.centroid, strict=False)
    }


def _form(shape: ObjectShape | None) -> dict[str, Quantity]:
    if shape is None:
        return {"parts": Quantity(value=None, unit="1", reason="absent")}
    return {
        "parts": Quantity(value=float(shape.parts), unit="1"),
        "largest_share": Quantity(value=shape.largest_share, unit="1"),
        "holes": Quantity(value=float(shape.hole_voxels), unit="pixels" if len(shape.box) == 2 else "voxels"),
        "compactness": Quantity(value=shape.compactness, unit="1"),
    }


def _ratios(
    image: _Image, structures: Mapping[str, StructureMeasures], measures: Sequence[MeasureName]
) -> dict[str, Quantity]:
    ratios: dict[str, Quantity] = {}
    if "left_right_ratio" in measures:
        for left, right in lateral_pairs(image.table):
            ratios[f"{left}/{right}"] = _size_ratio(structures[left], structures[right])
    if "cardiothoracic_ratio" in measures:
        ratios["cardiothoracic_ratio"] = _cardiothoracic_ratio(image)
    return ratios


def lateral_pairs(table: LabelTable) -> tuple[tuple[str, str], ...]:
    """(left label, right label) of every structure that the body has on both sides."""
    return tuple(
        (label.name, label.pair) for label in table.labels if label.side == "left" and label.pair is not None
    )


def _size_ratio(left: StructureMeasures, right: StructureMeasures) -> Quantity:
    absent = [s.structure for s in (left, right) if s.shape is None]
    if left.shape is None or right.shape is None:
        return Quantity(value=None, unit="1", reason=f"{' and '.join(absent)} absent")
    return Quantity(
        value=left.shape.voxels / right.shape.voxels,
        unit="1",
        bound="unknown" if left.cut_off or right.cut_off else "exact",
    )


def _coded(table: LabelTable, codes: frozenset[str], names: frozenset[str]) -> tuple[int, ...]:
    """Class indices of labels with one of the codes, or one of the names where they have no code."""
    return tuple(
        table.class_index(label.name)
        for label in table.labels
        if (label.code.value in codes if label.code is not None else label.name in names)
    )


def _cardiothoracic_ratio(image: _Image) -> Quantity:
    """Largest transverse diameter of the heart over the largest inner width of the chest.

    Heart: farthest right to farthest left point, whatever their height, which is the sum of the
    two radii from the midline. Chest: widest line from the outer edge of one lung to the outer
    edge of the other.

    References
    ----------
    Danzer, The cardiothoracic ratio: an index of cardiac enlargement, Am J Med Sci 1919;157:513.
    """
    heart = _coded(image.table, _HEART_CODES, frozenset({"heart"}))
    lungs = _coded(image.table, _LUNG_CODES, frozenset({"lung", "lungs", "lung_left", "lung_right"}))
    reason = (
        "defined for radiographs only"
        if image.label_map.ndim != 2
        else "the label table has no heart"
        if not heart
        else "the label table has no lungs"
        if not lungs
        else _NO_SIDES
        if image.lateral is None
        else ""
    )
    if reason or image.lateral is None:
        return Quantity(value=None, unit="1", reason=reason)
    heart_mask, lung_mask, axis = image.mask(heart), image.mask(lungs), image.lateral.axis
    heart_shape, lung_shape = object_shape(heart_mask), object_shape(lung_mask)
    if heart_shape is None or lung_shape is None:
        return Quantity(value=None, unit="1", reason=f"{'heart' if heart_shape is None else 'lungs'} absent")
    first, last = heart_shape.box[axis]
    cut = _cut_along(heart_shape, axis) or _cut_along(lung_shape, axis)
    return Quantity(
        value=(last - first + 1) / widest_extent(lung_mask, axis),
        unit="1",
        bound="unknown" if cut else "exact",
        note="from the lungs and heart as segmented; valid for an upright PA film in inspiration",
    )
