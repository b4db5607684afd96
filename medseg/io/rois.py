"""What the ROIs of an RT Structure Set are: names, colours and codes, and the label table they make."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medseg.errors import ImageReadError
from medseg.io.roi_contours import items_of, text_of
from medseg.labels import BACKGROUND, Code, Label, LabelTable, Side

_NO_COLOUR = "#808080"
_SIDES: dict[str, Side] = {
    "7771000": "left",
    "24028007": "right",
    "51440002": "both",
    "G-A101": "left",
    "G-A100": "right",
    "G-A102": "both",
}
_MAX_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Roi:
    """One structure.

    Parameters
    ----------
    number : int
        ROI Number of the file.
    name : str
        ROI Name without control characters, "ROI n" where it is empty.
    colour : str
        As in a label table, #rrggbb; grey where the file has none.
    code : Code or None
        RT ROI Identification.
    side : str
        From the code's modifier.
    frame_of_reference_uid : str
        "" where the file does not say.
    """

    number: int
    name: str
    colour: str = _NO_COLOUR
    code: Code | None = None
    side: Side = "none"
    frame_of_reference_uid: str = ""


def read_rois(dataset: Dataset, with_contours: Collection[int], path: Path) -> tuple[Roi, ...]:
    """The ROIs in the order of the Structure Set ROI Sequence.

    Raises
    ------
    ImageReadError
        Two ROIs with one number, or contours (`with_contours`: their ROI Numbers) of none.
    """
    observed = {
        int(item.ReferencedROINumber): item for item in items_of(dataset, "RTROIObservationsSequence", path)
    }
    colours = {
        int(item.ReferencedROINumber): _colour(item) for item in items_of(dataset, "ROIContourSequence", path)
    }
    rois = []
    for item in items_of(dataset, "StructureSetROISequence", path):
        number = int(item.ROINumber)
        code, side = _code(observed.get(number), path)
        roi = Roi(
            number=number,
            name=_plain(item.get("ROIName")) or f"ROI {number}",
            colour=colours.get(number, _NO_COLOUR),
            code=code,
            side=side,
            frame_of_reference_uid=str(item.get("ReferencedFrameOfReferenceUID") or ""),
        )
        rois.append(roi)
    numbers = [roi.number for roi in rois]
    if len(set(numbers)) != len(numbers):
        raise ImageReadError(
            f"{path}: two ROIs have one number (numbers {numbers[:20]}); the file is damaged"
        )
    if lost := sorted(set(with_contours) - set(numbers)):
        raise ImageReadError(
            f"{path}: there are contours of ROI {lost[0]}, which the structure set does not describe"
        )
    return tuple(rois)


def _plain(text: object) -> str:
    """One line of at most 64 characters."""
    joined = "\\".join(text) if isinstance(text, list) else str(text or "")
    return " ".join("".join(c if c.isprintable() else " " for c in joined).split())[:_MAX_NAME]


def _colour(item: Dataset) -> str:
    values = [value.strip() for value in text_of(item, "ROIDisplayColor").split("\\")]
    fits = len(values) == 3 and all(re.fullmatch(r"\d{1,3}", value) for value in values)
    found = [int(value) for value in values] if fits else [256]
    return "#{:02x}{:02x}{:02x}".format(*found) if max(found) < 256 else _NO_COLOUR


def _code(observation: Dataset | None, path: Path) -> tuple[Code | None, Side]:
    if observation is None:
        return None, "none"
    for item in items_of(observation, "RTROIIdentificationCodeSequence", path)[:1]:
        value = str(item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or "")
        scheme, meaning = str(item.get("CodingSchemeDesignator") or ""), _plain(item.get("CodeMeaning"))
        modifiers = items_of(item, "SegmentedPropertyTypeModifierCodeSequence", path)
        sides = [_SIDES.get(str(modifier.get("CodeValue") or ""), "none") for modifier in modifiers[:1]]
        code = Code(scheme=scheme, value=value, meaning=meaning) if value and scheme else None
        return code, (sides or ["none"])[0]
    return None, "none"


def table_of(rois: Sequence[Roi]) -> LabelTable:
    """A label for each ROI, its value the ROI's place from 1."""
    names = unique_names(rois)
    return LabelTable(
        labels=tuple(
            Label(
                name=names[index],
                value=index + 1,
                colour=roi.colour,
                side=roi.side,
                code=roi.code,
                pair=_pair(index, rois, names),
            )
            for index, roi in enumerate(rois)
        )
    )


def unique_names(rois: Sequence[Roi]) -> list[str]:
    """Names, with the ROI number behind those that stand twice or mean the background."""
    names = [roi.name for roi in rois]
    return [
        f"{roi.name} ({roi.number})" if names.count(roi.name) > 1 or roi.name == BACKGROUND else roi.name
        for roi in rois
    ]


def _pair(index: int, rois: Sequence[Roi], names: Sequence[str]) -> str | None:
    """Name of the one ROI with the same code on the other side."""
    roi = rois[index]
    if roi.code is None or roi.side not in ("left", "right"):
        return None
    same = [(n, other) for n, other in enumerate(rois) if other.code == roi.code]
    others = [n for n, other in same if {other.side, roi.side} == {"left", "right"}]
    alone = sum(other.side == roi.side for _, other in same) == 1
    return names[others[0]] if len(others) == 1 and alone else None
