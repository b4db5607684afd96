"""What each folder of the DICOM collection holds: its tables as expectations, judgements made explicit.

`cases.csv` says in columns what regular volumes are, and in words what else a loader must do. Words
stand here as what can be checked: how many images, of which size and spacing, refused for what.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Image:
    """One image that must be found.

    Parameters
    ----------
    size : (int, int, int)
        Columns, rows, slices; 1 slice for a single image.
    spacing_mm : tuple of float or None
        Along columns, rows and (not for one slice) from slice to slice, along the line of positions.
    tilt_degrees : float or None
    ends_lps : pair of positions or None
        First and last Image Position (Patient), in either order.
    refused : str
        Regular expression that its problem must match; "" where it must be readable.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None
    tilt_degrees: float | None = None
    ends_lps: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    refused: str = ""


@dataclass(frozen=True)
class Expectation:
    """What a folder holds.

    Parameters
    ----------
    images : tuple of Image
        In any order.
    copies : (int, int) or None
        The one image may be found this often: files that repeat it in other encodings count once or
        each, as the loader sees fit.
    refusable : str
        The whole may also be refused with these words, instead of being read.
    counted : bool
        False where only an orderly end is asked for.
    """

    images: tuple[Image, ...] = ()
    copies: tuple[int, int] | None = None
    refusable: str = ""
    counted: bool = True


_NOT_SLICES = ("SEG", "RTSTRUCT", "CR", "DX")
_FILM = Expectation(counted=False)
_GAP = r"gap|missing|evenly|even step|spac"
_CINE = r"time|frame|position|geometry"

#: Where the columns do not say it all.
JUDGEMENTS: Mapping[str, Expectation] = {
    "ct_missing_slice": Expectation((Image((512, 512, 4), refused=_GAP),)),
    "mr_missing_slice": Expectation((Image((84, 128, 18), refused=_GAP),)),
    "ct_tilt_step_change_ge": Expectation((Image((512, 512, 8), refused=_GAP),)),
    "seg_highdicom": Expectation((Image((16, 16, 4), refused=_GAP),)),
    "ct_same_position_series": Expectation((Image((512, 512, 1)),) * 4, refusable=r"position|volume|time"),
    "mr_mosaic": Expectation((Image((72, 72, 5), (3.0, 3.0, 12.0)),) * 2, refusable="mosaic"),
    "same_mosaic_many_syntaxes": Expectation((Image((64, 64, 35), (3.25, 3.25, 3.6)),), copies=(1, 6)),
    "high_bits_garbage": Expectation((Image((64, 64, 35), (3.25, 3.25, 3.2)),), copies=(1, 2)),
    "same_ct_many_syntaxes": Expectation((Image((512, 512, 1)),), copies=(1, 8)),
    "ct_nema_wg04": Expectation((Image((512, 512, 1)),), copies=(1, 4)),
    "mr_enhanced_small": Expectation((Image((64, 64, 10), refused=_CINE),), copies=(1, 2), refusable=_CINE),
    "mr_cine_multiframe": Expectation((Image((256, 256, 16), refused=_CINE),), refusable=_CINE),
    "ct_jpeg_fragments_no_bot": Expectation((Image((512, 512, 2), (0.38867, 0.38867, 10.0)),)),
    "rgb_volume": Expectation((Image((52, 77, 4), (3.0, 3.0, 3.0)),), refusable=r"colou?r|RGB"),
    "parametric_map_float": Expectation((Image((128, 128, 1)),), refusable=r"float"),
    "non_image_objects": Expectation((Image((320, 240, 1)),)),
    "charsets": _FILM,
    "charsets_b": _FILM,
    "us_palette_and_ybr": _FILM,
    "htj2k_rgb": _FILM,
    "no_meta_header": _FILM,
    "cr_monochrome1_chest": _FILM,
    "cr_monochrome1_j2k": _FILM,
    "cr_monochrome2_j2k": _FILM,
    "dx_monochrome1_small": _FILM,
    "broken_and_hostile": _FILM,
    "seg_encodings": Expectation(),
    "seg_encodings_b": Expectation(),
}


@dataclass(frozen=True)
class FoundImage:
    """What a loader found, in the terms of `Image`."""

    size: tuple[int, ...]
    affine: NDArray[np.float64] | None
    tilt_degrees: float
    problem: str


