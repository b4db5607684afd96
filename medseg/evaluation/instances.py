"""Recognised targets: each connected instance of a structure with place, size, values and confidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.evaluation.definitions import NO_SPACING
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_map import (
    Box,
    InstanceMap,
    Structures,
    instance_map,
    predicted_structures,
)
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.instance_place import (
    Midline,
    PatientFrame,
    Place,
    Side,
    SideOf,
    find_midline,
    nearest_label,
    patient_frame,
    side_of,
    third_of,
)
from medseg.evaluation.instance_records import CaseInstances, Instance
from medseg.evaluation.instance_sums import InstanceSums, gather
from medseg.evaluation.quantities import Bound, Quantity
from medseg.labels import LabelTable

Certainty = Callable[[Box, Sequence[int]], NDArray[np.float32]]
"""Box of the image, classes -> their probability at each voxel, NaN where another class won."""

NOT_CALIBRATED = "mean probability of the network, not calibrated"
_SIDED: dict[str, Side] = {"left": "left", "right": "right"}
NO_PROBABILITIES = "the probabilities of the network are not at hand"


def find_instances(
    label_map: NDArray[Any],
    image: ImageFacts,
    *,
    table: LabelTable,
    options: RecogniseOptions,
    case_id: str,
    certainty: Certainty | None = None,
) -> CaseInstances:
    """Tell every connected instance of a predicted label map.

    The image is gone through in slabs of a few million voxels: besides the label map a few megabytes are
    taken, whatever its size.

    Parameters
    ----------
    label_map : (I, J) or (I, J, K) integer array
        Class indices on the grid of the image.
    image : ImageFacts
    table : LabelTable
    options : RecogniseOptions
    case_id : str
    certainty : callable, optional
        Probability of the label or region; without it instances have no confidence.

    Raises
    ------
    ConfigError
        A structure that the table does not have.
    GeometryError
        The shapes differ, or a least size in a unit that the image does not have.
    """
    return instances_of(
        predicted_structures(label_map, table, options),
        image,
        table=table,
        options=options,
        case_id=case_id,
        certainty=certainty,
    )


def instances_of(
    structures: Structures,
    image: ImageFacts,
    *,
    table: LabelTable,
    options: RecogniseOptions,
    case_id: str,
    certainty: Certainty | None = None,
) -> CaseInstances:
    """The same for structures of a prediction or of a reference; see `find_instances`."""
    if structures.array.shape[: image.dims] != image.shape:
        raise GeometryError(
            f"label map and image must share a grid, found {structures.array.shape} and {image.shape}"
        )
    search = _Search.over(structures, image, table, options, certainty)
    found: list[Instance] = []
    counts, dropped = {}, {}
    for name in structures.inside:
        numbered = instance_map(
            structures, name, options=options, axis=image.axis, voxel_size=image.voxel_size
        )
        counts[name] = 0 if numbered is None else numbered.count
        if numbered is not None:
            found += search.instances(name, numbered)
            if numbered.dropped:
                dropped[name] = numbered.dropped
    return CaseInstances(
        case_id=case_id, structures=counts, dropped=dropped, instances=tuple(found), notes=search.notes()
    )


@dataclass(frozen=True, slots=True)
class _Search:
    """What all structures of a case share."""

    structures: Structures
    image: ImageFacts
    table: LabelTable
    options: RecogniseOptions
    certainty: Certainty | None
    frame: PatientFrame
    midline: Midline | None

    @classmethod
    def over(
        cls,
        structures: Structures,
        image: ImageFacts,
        table: LabelTable,
        options: RecogniseOptions,
        certainty: Certainty | None,
    ) -> _Search:
        frame = patient_frame(
            shape=image.shape,
            affine=image.affine,
            patient_orientation=image.patient_orientation,
            spacing_mm=image.spacing_mm,
        )
        midline = (
            None
            if frame.right is None
            else find_midline(frame.right, table=table, boxes=structures.boxes, shape=image.shape)
        )
        return cls(structures, image, table, options, certainty, frame, midline)

    def notes(self) -> tuple[str, ...]:
        said = []
        if self.image.spacing_mm is None:
            unit = "pixels" if self.image.dims == 2 else "voxels"
            said.append(f"{NO_SPACING}: sizes of instances are in {unit}")
        if self.frame.right is None and self.frame.head is None:
            said.append("the file does not say how the patient lies, so places have no words")
        return tuple(said)

    def instances(self, name: str, numbered: InstanceMap) -> list[Instance]:
        classes = np.flatnonzero(self.structures.inside[name][: self.table.class_count])
        certainty = self.certainty
        sums = gather(
            numbered,
            steps=np.eye(3) if self.image.steps is None else self.image.steps,
            values=self._values(),
            certainty=None if certainty is None else lambda place: certainty(place, classes.tolist()),
        )
        return [self._instance(name, number, found) for number, found in enumerate(sums, start=1)]

    def _values(self) -> NDArray[Any] | None:
        given = self.image.intensities
        if given is None or given.reason:
            return None
        return given.values if given.values.ndim == 3 else given.values[..., None]

    def _instance(self, name: str, number: int, found: InstanceSums) -> Instance:
        dims = self.image.dims
        centroid, box = found.centroid[:dims], found.box[:dims]
        cut = any(
            n > 1 and (first == 0 or last == n - 1)
            for (first, last), n in zip(box, self.image.shape, strict=True)
        )
        spacing, affine = self.image.spacing_mm, self.image.affine
        lengths = [last - first + 1 for first, last in box]
        return Instance(
            structure=name,
            kind="region" if name in self.table.regions else "label",
            number=number,
            voxels=found.voxels,
            box=box,
            box_size_mm=None
            if spacing is None
            else tuple(float(n * s) for n, s in zip(lengths, spacing, strict=True)),
            box_mm=None if affine is None else _corner_limits(affine, box),
            centroid=centroid,
            centroid_mm=None if affine is None else _world(affine, centroid),
            plane=found.plane if dims == 3 else None,
            cut_off=cut,
            place=self._place(name, centroid, lengths),
            quantities=self._quantities(found, cut=cut),
        )

    def _place(self, name: str, centroid: tuple[float, ...], lengths: Sequence[int]) -> Place:
        frame, shape = self.frame, self.image.shape
        side: Side | None = None
        known: SideOf | None = None
        own = next((label.side for label in self.table.labels if label.name == name), "none")
        if own in _SIDED:
            side, known = _SIDED[own], "label"
        elif frame.right is not None and self.midline is not None:
            side = side_of(frame.right, self.midline, centroid=centroid, lengths=lengths, in_mm=frame.in_mm)
            known = self.midline.side_of
        third = None if frame.head is None else third_of(frame.head, centroid=centroid, shape=shape)
        near = self._nearest(name, centroid)
        return Place(
            side=side,
            side_of=known,
            third=third,
            nearest=None if near is None else self.table.names[near[0]],
            nearest_mm=None if near is None else near[1],
        )

    def _nearest(self, name: str, centroid: tuple[float, ...]) -> tuple[int, float] | None:
        if self.image.steps is None:
            return None
        return nearest_label(
            self.structures.array,
            self.structures.inside[name],
            (*centroid, 0.0)[:3],
            self.image.steps,
            class_count=self.table.class_count,
            within_mm=self.options.nearest_within_mm,
        )

    def _quantities(self, found: InstanceSums, *, cut: bool) -> dict[str, Quantity]:
        pixel = "pixels" if self.image.dims == 2 else "voxels"
        size, unit = self.image.voxel_size or (1.0, pixel)
        length = pixel if self.image.spacing_mm is None else "mm"

        def sized(value: float, unit: str) -> Quantity:
            return Quantity(
                value=value, unit=unit, bound="lower" if cut else "exact", note=self.image.size_note
            )

        return {
            "area" if self.image.dims == 2 else "volume": sized(found.voxels * size, unit),
            "long_axis": sized(found.long_axis, length),
            "short_axis": sized(found.short_axis, length),
            **self._intensity(found, "unknown" if cut else "exact"),
            "confidence": self._confidence(found),
        }

    def _intensity(self, found: InstanceSums, bound: Bound) -> dict[str, Quantity]:
        given = self.image.intensities
        reason = "the image was not given" if given is None else given.reason
        unit = "1" if given is None else given.unit
        if given is None or reason:
            return {
                name: Quantity(value=None, unit=unit, reason=reason)
                for name in ("mean_intensity", "sd_intensity")
            }
        return {
            "mean_intensity": Quantity(value=found.mean, unit=unit, bound=bound, note=given.note),
            "sd_intensity": Quantity(value=found.sd, unit=unit, bound=bound, note=given.note),
        }

    def _confidence(self, found: InstanceSums) -> Quantity:
        if self.certainty is None:
            return Quantity(value=None, unit="1", reason=NO_PROBABILITIES)
        if found.confidence is None:
            return Quantity(
                value=None, unit="1", reason="the network saw none of its voxels as this structure"
            )
        heat = getattr(self.certainty, "temperature", 1.0)
        note = (
            NOT_CALIBRATED if heat == 1.0 else f"mean probability, calibrated by the temperature {heat:.3g}"
        )
        return Quantity(value=found.confidence, unit="1", note=note)


def _world(affine: NDArray[np.float64], index: Sequence[float]) -> tuple[float, float, float]:
    point = np.array([*index, *[0.0] * (3 - len(index)), 1.0])
    x, y, z = (float(v) for v in (np.asarray(affine) @ point)[:3])
    return x, y, z


def _corner_limits(
    affine: NDArray[np.float64], box: Sequence[tuple[int, int]]
) -> tuple[tuple[float, float], ...]:
    """Least and largest world coordinates of the outer corners of a box."""
    edges = [(first - 0.5, last + 0.5) for first, last in box]
    corners = np.array(np.meshgrid(*edges, indexing="ij")).reshape(len(box), -1).T
    points = np.array([_world(affine, corner.tolist()) for corner in corners])
    return tuple(
        (float(low), float(high)) for low, high in zip(points.min(axis=0), points.max(axis=0), strict=True)
    )
