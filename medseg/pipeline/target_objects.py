"""Recognised targets of a case as COCO, and as DICOM SEG and SR with an object for each target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputError
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_map import Structures, instance_map, predicted_structures
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.export.coco import NumberedMask, coco_dataset
from medseg.export.dicom_seg import write_segments
from medseg.export.dicom_sr import MeasuredValue, write_measurement_sr
from medseg.export.options import TARGET_FILES, ExportName
from medseg.labels import Code, Label, LabelTable
from medseg.pipeline.recognition import confidences_of, instances_of_record
from medseg.provenance import write_json
from medseg.volume import Volume

SR_SERIES_NUMBER = 912
_REGION_COLOUR = "#8a97a5"
_AXES = {"long_axis": "plane_long_axis", "short_axis": "plane_short_axis"}
_REPORTED = ("volume", "area", "long_axis", "short_axis", "mean_intensity", "sd_intensity")
Record = Mapping[str, Any]


def export_instances(
    kind: ExportName,
    folder: Path,
    *,
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    record: Record,
) -> list[str]:
    """Write the recognised targets of a case into its folder; what a reader must know, or why they were not written.

    Parameters
    ----------
    kind : ExportName
        A key of `TARGET_FILES`. instance_sr refers to the file of instance_seg, which goes first.
    folder : Path
    volume, label_map, table
        The case.
    record : mapping
        Its measurements.json.
    """
    path = folder / TARGET_FILES[kind]
    try:
        targets = _Targets.of(volume, label_map, table, record)
        if kind == "coco":
            return targets.write_coco(path)
        return targets.write_seg(path) if kind == "instance_seg" else targets.write_sr(path, folder)
    except InputError as err:
        # The mask is right whatever the header lacks; the other files are written and the reason is told.
        path.unlink(missing_ok=True)
        return [f"no {kind}: {err}"]


@dataclass(frozen=True)
class _Targets:
    """The instances of a case, found again in its label map and numbered as its record numbers them."""

    volume: Volume
    label_map: NDArray[Any]
    table: LabelTable
    record: Record
    options: RecogniseOptions

    @classmethod
    def of(cls, volume: Volume, label_map: NDArray[Any], table: LabelTable, record: Record) -> _Targets:
        if not record.get("instances"):
            raise InputError(
                "no targets were recognised in this case; give a section recognise, or --recognise"
            )
        options = RecogniseOptions.model_validate(record["instances"]["options"])
        return cls(volume, label_map, table, record, options)

    @cached_property
    def _image(self) -> ImageFacts:
        return ImageFacts.of(self.volume)

    @cached_property
    def _structures(self) -> Structures:
        return predicted_structures(self.label_map, self.table, self.options)

    def numbers(self, name: str) -> tuple[NDArray[Any], tuple[int, int, int]] | None:
        """Numbers of the instances in the box of a structure, (I', J', K'), and its first voxel; None without any."""
        image = self._image
        found = instance_map(
            self._structures, name, options=self.options, axis=image.axis, voxel_size=image.voxel_size
        )
        if found is None:
            return None
        start = tuple(s.start for s in found.box)
        numbers = np.zeros([s.stop - s.start for s in found.box], dtype=np.min_scalar_type(found.count))
        for place, part in found.slabs():
            numbers[tuple(slice(p.start - f, p.stop - f) for p, f in zip(place, start, strict=True))] = part
        return numbers, (start[0], start[1], start[2])

    def write_coco(self, path: Path) -> list[str]:
        shape = self.volume.spatial_shape
        masks: dict[str, NumberedMask | None] = {}
        for name in () if len(shape) == 3 else self._structures.inside:
            found = self.numbers(name)
            masks[name] = (
                None if found is None else NumberedMask(numbers=found[0][..., 0], start=found[1][:2])
            )
        value = coco_dataset(
            masks,
            case_id=str(self.record["case_id"]),
            shape=shape,
            table=self.table,
            confidences=confidences_of(self.record),
        )
        write_json(path, value)
        return []

    def write_seg(self, path: Path) -> list[str]:
        if self.volume.source.format != "dicom":
            raise InputError("the image is not a DICOM file, so there is no instance to refer to")
        labels, notes = self.labels()
        if not labels:
            path.unlink(missing_ok=True)
            return ["No instance_seg was written: no target was recognised.", *notes]
        named = self._named()
        # Segments come structure by structure, so that the numbers of one are held at a time.
        held: dict[str, tuple[NDArray[Any], tuple[int, int, int]] | None] = {}

        def mask_of(segment: int, plane: int) -> NDArray[np.bool_] | None:
            """(rows, columns) mask of a segment in a slice."""
            item = named[labels[segment - 1].name]
            structure, box = item["structure"], [*item["box"], (0, 0)]
            if structure not in held:
                held.clear()
                held[structure] = self.numbers(structure)
            found = held[structure]
            if found is None or not box[2][0] <= plane <= box[2][1]:
                return None
            numbers, start = found
            place = tuple(slice(first, last + 1) for first, last in box[:2])
            own = tuple(slice(p.start - f, p.stop - f) for p, f in zip(place, start, strict=False))
            whole = np.zeros(self.volume.spatial_shape[:2], dtype=np.bool_)
            whole[place] = numbers[..., plane - start[2]][own] == item["number"]
            return whole.T if whole.any() else None

        model = self.record["model"]
        written = write_segments(
            path,
            mask_of,
            self.volume.grid,
            LabelTable(labels=labels),
            algorithm_name=model["name"],
            algorithm_version=model["version"],
            weights_sha256=model["weights_sha256"],
            overlap="NO" if self._apart() else "UNDEFINED",
        )
        return [*written.notes, *notes]

    def _named(self) -> dict[str, Record]:
        return {f"{item['structure']} {item['number']}": item for item in instances_of_record(self.record)}

    def _apart(self) -> bool:
        """Whether no two structures share a class."""
        classes = self.table.region_classes()
        names = dict.fromkeys(item["structure"] for item in instances_of_record(self.record))
        members = [member for name in names for member in classes[name]]
        return len(set(members)) == len(members)

    def labels(self) -> tuple[tuple[Label, ...], tuple[str, ...]]:
        """A label for each instance, with the code of its structure; a sentence on those that have none."""
        labels: list[Label] = []
        without: list[str] = []
        for item in instances_of_record(self.record):
            kind = self._kind(item["structure"])
            if kind is None:
                without.append(item["structure"])
                continue
            code, colour = kind
            labels.append(
                Label(
                    name=f"{item['structure']} {item['number']}",
                    value=len(labels) + 1,
                    colour=colour,
                    code=code,
                )
            )
        names = ", ".join(dict.fromkeys(without))
        said = (f"Without one code for it, and so not among the DICOM targets: {names}.",) if without else ()
        return tuple(labels), said

    def _kind(self, structure: str) -> tuple[Code, str] | None:
        """Code and colour of a label, or of a region whose members all have one code."""
        members = self.table.regions.get(structure, (structure,))
        labels = [label for label in self.table.labels if label.name in members]
        codes = {label.code for label in labels}
        code = codes.pop() if len(codes) == 1 else None
        if code is None:
            return None
        return code, labels[0].colour if len(labels) == 1 else _REGION_COLOUR

    def write_sr(self, path: Path, folder: Path) -> list[str]:
        seg = folder / TARGET_FILES["instance_seg"]
        if not seg.exists():
            raise InputError("there is no instance_seg of the case that it could refer to")
        labels, _ = self.labels()
        named = self._named()
        written = write_measurement_sr(
            path,
            seg_path=seg,
            grid=self.volume.grid,
            table=LabelTable(labels=labels),
            measures={label.name: measured(named[label.name]) for label in labels},
            sides={
                label.name: side for label in labels if (side := self._side(named[label.name])) is not None
            },
            series_number=SR_SERIES_NUMBER,
        )
        return list(written.notes)

    def _side(self, item: Record) -> Literal["left", "right"] | None:
        """Side that the code does not say: of a label with a twin of one code, or known from the body's midline."""
        place = item["place"]
        if place["side"] not in ("left", "right") or place["side_of"] == "image":
            return None
        own = next((label for label in self.table.labels if label.name == item["structure"]), None)
        twin = next((x for x in self.table.labels if own is not None and x.name == own.pair), None)
        sided_code = place["side_of"] == "label" and (own is None or twin is None or twin.code != own.code)
        return None if sided_code else place["side"]


def measured(item: Record) -> list[MeasuredValue]:
    """Numbers of an instance for a report; its place and confidence go with the first of them as a note."""
    confidence = item["quantities"]["confidence"]
    said = [f"Place: {item['place']['text']}."] if item["place"]["text"] else []
    if confidence["value"] is not None:
        said.append(f"Confidence {confidence['value']:.3f} ({confidence['note']}).")
    found = []
    for name in _REPORTED:
        quantity = item["quantities"].get(name)
        if quantity is None or quantity["value"] is None:
            continue
        note = " ".join(text for text in (*said, quantity["note"]) if text)
        said = []
        found.append(
            MeasuredValue(
                measure=_AXES.get(name, name),
                value=quantity["value"],
                unit=quantity["unit"],
                cut_off=quantity["bound"] == "lower",
                note=note,
            )
        )
    return found
