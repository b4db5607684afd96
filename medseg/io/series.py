"""The volumes that DICOM slices make up: series by their UIDs, stacks within them, and what is wrong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import GeometryError, ImageReadError
from medseg.geometry import spacing_of
from medseg.io.dicom_facts import facts_of
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_mosaic import Mosaic, mosaic_of
from medseg.io.dicom_slice import SliceHeader
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.orientation import letters_of_affine
from medseg.io.stacks import SamePixels, Stack, build_stacks
from medseg.volume import ImageGrid, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesVolume:
    """One image that a folder of DICOM holds, before a pixel is decoded.

    Parameters
    ----------
    key : str
        Short name in listings: number of the series, and of its part where it has several ("s3.2").
    slices : tuple of SliceHeader
        In stacking order.
    grid : ImageGrid
        (I, J, K), or (I, J) for one slice; without affine where there is a problem with the places.
    part : str
        What tells it from others of its series, such as "b-value 400".
    parts : int
        Images in its series.
    tilt_degrees : float
        Of the gantry: angle between the line of the slices and their normal.
    series_number, description : str
        "" where not given, or where the text may name the patient.
    problems : tuple of str
        Why it cannot be read; empty where it can.
    notes : tuple of str
        What a reader of the result must know.
    mosaic : Mosaic or None
        How the tiles of a Siemens mosaic become slices.
    """

    key: str
    slices: tuple[SliceHeader, ...]
    grid: ImageGrid
    part: str = ""
    parts: int = 1
    tilt_degrees: float = 0.0
    series_number: str = ""
    description: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mosaic: Mosaic | None = None

    @property
    def modality(self) -> str:
        """DICOM modality."""
        return self.slices[0].modality

    @property
    def is_localizer(self) -> bool:
        """Whether it only serves to plan other images."""
        return self.slices[0].is_localizer

    @property
    def form(self) -> PixelFormat | None:
        """How its pixels are stored; None where they cannot be read."""
        return self.slices[0].form

    def require_readable(self) -> None:
        """Raise what is wrong with it.

        Raises
        ------
        ImageReadError
            Pixels that cannot be read.
        GeometryError
            Slices that do not make up an even grid.
        """
        if not self.problems:
            return
        where = f"{_folder(self.slices)} ({self.key})"
        kind = ImageReadError if any(header.problem for header in self.slices) else GeometryError
        raise kind(f"{where}: {self.problems[0]}")


def find_volumes(
    slices: Sequence[SliceHeader], *, same_pixels: SamePixels, limits: ReadLimits = DEFAULT_LIMITS
) -> tuple[SeriesVolume, ...]:
    """Volumes of any mix of slices: studies, series and parts told apart.

    Parameters
    ----------
    slices : sequence of SliceHeader
        Of any number of patients, in any order.
    same_pixels : callable
        See `stacks.build_stacks`.
    limits : ReadLimits, optional

    Returns
    -------
    tuple of SeriesVolume
        In order of their first files.
    """
    groups: dict[tuple[str, ...], list[SliceHeader]] = defaultdict(list)
    for header in sorted(slices, key=lambda header: (str(header.path), header.frame)):
        groups[_series_of(header)].append(header)
    volumes: list[SeriesVolume] = []
    for number, group in enumerate(groups.values(), start=1):
        facts = facts_of_series(group[0], limits)
        stacks = _stacks(group, same_pixels, limits)
        volumes += [
            _volume(stack, mosaic, number, n if len(stacks) > 1 else 0, len(stacks), facts)
            for n, (stack, mosaic) in enumerate(stacks, start=1)
        ]
    return tuple(volumes)


def _series_of(header: SliceHeader) -> tuple[str, ...]:
    # Without UIDs, as some anonymisers leave files, the folder is what holds a series together.
    series = header.series_instance_uid or f"folder {header.path.parent}"
    return (header.patient, series, header.sop_class_uid, header.modality)


def _stacks(
    group: list[SliceHeader], same_pixels: SamePixels, limits: ReadLimits
) -> list[tuple[Stack, Mosaic | None]]:
    if "MOSAIC" not in group[0].image_type:
        return [(stack, None) for stack in build_stacks(group, same_pixels=same_pixels)]
    return [mosaic_of(header, limits) for header in _distinct(group, same_pixels)]


def _distinct(group: list[SliceHeader], same_pixels: SamePixels) -> list[SliceHeader]:
    """One file of each mosaic: a time point of its own, unless place, time and pixels are those of another."""
    kept: list[SliceHeader] = []
    for header in group:
        place = (header.position_lps, header.parts.get("acquisition time"), header.parts.get("acquisition"))
        if not any(
            place == (other.position_lps, other.parts.get("acquisition time"), other.parts.get("acquisition"))
            and same_pixels(header, other)
            for other in kept
        ):
            kept.append(header)
    return kept


@dataclass(frozen=True, slots=True)
class _SeriesFacts:
    number: str
    description: str
    header: dict[str, str]


def facts_of_series(first: SliceHeader, limits: ReadLimits) -> _SeriesFacts:
    """What the header of one slice tells of the whole series and names no person."""
    header = DicomHeader.of(scan_file(first.path, limits).dataset, first.path)
    number = header.numbers("SeriesNumber")
    facts = facts_of(header, first.stored_as)
    facts |= {"value_type": first.value_type} if first.value_type else {}
    padding = [n for k in ("PixelPaddingValue", "PixelPaddingRangeLimit") for n in header.numbers(k)]
    if padding and np.isfinite(padding).all():
        facts["pixel_padding_value"] = " to ".join(f"{n:g}" for n in padding)
    return _SeriesFacts(
        number=f"{number[0]:g}" if number and np.isfinite(number[0]) else "",
        description=header.plain_text("SeriesDescription"),
        header=facts,
    )


def _volume(
    stack: Stack, mosaic: Mosaic | None, number: int, part: int, parts: int, facts: _SeriesFacts
) -> SeriesVolume:
    return SeriesVolume(
        key=f"s{number}.{part}" if part else f"s{number}",
        slices=stack.slices,
        grid=_grid(stack, mosaic, facts.header),
        part=stack.part,
        parts=parts,
        tilt_degrees=stack.tilt_degrees,
        series_number=facts.number,
        description=facts.description,
        problems=stack.problems,
        notes=(*stack.notes, *_caveats(stack.slices)),
        mosaic=mosaic,
    )


def _caveats(slices: Sequence[SliceHeader]) -> tuple[str, ...]:
    notes = []
    if len({header.study_instance_uid for header in slices}) > 1:
        notes.append("the slices of this series name different studies; the first is referred to")
    kind = slices[0].value_type
    if slices[0].modality == "CT" and kind not in ("", "HU"):
        notes.append(
            f"CT values that are no Hounsfield units (rescale type {kind}): not an image to segment as CT"
        )
    return tuple(notes)


def _grid(stack: Stack, mosaic: Mosaic | None, facts: dict[str, str]) -> ImageGrid:
    first, form = stack.slices[0], stack.slices[0].form
    columns, rows = (form.columns, form.rows) if form else (0, 0)
    depth = len(stack.slices) if first.frames == len(stack.slices) or first.problem == "" else first.frames
    shape: tuple[int, ...] = (columns, rows, depth) if depth > 1 else (columns, rows)
    if mosaic is not None:
        shape = (mosaic.columns, mosaic.rows, mosaic.slices)
    flat = len(shape) == 2
    spacing = None if stack.affine is None else spacing_of(stack.affine)[: len(shape)]
    return ImageGrid(
        shape=shape,
        affine=stack.affine,
        spacing_mm=spacing,
        patient_orientation=letters_of_affine(stack.affine) if flat and stack.affine is not None else None,
        modality=first.modality,
        source=_source(stack, mosaic),
        header=facts,
    )


def _source(stack: Stack, mosaic: Mosaic | None) -> Source:
    slices, first = stack.slices, stack.slices[0]
    uids = tuple(header.sop_instance_uid for header in slices)
    paths = tuple(header.path for header in slices)
    several_frames = any(header.frames > 1 for header in slices)
    return Source(
        paths=paths if len(set(paths)) > 1 else paths[:1],
        format="dicom",
        sop_class_uid=first.sop_class_uid,
        sop_instance_uids=(uids if all(uids) else ()) if mosaic is None else uids * mosaic.slices,
        frame_numbers=tuple(header.frame + 1 for header in slices) if several_frames else (),
        series_instance_uid=first.series_instance_uid,
        study_instance_uid=first.study_instance_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
    )


def _folder(slices: Sequence[SliceHeader]) -> Path:
    paths = {header.path for header in slices}
    return next(iter(paths)) if len(paths) == 1 else slices[0].path.parent


def describe_volume(volume: SeriesVolume) -> str:
    """One line for lists of candidates: key, modality, size, spacing, what tells it from others."""
    size = " x ".join(str(n) for n in volume.grid.shape)
    spacing = " x ".join(f"{v:.4g}" for v in volume.grid.spacing_mm) if volume.grid.spacing_mm else "unknown"
    words = [volume.key, volume.modality or "no modality", size, f"{spacing} mm"]
    words += [text for text in (f"number {volume.series_number}" if volume.series_number else "",) if text]
    words += [text for text in (volume.description, volume.part) if text]
    if volume.is_localizer:
        words.append("localizer")
    return ", ".join(words)


def natural(key: str) -> tuple[int, ...]:
    """Sort key of `SeriesVolume.key`."""
    return tuple(int(part) for part in re.findall(r"\d+", key))
