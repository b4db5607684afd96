"""DICOM Segmentation objects of any writer -> label map, masks or probabilities on a grid.

The per-frame functional groups and the bits are read by hand, because a parser of data sets needs a
millisecond for each frame. What the frames say of their places is believed only where it makes one
even stack of planes; a frame beside it, or one that is there twice, is refused with its number.

References
----------
DICOM PS3.3 A.51, A.92, C.7.6.16 and C.8.20.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError, LabelError
from medseg.io.dicom_file import DatasetStream, parse_front
from medseg.io.dicom_format import frame_format
from medseg.io.dicom_frame import FrameSource, is_encapsulated
from medseg.io.dicom_header import DicomHeader, uid_name
from medseg.io.dicom_items import UNDEFINED, EncodedElements
from medseg.io.dicom_native import check_length
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits, open_regular
from medseg.io.seg_frame_table import FrameTable, frame_table
from medseg.io.seg_pixels import OVERLAP, SegPixels, SliceFrames
from medseg.io.seg_place import Placement, place_frames
from medseg.io.seg_segments import Segment, read_segments, segment_table
from medseg.labels import LabelTable
from medseg.volume import ImageGrid

__all__ = ["SegVolume", "Segment", "read_dicom_seg", "segment_table"]

SegType = Literal["BINARY", "FRACTIONAL", "LABELMAP"]
SEGMENTATION_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
_PER_FRAME, _PIXEL_DATA = 0x52009230, 0x7FE00010
_MOST_TAIL_ELEMENTS = 64
_BITS = {"BINARY": (1, 8), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegVolume:
    """A segmentation whose header was read and checked; voxels are decoded when they are asked for.

    Parameters
    ----------
    path : Path
    kind : {"BINARY", "FRACTIONAL", "LABELMAP"}
    segments : tuple of Segment
        By ascending number.
    grid : ImageGrid
        Where the voxels of all results are: the image's that was given, else the stack of the frames.
    fractional_type : str
        PROBABILITY or OCCUPANCY; "" for other kinds.
    referenced_series : tuple of str
        Series Instance UIDs of the images it was made from.
    referenced_instances : tuple of str
        Their SOP Instance UIDs.
    """

    path: Path
    kind: SegType
    segments: tuple[Segment, ...]
    grid: ImageGrid
    fractional_type: str
    referenced_series: tuple[str, ...]
    referenced_instances: tuple[str, ...]
    _table: FrameTable
    _placement: Placement
    _pixels: SegPixels

    @property
    def table(self) -> LabelTable:
        """The segments as a LabelTable, whose values are the segment numbers."""
        return segment_table(self.segments)

    def segment(self, number: int) -> Segment:
        """The segment of a number.

        Raises
        ------
        LabelError
            There is none.
        """
        for segment in self.segments:
            if segment.number == number:
                return segment
        known = ", ".join(str(s.number) for s in self.segments[:20])
        raise LabelError(f"{self.path}: there is no segment {number}; it has {known}")

    def label_map(self, *, threshold: float = 0.5) -> NDArray[Any]:
        """Segment number of each voxel, 0 where there is none.

        Parameters
        ----------
        threshold : float
            Fraction from which a voxel of a FRACTIONAL segmentation belongs to a segment.

        Returns
        -------
        grid.shape array of uint8 or uint16
            Frames lie one after the other in memory (Fortran order).

        Raises
        ------
        LabelError
            Two segments share voxels (the message names them and counts), or a value is no segment.
        GeometryError
            Voxels of a segment lie outside the grid.
        """
        numbers = [segment.number for segment in self.segments]
        frames = self._frames()
        try:
            values = self._pixels.label_map(self._placement.slices, frames, numbers=numbers, share=threshold)
        except OVERLAP as err:
            raise self._overlap(frames, threshold) from err
        return self._placed(values)

    def mask(self, number: int, *, threshold: float = 0.5) -> NDArray[np.bool_]:
        """Where one segment is, whether or not others overlap it; grid.shape bool array."""
        self.segment(number)
        frames = self._frames(number)
        return self._placed(self._pixels.mask(self._placement.slices, frames, number=number, share=threshold))

    def probabilities(self, number: int) -> NDArray[np.float32]:
        """Fraction 0..1 of one segment; of a mask 0 and 1. grid.shape float32 array."""
        self.segment(number)
        if self.kind == "LABELMAP":
            return np.asarray(self.mask(number), dtype=np.float32)
        return self._placed(self._pixels.fractions(self._placement.slices, self._frames(number)))

    def overlaps(self, *, threshold: float = 0.5) -> dict[tuple[int, int], int]:
        """Voxels that two segments have in common, by their numbers; empty where none do."""
        if self.kind == "LABELMAP":
            return {}
        return self._pixels.shared(self._frames(), share=threshold)

    def _frames(self, number: int | None = None) -> SliceFrames:
        frames: dict[int, list[tuple[int, int]]] = {}
        for frame, (segment, k) in enumerate(
            zip(self._table.segments.tolist(), self._placement.slice_of.tolist(), strict=True)
        ):
            if k >= 0 and (number is None or self.kind == "LABELMAP" or segment == number):
                frames.setdefault(k, []).append((frame, segment))
        return frames

    def _placed(self, values: NDArray[Any]) -> NDArray[Any]:
        """(K, rows x columns) -> (I, J, K) of the stack -> the grid."""
        form = self._pixels.source.form
        stack = values.reshape(-1, form.rows, form.columns).transpose(2, 1, 0)
        return self._placement.onto_grid(stack, self.path)

    def _overlap(self, frames: SliceFrames, threshold: float) -> LabelError:
        counts = self._pixels.shared(frames, share=threshold)
        (a, b), voxels = max(counts.items(), key=lambda pair: pair[1])
        first, second = self.segment(a).label.name, self.segment(b).label.name
        more = f" ({len(counts) - 1} more pairs overlap)" if len(counts) > 1 else ""
        return LabelError(
            f"{self.path}: segments {a} ({first}) and {b} ({second}) share {voxels} voxels{more}; "
            "a label map holds one segment a voxel, read masks instead"
        )


def read_dicom_seg(
    path: Path, *, like: ImageGrid | None = None, limits: ReadLimits = DEFAULT_LIMITS
) -> SegVolume:
    """Read the header of a DICOM SEG and find the place of every frame.

    Parameters
    ----------
    path : Path
        BINARY, FRACTIONAL or LABELMAP, in any transfer syntax of still images.
    like : ImageGrid, optional
        Put the result onto the grid of this image. Both must be of one lattice, in any order and
        direction of axes; each may go beyond the other where the segmentation is empty. A projection
        image has no lattice: then frames are those that refer to its instance. None: the stack of the
        frames, from the first to the last plane, along the normal.
    limits : ReadLimits, optional

    Returns
    -------
    SegVolume

    Raises
    ------
    ImageReadError
        No segmentation, damaged, or a header that disagrees with the pixels or the functional groups.
    GeometryError
        A frame that is off the lattice of the others or there twice; frames of several orientations; a
        grid that `like` does not share (the message has both affines), or another frame of reference.
    """
    path = Path(path)
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        dataset, stored_as, front = parse_front(stream, size, path, limits, stop_at=_PER_FRAME)
        header = DicomHeader.of(dataset, path)
        kind = _kind(header)
        table, place = _functional_groups(header, front, stored_as, limits)
    pixels = _pixels(header, kind, place, len(table), front, limits)
    segments = read_segments(header)
    table = _with_segments(header, table, kind, segments)
    placement = place_frames(header, table, like, limits)
    _refuse_doubles(path, table, placement)
    series = header.items("ReferencedSeriesSequence")
    instances = [i for s in series for i in DicomHeader(path, (s,)).items("ReferencedInstanceSequence")]
    return SegVolume(
        path=path,
        kind=kind,
        segments=segments,
        grid=placement.grid,
        fractional_type=header.code("SegmentationFractionalType"),
        referenced_series=tuple(DicomHeader(path, (s,)).uid("SeriesInstanceUID") for s in series),
        referenced_instances=tuple(
            DicomHeader(path, (i,)).uid("ReferencedSOPInstanceUID") for i in instances
        ),
        _table=table,
        _placement=placement,
        _pixels=pixels,
    )


def _kind(header: DicomHeader) -> SegType:
    stated, sop_class = header.code("SegmentationType"), header.uid("SOPClassUID")
    if sop_class not in SEGMENTATION_CLASSES:
        raise ImageReadError(f"{header.path}: expected a DICOM SEG, found: {uid_name(sop_class)}")
    if header.value("TotalPixelMatrixRows") is not None:
        raise ImageReadError(f"{header.path}: segmentations of slides, in tiles, are not read")
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        if stated == kind:
            return kind
    raise ImageReadError(
        f"{header.path}: SegmentationType is {stated or 'missing'}, expected BINARY, FRACTIONAL or LABELMAP"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PixelPlace:
    offset: int
    length: int
    vr: str


def _functional_groups(
    header: DicomHeader, front: DatasetStream, stored_as: str, limits: ReadLimits
) -> tuple[FrameTable, _PixelPlace]:
    """The table of the frames, and where the pixel data behind it lie."""
    where = str(header.path)
    implicit, little = header.layers[-1].original_encoding
    encoding: dict[str, Any] = {"implicit": bool(implicit), "little": bool(little), "where": where}
    begin = front.tell()
    head = EncodedElements(front.read(12), **encoding)
    tag, length, head_bytes = _head(head, implicit=bool(implicit))
    if tag != _PER_FRAME:
        raise ImageReadError(
            f"{where}: the segmentation has no functional groups for its frames, so nobody knows what they show"
        )
    if length == UNDEFINED:
        front.seek(begin)
        if front.size - begin > limits.max_file_bytes:
            raise ImageReadError(f"{where}: the file is larger than the option max_file_mb allows")
        groups = EncodedElements(front.read(), **encoding)
        element = groups.element(0, len(groups.data))
        start, stop, after = element.start, element.stop, begin + element.after
    else:
        left = front.size - begin - head_bytes
        if length > left:
            raise ImageReadError(
                f"{where}: the file is truncated: the functional groups of the frames say they have "
                f"{length} bytes, {left} are there"
            )
        front.seek(begin + head_bytes)
        groups = EncodedElements(front.read(length), **encoding)
        start, stop, after = 0, length, begin + head_bytes + length
    frames = header.whole("NumberOfFrames", 1, 1 << 31, default=1)
    table = frame_table(groups, start, stop, frames=frames, where=where)
    if length == UNDEFINED and not len(table):
        raise ImageReadError(f"{where}: no frame has functional groups")
    return table, _pixel_place(front, after, encoding, where)


def _head(head: EncodedElements, *, implicit: bool) -> tuple[int, int, int]:
    """Tag, length and length of the head of an element, of which only the head is there."""
    data = head.data
    if len(data) < 12:
        return 0, 0, 0
    order: Literal["little", "big"] = "little" if head.little else "big"
    tag = int.from_bytes(data[:2], order) << 16 | int.from_bytes(data[2:4], order)
    if implicit:
        return tag, int.from_bytes(data[4:8], order), 8
    if data[4:6] in (b"SQ", b"UN", b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UT", b"UC", b"UR"):
        return tag, int.from_bytes(data[8:12], order), 12
    return tag, int.from_bytes(data[6:8], order), 8


def _pixel_place(front: DatasetStream, at: int, encoding: dict[str, Any], where: str) -> _PixelPlace:
    """The pixel data element among the few that follow the functional groups."""
    for _ in range(_MOST_TAIL_ELEMENTS):
        front.seek(at)
        head = EncodedElements(front.read(12), **encoding)
        tag, length, head_bytes = _head(head, implicit=encoding["implicit"])
        if tag == _PIXEL_DATA:
            vr = "OW" if encoding["implicit"] else head.data[4:6].decode("ascii", "replace")
            return _PixelPlace(offset=at + head_bytes, length=length, vr=vr)
        if not tag or length == UNDEFINED or length > front.size - at - head_bytes:
            break
        at += head_bytes + length
    raise ImageReadError(f"{where}: the segmentation has no pixel data, or the file is truncated before them")


def _pixels(
    header: DicomHeader,
    kind: SegType,
    place: _PixelPlace,
    frames: int,
    front: DatasetStream,
    limits: ReadLimits,
) -> SegPixels:
    form = replace(frame_format(header, limits), photometric="MONOCHROME2")
    if form.samples != 1 or form.signed or form.bits_allocated not in _BITS[kind]:
        allowed = " or ".join(str(bits) for bits in _BITS[kind])
        raise ImageReadError(
            f"{header.path}: a {kind} segmentation has {allowed} unsigned bits a voxel, "
            f"the header says {form.samples} x {form.bits_allocated}"
        )
    source = FrameSource(
        path=header.path,
        transfer_syntax=str(header.layers[-1].file_meta.TransferSyntaxUID),
        offset=place.offset,
        length=place.length,
        form=form,
        frame=0,
        frames=frames,
        data=front.content,
        vr=place.vr,
    )
    if not is_encapsulated(source):
        check_length(form, frames, place.length, str(header.path))
        if place.length > front.size - place.offset:
            raise ImageReadError(
                f"{header.path}: the file is truncated: its pixels need {place.length} bytes, "
                f"{front.size - place.offset} are there"
            )
    full = header.whole("MaximumFractionalValue", 1, 255) if kind == "FRACTIONAL" else 1
    return SegPixels(source=source, kind=kind, full=full)


def _with_segments(
    header: DicomHeader, table: FrameTable, kind: SegType, segments: tuple[Segment, ...]
) -> FrameTable:
    """The table with the segment that all frames share, where they name none; every one must be described."""
    if kind == "LABELMAP":
        return replace(table, segments=np.zeros(len(table), dtype=np.int64))
    shared = header.numbers("ReferencedSegmentNumber")
    numbers = np.where(table.segments < 0, int(shared[0]) if len(shared) == 1 else -1, table.segments)
    strange = np.flatnonzero(~np.isin(numbers, [segment.number for segment in segments]))
    if len(strange):
        number = int(numbers[strange[0]])
        what = (
            "names no segment" if number < 0 else f"is of segment {number}, which the file does not describe"
        )
        raise ImageReadError(f"{header.path}: frame {int(strange[0]) + 1} {what}")
    return replace(table, segments=numbers)


def _refuse_doubles(path: Path, table: FrameTable, placement: Placement) -> None:
    pairs = list(zip(table.segments.tolist(), placement.slice_of.tolist(), strict=True))
    seen = Counter(pair for pair in pairs if pair[1] >= 0)
    double = next((pair for pair, count in seen.items() if count > 1), None)
    if double is not None:
        frames = [n + 1 for n, pair in enumerate(pairs) if pair == double]
        what = f"of segment {double[0]} " if double[0] else ""
        raise GeometryError(
            f"{path}: frames {frames[0]} and {frames[1]} {what}lie at one place; which one counts is not known"
        )