def expectations(folder: Path) -> dict[str, Expectation]:
    """By case: the judgement where there is one, else what the tables say."""
    with (folder / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    stacks = _stacks(folder)
    return {row["case"]: JUDGEMENTS.get(row["case"]) or _of_row(row, stacks[row["case"]]) for row in rows}


def _stacks(folder: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    with (folder / "stacks.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["case"], []).append(row)
    return found


def _of_row(row: dict[str, str], stacks: list[dict[str, str]]) -> Expectation:
    """A regular case: one image per stack and image at each position."""
    images: list[Image] = []
    for stack in stacks:
        if not stack["images"] or stack["images"] == "0" or stack["modality"] in _NOT_SLICES:
            continue
        images += [_of_stack(stack)] * int(stack["per_position"] or 1)
    _check_sizes(row, images)
    return Expectation(tuple(images))


def _of_stack(stack: dict[str, str]) -> Image:
    slices = int(stack["positions"] or 1)
    rows, columns = stack["rows"], stack["columns"]
    image = Image((int(columns), int(rows), slices))
    if not stack["positions"]:
        return image
    down, across = (float(v) for v in stack["pixel_spacing_row_col"].split())
    ends = tuple(tuple(float(v) for v in stack[end].split()) for end in ("first_position", "last_position"))
    image = replace(image, spacing_mm=(across, down), ends_lps=(ends[0], ends[1]))
    if slices == 1:
        return image
    if stack["uniform"] == "NO":
        return Image(image.size, refused=_GAP)
    angle = float(stack["line_vs_normal_deg"])
    return replace(image, spacing_mm=(across, down, float(stack["step_along_line"])), tilt_degrees=angle)


def _check_sizes(row: dict[str, str], images: Sequence[Image]) -> None:
    """The two tables must say the same, else the expectation is none."""
    text = row["expected_size_xyz"]
    if not re.match(r"\d+x", text):
        return
    sizes = []
    for part in text.split("|"):
        size = tuple(int(n) for n in part.split()[0].strip(",").split("x"))
        several = re.search(r"\((\d+) images", part)
        sizes += [size] * (int(several.group(1)) if several else 1)
    if sorted(sizes) != sorted(image.size for image in images):
        raise AssertionError(f"{row['case']}: cases.csv has {sizes}, stacks.csv {[i.size for i in images]}")


def differences(expected: Expectation, found: Sequence[FoundImage]) -> list[str]:
    """What is wrong with what was found, in words; empty where all is well."""
    if not expected.counted:
        return []
    refused = [image for image in found if image.problem]
    if expected.refusable and refused == list(found):
        return [
            f"refused with other words: {image.problem}"
            for image in refused
            if not re.search(expected.refusable, image.problem)
        ]
    low, high = expected.copies or (len(expected.images),) * 2
    if not low <= len(found) <= high:
        return [f"{len(found)} images, expected {low} to {high}: {[image.size for image in found]}"]
    wanted = list(expected.images) * (len(found) if expected.copies else 1)
    problems = []
    for image in found:
        fits = [want for want in wanted if not _mismatch(want, image)]
        if fits:
            wanted.remove(fits[0])
        else:
            closest = [f"{_mismatch(want, image)}" for want in wanted if want.size == image.size]
            problems.append(f"image of size {image.size}: {closest[:1] or 'not expected'} {image.problem}")
    return problems


def _mismatch(want: Image, found: FoundImage) -> str:
    """How a found image differs from a wanted one; "" where it does not."""
    if want.size != found.size:
        return f"size {found.size}, expected {want.size}"
    if want.refused or found.problem:
        fits = bool(want.refused and re.search(want.refused, found.problem))
        return "" if fits else f"problem {found.problem!r}, expected {want.refused or 'none'!r}"
    if want.spacing_mm is not None and found.affine is not None:
        spacing = np.linalg.norm(found.affine[:3, : len(want.spacing_mm)], axis=0)
        if not np.allclose(spacing, want.spacing_mm, rtol=2e-4):
            return f"spacing {np.round(spacing, 5).tolist()}, expected {want.spacing_mm}"
    if want.tilt_degrees is not None and abs(found.tilt_degrees - want.tilt_degrees) > 0.1:
        return f"tilt {found.tilt_degrees:.2f}, expected {want.tilt_degrees:.2f} degrees"
    if want.ends_lps is not None and found.affine is not None:
        return _misplaced(want, found.affine)
    return ""


def _misplaced(want: Image, affine: NDArray[np.float64]) -> str:
    """Whether the first and last slice lie where the headers put them."""
    assert want.ends_lps is not None
    ends = np.array([affine @ [0, 0, k, 1] for k in (0, want.size[2] - 1)])[:, :3] * [-1, -1, 1]
    apart = min(np.abs(ends - np.array(order)).max() for order in (want.ends_lps, want.ends_lps[::-1]))
    return "" if apart < 0.01 else f"ends at {np.round(ends, 3).tolist()}, expected {want.ends_lps}"
