"""The geometry battery: every axis order and flip, oblique, with faults, out and back through other readers.

One world, 48 ways to cut it into rows, columns and slices, 5 ways to turn it, 7 ways to hand it over. What
is written about each must be found, voxel for voxel, where the tissue is; or the input was faulty and
was refused in words that name the fault.
"""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from second_opinion import (
    OffGridError,
    nifti_by_itk,
    nifti_by_nibabel,
    rtstruct_masks,
    seg_by_highdicom,
    seg_by_planes,
)
from toolchain import TABLE, LabelMap, Toolchain

from medseg.data.dicom_phantoms import STRUCTURE_HU, asymmetric_phantom, write_series
from medseg.errors import MedsegError
from medseg.volume import Volume

Variation = Literal["shuffled", "reversed", "missing", "copied", "doubled", "tilted", "multi-frame"]
VARIATIONS: tuple[Variation, ...] = (
    "shuffled", "reversed", "missing", "copied", "doubled", "tilted", "multi-frame",
)  # fmt: skip
#: What a refusal of a faulty input must say. Every other input must be read.
FAULTS: dict[Variation, str] = {
    "missing": r"gap|missing",
    "doubled": r"one place|one position|same position",
}
TURNS_DEGREES = ((3, -2, 4), (17, -11, 23), (-38, 29, 12), (51, 40, -66), (8, -77, 140))
_SHAPE, _SPACING_MM, _LEAN = (15, 13, 11), (0.8, 1.1, 2.5), 0.45
_SYNTAXES = (
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless,
    uid.DeflatedExplicitVRLittleEndian,
)  # fmt: skip
Predictor = Callable[[Volume], LabelMap]


@dataclass(frozen=True)
class Case:
    """One input of the battery."""

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    turn: int
    variation: Variation

    @property
    def name(self) -> str:
        """Such as ``2-01+ turn 3 tilted``: axis of the world and direction of i, j, k."""
        signs = "".join(
            f"{'-' if flip else '+'}{axis}" for axis, flip in zip(self.axes, self.flips, strict=True)
        )
        return f"{signs} turn {self.turn} {self.variation}"

    @property
    def number(self) -> int:
        """A number that varies what the case does not say: transfer syntax, rescale, storage class."""
        return sum(self.axes[0:2]) + 4 * self.flips[0] + 2 * self.flips[1] + self.flips[2] + self.turn


@dataclass(frozen=True)
class Outcome:
    """What came of a case: "exact", "refused" (a MedsegError), "silent" (a wrong result) or "crashed"."""

    case: Case
    status: Literal["exact", "refused", "silent", "crashed"]
    detail: str = ""

    @property
    def as_expected(self) -> bool:
        """Exact where the input is sound; refused with the fault's name where it is faulty."""
        fault = FAULTS.get(self.case.variation)
        if fault is None:
            return self.status == "exact"
        return self.status == "refused" and re.search(fault, self.detail) is not None


def all_cases() -> list[Case]:
    """48 x 5 x 7."""
    return [
        Case(axes, flips, turn, variation)
        for axes in itertools.permutations(range(3))
        for flips in itertools.product((False, True), repeat=3)
        for turn in range(len(TURNS_DEGREES))
        for variation in VARIATIONS
    ]


def covering_cases() -> list[Case]:
    """336 of all cases: each of the 48 orders and flips handed over in each of the 7 ways, the turns going round.

    Axis order, flips, turn and way: any three of their values meet in some case. So do any two of these,
    transfer syntax, kind of rescaling and storage class.
    """
    orientations = itertools.product(
        itertools.permutations(range(3)), itertools.product((False, True), repeat=3)
    )
    return [
        Case(axes, flips, (number + way) % len(TURNS_DEGREES), variation)
        for number, (axes, flips) in enumerate(orientations)
        for way, variation in enumerate(VARIATIONS)
    ]


def some_cases(count: int) -> list[Case]:
    """A spread over all axis orders, turns and variations."""
    cases = all_cases()
    # 1680 = 2^4 * 3 * 5 * 7; a stride without these factors meets every kind of case.
    return [cases[(n * 1039) % len(cases)] for n in range(count)]


@dataclass(frozen=True)
class Truth:
    """The grid that a case is written on and its label map; both from the canonical ones, not from files."""

    voxels: NDArray[np.int16]
    label_map: LabelMap
    affine: NDArray[np.float64]

    @property
    def points(self) -> NDArray[np.float64]:
        """(N, 3) world position of every voxel centre, RAS+ mm, in the label map's C order."""
        index = np.indices(self.label_map.shape).reshape(3, -1)
        return (self.affine @ np.vstack([index, np.ones(index.shape[1])]))[:3].T


