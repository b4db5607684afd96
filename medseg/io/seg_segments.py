"""What the segments of a DICOM segmentation are: names, codes, colours, algorithms; a LabelTable of them."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from medseg.errors import ImageReadError
from medseg.io.dicom_header import DicomHeader
from medseg.labels import Code, Label, LabelTable, Side

_SIDES: dict[str, Side] = {"7771000": "left", "24028007": "right", "51440002": "both"}
_GOLDEN = 0.618033988749895
# IEC 61966-2-1 for the D65 white that the writers of these values assume; and that white.
_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment as the file describes it.

    Parameters
    ----------
    number : int
        Segment Number, which the voxels have.
    label : Label
        Name, colour, side and property type; the value is the number.
    category, property_type : Code or None
    modifiers : tuple of Code
        Of the property type, such as a side.
    algorithm_type : str
        AUTOMATIC, SEMIAUTOMATIC or MANUAL.
    algorithm_name, algorithm_version, tracking_id, tracking_uid : str
        "" where the file does not say.
    """

    number: int
    label: Label
    category: Code | None = None
    property_type: Code | None = None
    modifiers: tuple[Code, ...] = ()
    algorithm_type: str = ""
    algorithm_name: str = ""
    algorithm_version: str = ""
    tracking_id: str = ""
    tracking_uid: str = ""


def read_segments(header: DicomHeader) -> tuple[Segment, ...]:
    """The segments of a data set by ascending number; number 0, the background of a label map, is left out.

    Raises
    ------
    ImageReadError
        No segments, or one number twice.
    """
    segments = [_segment(DicomHeader(header.path, (item,))) for item in header.items("SegmentSequence")]
    repeated = [n for n, count in Counter(segment.number for segment in segments).items() if count > 1]
    if not segments or repeated:
        fault = f"segment {repeated[0]} is described twice" if repeated else "no segment is described"
        raise ImageReadError(f"{header.path}: {fault}; the file is damaged")
    return tuple(sorted((s for s in segments if s.number), key=lambda segment: segment.number))


def _segment(item: DicomHeader) -> Segment:
    number = item.whole("SegmentNumber", 0, 65535)
    kinds = item.items("SegmentedPropertyTypeCodeSequence")
    kind = _code(item.path, kinds)
    modifiers = _modifiers(item, kinds)
    algorithm = [
        DicomHeader(item.path, (one,)) for one in item.items("SegmentationAlgorithmIdentificationSequence")
    ]
    return Segment(
        number=number,
        label=Label(
            name=_text(item, "SegmentLabel") or (kind.meaning if kind else "") or f"segment {number}",
            value=number,
            colour=_colour(item, number),
            side=next((_SIDES[code.value] for code in modifiers if code.value in _SIDES), "none"),
            code=kind,
        ),
        category=_code(item.path, item.items("SegmentedPropertyCategoryCodeSequence")),
        property_type=kind,
        modifiers=modifiers,
        algorithm_type=item.code("SegmentAlgorithmType"),
        algorithm_name=_text(item, "SegmentAlgorithmName"),
        algorithm_version=_text(algorithm[0], "AlgorithmVersion") if algorithm else "",
        tracking_id=_text(item, "TrackingID"),
        tracking_uid=item.uid("TrackingUID"),
    )


def _text(header: DicomHeader, keyword: str) -> str:
    return next(iter(header.texts(keyword)), "")


def _modifiers(item: DicomHeader, kinds: Sequence[Dataset]) -> tuple[Code, ...]:
    """Inside the type's item, where the standard has them; some writers put them beside it."""
    keyword = "SegmentedPropertyTypeModifierCodeSequence"
    found = [*(DicomHeader(item.path, (kinds[0],)).items(keyword) if kinds else []), *item.items(keyword)]
    return tuple(code for one in found if (code := _code(item.path, [one])) is not None)


def _code(path: object, items: Sequence[Dataset]) -> Code | None:
    if not items:
        return None
    header = DicomHeader(path, (items[0],))  # type: ignore[arg-type]
    value = next(
        (v for k in ("CodeValue", "LongCodeValue", "URNCodeValue") if (v := _text(header, k))),
        "",
    )
    scheme = _text(header, "CodingSchemeDesignator")
    return Code(scheme=scheme, value=value, meaning=_text(header, "CodeMeaning")) if value else None


def _colour(item: DicomHeader, number: int) -> str:
    """Hex RGB of Recommended Display CIELab Value; a colour of its own for each number where it is missing.

    References
    ----------
    DICOM PS3.3 C.10.7.1.1.
    """
    lab = item.numbers("RecommendedDisplayCIELabValue")
    if len(lab) == 3 and all(0 <= v <= 65535 for v in lab):
        rgb = _rgb(lab[0] * 100 / 65535, lab[1] * 255 / 65535 - 128, lab[2] * 255 / 65535 - 128)
    else:
        rgb = colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, 0.65, 0.95)
    return "#" + "".join(f"{min(max(round(255 * v), 0), 255):02x}" for v in rgb)


def _rgb(light: float, a: float, b: float) -> tuple[float, ...]:
    """CIELab -> sRGB in 0..1, clipped."""
    y = (light + 16) / 116
    steps = np.array([y + a / 500, y, y - b / 200])
    xyz = _WHITE * np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29))
    linear = np.clip(_TO_RGB @ xyz, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return tuple(float(v) for v in curved)


def segment_table(segments: Sequence[Segment]) -> LabelTable:
    """LabelTable of segments: values are the segment numbers; equal names get the number added.

    A left and a right segment with one property type become a pair.
    """
    counts = Counter(segment.label.name for segment in segments)
    names = {
        s.number: s.label.name if counts[s.label.name] == 1 else f"{s.label.name} ({s.number})"
        for s in segments
    }
    return LabelTable(
        labels=tuple(
            Label(
                name=names[s.number],
                value=s.number,
                colour=s.label.colour,
                side=s.label.side,
                code=s.label.code,
                pair=names.get(_twin(s, segments)),
            )
            for s in segments
        )
    )


def _twin(segment: Segment, segments: Sequence[Segment]) -> int:
    """Number of the one segment of the same kind on the other side; -1 where there is not one."""
    other = {"left": "right", "right": "left"}.get(segment.label.side)
    same = [s for s in segments if segment.property_type and s.property_type == segment.property_type]
    twins = [s for s in same if s.label.side == other]
    alone = sum(s.label.side == segment.label.side for s in same) == 1
    return twins[0].number if len(twins) == 1 and alone else -1
