"""Label map, masks or probabilities -> DICOM Segmentation object on the source's own grid.

A series with patient coordinates gives planes in them, one for each slice, tilted and oblique ones as
they are. A projection image has no patient geometry, so its SEG has none either: no frame of reference,
no plane position, orientation or pixel measures. Each frame refers to its source instance with "spatial
locations preserved" (DICOM PS3.3 A.51, C.8.20). Frames are streamed: memory does not grow with their number.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg import __version__
from medseg.errors import GeometryError, InputError
from medseg.export.dicom_elements import MAX_LENGTH, item, sequence, text, unsigned
from medseg.export.identity import json_digest
from medseg.export.options import ContentQualification
from medseg.export.seg_frames import (
    FrameSource,
    Overlap,
    SegFrames,
    binary_frames,
    fraction_frames,
    labelmap_frames,
    mask_frames,
    slices_first,
    whole_fractions,
)
from medseg.export.seg_modules import SegFacts, SegKind, background_segment, static_modules
from medseg.export.seg_pixels import native_length, write_native, write_rle
from medseg.export.seg_place import SegPlace, place_of
from medseg.export.segments import check_codes, check_labels, describe_algorithm, describe_segment
from medseg.export.source_header import (
    IDENTITY,
    check_source,
    content_dates,
    header_errors,
    read_source,
)
from medseg.io.dicom_header import DicomHeader
from medseg.labels import LabelTable
from medseg.provenance import whole_file
from medseg.volume import ImageGrid

Compression = Literal["none", "rle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSeg:
    """What came of an export.

    Parameters
    ----------
    path : Path or None
        None where no structure was found: a SEG with nothing in it is not written.
    sop_instance_uid, series_instance_uid : str
        "" where no file was written.
    frames : int
        Frames written: segments in slices, or slices of a label map, that are not empty.
    notes : tuple of str
        What a reader of the result must know, one sentence each.
    """

    path: Path | None
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    frames: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """The model that made a result, and when and for what."""

    name: str
    version: str
    weights_sha256: str
    created: datetime | None
    qualification: ContentQualification


def write_dicom_seg(
    path: Path,
    label_map: NDArray[Any] | None,
    grid: ImageGrid,
    table: LabelTable,
    *,
    algorithm_name: str,
    algorithm_version: str,
    weights_sha256: str,
    kind: SegKind = "binary",
    probabilities: NDArray[Any] | FrameSource | None = None,
    compression: Compression | None = None,
    created: datetime | None = None,
    content_qualification: ContentQualification = "RESEARCH",
) -> WrittenSeg:
    """Write the segmentation of one image: a DICOM series, a single slice or a projection image.

    Segment n is class n of the table, also where a structure before it is missing: every label is
    described, and those without a voxel have no frame. UIDs are derived from what determines the
    bytes (source instances, their patient and study, grid, values, labels, model, kind, versions of
    the software, dates), so the same result is the same instance, byte for byte, and a changed one
    never takes its UID.

    Parameters
    ----------
    path : Path
        Written whole or not at all. An older file is removed where no structure was found.
    label_map : (I, J) or (I, J, K) integer array, or None
        Class indices on the grid, i its column. None only for kind "fractional" with probabilities.
    grid : ImageGrid
        Of the image, from DICOM files. The header of the first one is read; the instances are those of
        `grid.source`.
    table : LabelTable
        Every label needs a code. Where both labels of a pair have one code, the side is its modifier.
    algorithm_name, algorithm_version, weights_sha256 : str
        Of the model bundle; name and version are cut at 64 characters.
    kind : {"binary", "labelmap", "fractional"}
        "binary" is what every reader takes. "labelmap" is smaller, new and not known to many archives.
        "fractional" has one byte of probability a voxel.
    probabilities : (L, I, J[, K]) array or callable, optional
        For "fractional": floats in 0..1 or uint8 in 0..255 by class, background first; or a callable
        (class index, slice index) -> (rows, columns) of these or None, asked twice. None: 0 and 1 from
        the label map, the only fractions that common viewers show.
    compression : {"none", "rle"}, optional
        Default "rle" for "fractional", else "none"; "binary" cannot be compressed.
    created : datetime or None
        When the result was made, local time: the content and series date, and so part of what
        makes the instance. None: the content date is the source's own (content, acquisition,
        series or study date), and 1900-01-01 where it has none.
    content_qualification : {"RESEARCH", "PRODUCT", "SERVICE"}

    Returns
    -------
    WrittenSeg

    Raises
    ------
    InputError
        The source lacks what a SEG must refer to, or the pixel data would not fit an object.
    ImageReadError
        The source is not a DICOM file, or its header is damaged.
    GeometryError
        Label map, grid and source differ in columns, rows or slices.
    LabelError
        A label without a coded concept, or a class index that the table does not have.
    StorageError
        The file cannot be written.

    References
    ----------
    DICOM PS3.3 A.51, A.92 and C.8.20; PS3.5 B.2 for UIDs made from UUIDs.
    """
    check_codes(table)
    maker = _Maker(
        name=algorithm_name,
        version=algorithm_version,
        weights_sha256=weights_sha256,
        created=created,
        qualification=content_qualification,
    )
    if kind == "binary" and compression == "rle":
        raise InputError("a binary DICOM SEG cannot be RLE-compressed (PS3.5 8.2.2); choose labelmap or none")
    rle = (compression or ("rle" if kind == "fractional" else "none")) == "rle"
    if probabilities is not None and kind == "fractional":
        frames = _probability_frames(probabilities, grid, table)
    else:
        frames = _label_frames(label_map, grid, table, kind)
    return _write(path, frames, grid, table, maker=maker, kind=kind, rle=rle)


def write_segments(
    path: Path,
    masks: FrameSource,
    grid: ImageGrid,
    table: LabelTable,
    *,
    algorithm_name: str,
    algorithm_version: str,
    weights_sha256: str,
    overlap: Overlap = "UNDEFINED",
    created: datetime | None = None,
    content_qualification: ContentQualification = "RESEARCH",
) -> WrittenSeg:
    """Write a BINARY segmentation whose segments may overlap, from masks made when they are asked for.

    Parameters
    ----------
    masks : callable
        (segment number, slice index) -> bool mask (rows, columns), the transpose of a slice of a label
        map, or None where the segment is not in the slice. Segment n is label n of the table, from 1.
        It is asked for every segment and slice, and again for those that are not empty.
    overlap : {"NO", "YES", "UNDEFINED"}
        Whether segments share voxels, where the caller knows.
    path, grid, table, algorithm_name, algorithm_version, weights_sha256, created, content_qualification
        As for `write_dicom_seg`, with the same errors.
    """
    check_codes(table)
    maker = _Maker(
        name=algorithm_name,
        version=algorithm_version,
        weights_sha256=weights_sha256,
        created=created,
        qualification=content_qualification,
    )
    frames = mask_frames(
        masks,
        segments=len(table.labels),
        slices=_slices(grid),
        shape=(grid.shape[1], grid.shape[0]),
        overlap=overlap,
    )
    return _write(path, frames, grid, table, maker=maker, kind="binary", rle=False)


def _slices(grid: ImageGrid) -> int:
    return grid.shape[2] if len(grid.shape) == 3 else 1


def _label_frames(
    label_map: NDArray[Any] | None, grid: ImageGrid, table: LabelTable, kind: SegKind
) -> SegFrames:
    if label_map is None:
        raise InputError(f"a DICOM SEG of kind {kind} is made from a label map, found none")
    check_labels(label_map, table)
    if label_map.shape != grid.shape:
        raise GeometryError(
            f"the label map has the shape {label_map.shape}, the image's grid {grid.shape}; "
            "bring it onto the grid of the image first"
        )
    slices = slices_first(label_map, table.class_count)
    if kind == "binary":
        return binary_frames(slices, table.class_count)
    if kind == "labelmap":
        return labelmap_frames(slices, table.class_count)
    return whole_fractions(binary_frames(slices, table.class_count))


def _probability_frames(
    probabilities: NDArray[Any] | FrameSource, grid: ImageGrid, table: LabelTable
) -> SegFrames:
    if isinstance(probabilities, np.ndarray):
        expected = (table.class_count, *grid.shape)
        if probabilities.shape != expected:
            raise GeometryError(f"probabilities have the shape {probabilities.shape}, expected {expected}")
        stack = probabilities if len(grid.shape) == 3 else probabilities[..., np.newaxis]
    return fraction_frames(
        (lambda n, k: stack[n, :, :, k].T) if isinstance(probabilities, np.ndarray) else probabilities,
        segments=len(table.labels),
        slices=_slices(grid),
        shape=(grid.shape[1], grid.shape[0]),
    )


def _write(
    path: Path,
    frames: SegFrames,
    grid: ImageGrid,
    table: LabelTable,
    *,
    maker: _Maker,
    kind: SegKind,
    rle: bool,
) -> WrittenSeg:
    if not frames.keys:
        path.unlink(missing_ok=True)
        return WrittenSeg(path=None, notes=("No DICOM SEG was written, because no structure was found.",))
    if not grid.source.paths or grid.source.format != "dicom":
        raise InputError(
            "the image is not from DICOM files, so there is no instance a DICOM SEG can refer to"
        )
    source_path = grid.source.paths[0]
    with header_errors(source_path):
        header = read_source(source_path)
        check_source(header.dataset, grid)
        place = place_of(grid, DicomHeader.of(header.dataset, source_path))
        dates, notes = content_dates(header.dataset, maker.created)
    bits = 1 if kind == "binary" else 8 if table.class_count <= 256 or kind == "fractional" else 16
    length = 0 if rle else native_length(len(frames.keys), place.rows, place.columns, bits)
    facts = SegFacts(
        kind=kind,
        bits=bits,
        frames=len(frames.keys),
        rle=rle,
        overlap=frames.overlap,
        digest=_digest(frames, header.dataset, place, table, maker, [kind, rle, dates]),
        description=f"medseg {maker.name} {maker.version}"[:58] + " [SEG]",
        device=maker.weights_sha256[:16] or "none",
        dates=dates,
        content_qualification=maker.qualification,
    )
    with header_errors(source_path):
        seg = static_modules(header, place, _segments(table, maker, facts), facts)
        head = io.BytesIO()
        seg.save_as(head, enforce_file_format=True)
    groups = _per_frame_groups(frames, place)
    with whole_file(path) as part, part.open("wb") as stream:
        stream.write(head.getbuffer())
        stream.write(groups)
        _write_pixels(stream, frames, place, facts, length)
    return WrittenSeg(
        path=path,
        sop_instance_uid=str(seg.SOPInstanceUID),
        series_instance_uid=str(seg.SeriesInstanceUID),
        frames=facts.frames,
        notes=(*place.notes, *notes, *_missing(frames, table)),
    )


def _missing(frames: SegFrames, table: LabelTable) -> tuple[str, ...]:
    names = [label.name for n, label in enumerate(table.labels, 1) if n not in frames.found]
    return (f"Not found, and so without a frame in the DICOM SEG: {', '.join(names)}.",) if names else ()


def _digest(
    frames: SegFrames, source: Dataset, place: SegPlace, table: LabelTable, maker: _Maker, other: list[Any]
) -> str:
    """Hash of all that determines the file."""
    return json_digest(
        values=frames.digest,
        instances=[list(pair) for pair in place.instances],
        planes=[place.orientation, place.spacing, place.thickness, place.between, place.positions],
        frame_of_reference=place.frame_of_reference_uid,
        overlap=frames.overlap,
        series=[str(source.StudyInstanceUID), str(source.SeriesInstanceUID), place.sop_class_uid],
        identity=[str(source.get(name) or "") for name in IDENTITY],
        labels=table.to_json()["labels"],
        model=[maker.name, maker.version, maker.weights_sha256, maker.qualification],
        software=[__version__, *(metadata.version(name) for name in ("highdicom", "pydicom"))],
        other=other,
    )


def _segments(table: LabelTable, maker: _Maker, facts: SegFacts) -> list[Dataset]:
    algorithm = describe_algorithm(maker.name, maker.version, maker.weights_sha256)
    segments: list[Dataset] = [
        describe_segment(n, label, table, algorithm, facts.digest) for n, label in enumerate(table.labels, 1)
    ]
    return [background_segment(maker.name), *segments] if facts.kind == "labelmap" else segments


def _write_pixels(stream: BinaryIO, frames: SegFrames, place: SegPlace, facts: SegFacts, length: int) -> None:
    if facts.rle:
        frame_bytes = place.rows * place.columns * facts.bits // 8
        write_rle(stream, frames.values(), count=facts.frames, frame_bytes=frame_bytes)
    else:
        write_native(stream, frames.values(), length=length, bits=facts.bits)


def _per_frame_groups(frames: SegFrames, place: SegPlace) -> bytes:
    """Per-Frame Functional Groups Sequence, as bytes (PS3.3 C.7.6.16)."""
    slices = sorted({k for _, k in frames.keys})
    rank = {k: n for n, k in enumerate(slices, 1)}
    derivation = {k: place.derivation(k) for k in slices}
    position = {k: place.plane_position(k) for k in slices}
    items = []
    for segment, k in frames.keys:
        content = sequence(0x00209111, [_frame_content(segment, rank[k], place.projection)])
        which = sequence(0x0062000A, [item(unsigned(0x0062000B, b"US", segment))]) if segment else b""
        items.append(item(derivation[k], content, position[k], which))
    if sum(map(len, items)) > MAX_LENGTH:
        raise InputError(f"the DICOM SEG would have {len(items)} frames, too many for one object")
    return sequence(0x52009230, items)


def _frame_content(segment: int, rank: int, projection: bool) -> bytes:
    """Indices of a frame along the dimensions that the dimension module names."""
    if not projection:
        return item(unsigned(0x00209157, b"UL", *([segment, rank] if segment else [rank])))
    if segment:
        return item(unsigned(0x00209157, b"UL", segment))
    return item(unsigned(0x00209157, b"UL", 1), text(0x00209453, b"LO", "Frame"))