def rotation(degrees: Sequence[float]) -> NDArray[np.float64]:
    """(3, 3) turn about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        result = step @ result
    return result


def truth_of(case: Case) -> Truth:
    """The world of the battery, cut as the case says."""
    voxels, label_map = asymmetric_phantom(_SHAPE)
    affine = np.eye(4)
    affine[:3, :3] = rotation(TURNS_DEGREES[case.turn]) @ np.diag(_SPACING_MM)
    affine[:3, 3] = (-21.5, 34.25, -70.125)
    # Voxel n of case axis t is voxel n, or last - n, of the canonical axis axes[t].
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for t, (axis, flip) in enumerate(zip(case.axes, case.flips, strict=True)):
        change[axis, t] = -1 if flip else 1
        change[axis, 3] = _SHAPE[axis] - 1 if flip else 0
    affine = affine @ change
    if case.variation == "tilted":
        affine[:3, 2] += _LEAN * affine[:3, 1] * (-1 if case.number % 2 else 1)
    back = tuple(slice(None, None, -1 if flip else 1) for flip in case.flips)
    return Truth(voxels.transpose(case.axes)[back], label_map.transpose(case.axes)[back], affine)


def write_case(case: Case, truth: Truth, folder: Path) -> list[Path]:
    """The files of a case, in the order of their names."""
    options = {
        "order": "reversed" if case.variation == "reversed" else "shuffled",
        "transfer_syntax": _SYNTAXES[case.number % len(_SYNTAXES)],
        "rescale_per_slice": case.number % 3 == 0,
        "uid_root": case.name,
        "threads": 1,
    }
    if case.variation == "multi-frame":
        options["multiframe"] = "legacy" if case.number % 2 else "enhanced"
    paths = write_series(folder, truth.voxels, truth.affine, **options)
    middle = paths[len(paths) // 2 - 1]
    if case.variation == "missing":
        middle.unlink()
    elif case.variation == "copied":
        shutil.copyfile(middle, folder / "COPY")
    elif case.variation == "doubled":
        _write_rival(middle, paths[0], folder / "RIVAL")
    return sorted(folder.iterdir())


def _write_rival(middle: Path, other: Path, path: Path) -> None:
    """Another image at the same place: only one of the two can be right, and nothing says which."""
    rival, source = pydicom.dcmread(middle), pydicom.dcmread(other)
    rival.SOPInstanceUID = rival.file_meta.MediaStorageSOPInstanceUID = f"{rival.SOPInstanceUID[:40]}.1"
    rival.InstanceNumber = 99
    rival.PixelData = source.PixelData
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        setattr(rival, keyword, source[keyword].value)
    rival.save_as(path, enforce_file_format=True)


def stand_in(volume: Volume) -> LabelMap:
    """A predictor without a network: the phantom's structures by their intensity."""
    values = np.rint(volume.array[0])
    label_map = np.zeros(values.shape, dtype=np.uint8)
    for label, value in enumerate(STRUCTURE_HU, start=1):
        label_map[values == value] = label
    return label_map


def run_case(case: Case, tools: Toolchain, predict: Predictor = stand_in) -> Outcome:
    """Write the case, read it, segment it, export it, and ask the other readers where the tissue is."""
    truth = truth_of(case)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            volume = tools.read(write_case(case, truth, folder / "images"))
            label_map = predict(volume)
            tools.write_seg(folder / "seg.dcm", label_map, volume)
            tools.write_rtstruct(folder / "rtstruct.dcm", label_map, volume)
            tools.write_nifti(folder / "mask.nii.gz", label_map, volume)
        except MedsegError as err:
            return Outcome(case, "refused", f"{type(err).__name__}: {err}".replace(str(folder), "."))
        except Exception as err:  # One case of a batch: the others go on, and this one is told of.
            place = traceback.extract_tb(err.__traceback__)[-1]
            return Outcome(case, "crashed", f"{Path(place.filename).name}:{place.lineno} {err!r}")
        try:
            problem = _compare(case, truth, folder)
        except OffGridError as err:
            problem = str(err)
    if problem is None and case.variation in FAULTS:
        problem = "the faulty input was read without a word"
    return Outcome(case, "exact") if problem is None else Outcome(case, "silent", problem)


def _compare(case: Case, truth: Truth, folder: Path) -> str | None:
    """What is wrong with the written files, or None."""
    points, expected = truth.points, truth.label_map.ravel().astype(np.int64)
    readers = [(seg_by_planes, "seg.dcm"), (nifti_by_nibabel, "mask.nii.gz")]
    if case.variation != "tilted":
        readers += [(seg_by_highdicom, "seg.dcm"), (nifti_by_itk, "mask.nii.gz")]
    for reader, file in readers:
        found, total = reader(folder / file, points)
        for label in (1, 2, 3):
            dice = _dice(found == label, expected == label)
            if dice < 1:
                return f"{file} by {reader.__name__}: Dice {dice:.3f} for label {label}"
        if total != np.count_nonzero(expected):
            return f"{file} by {reader.__name__}: {total} voxels, not {np.count_nonzero(expected)}"
    return _compare_rtstruct(truth, folder / "rtstruct.dcm")


def _dice(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    return float(2 * (found & expected).sum() / (found.sum() + expected.sum()))


def _compare_rtstruct(truth: Truth, path: Path) -> str | None:
    masks = rtstruct_masks(path, truth.affine, truth.label_map.shape)
    for label, name in enumerate(TABLE.names):
        if label == 0:
            continue
        if name not in masks or not masks[name].any():
            return f"rtstruct.dcm: no contours of {name}"
        centres = [np.argwhere(mask).mean(axis=0) for mask in (masks[name], truth.label_map == label)]
        apart = float(np.abs(centres[0] - centres[1]).max())
        if apart > 0.5:
            return f"rtstruct.dcm: centroid of {name} is off by {apart:.2f} voxels"
    return None


def mirrored(axis: int) -> Predictor:
    """A predictor with the commonest fault there is; the battery must notice."""
    return lambda volume: np.flip(stand_in(volume), axis)


def summary(outcomes: Iterable[Outcome]) -> str:
    """The line to show: cases, exact, refusals by kind, silent errors."""
    outcomes = list(outcomes)
    count = Counter(outcome.status for outcome in outcomes)
    refusals = Counter(outcome.case.variation for outcome in outcomes if outcome.status == "refused")
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(refusals.items()))
    return (
        f"geometry battery: {len(outcomes)} cases, {count['exact']} exact, {count['refused']} refusals"
        f" ({kinds or 'none'}), crashes = {count['crashed']}, silent errors = {count['silent']}"
    )
