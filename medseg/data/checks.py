"""All cases checked before anything runs: every problem in one report, nothing decided here."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.data.encoding import encode_mask
from medseg.data.manifest import Case
from medseg.data.options import DataOptions, Level, ManifestSplit
from medseg.data.splits import assign_splits, patients_in_several
from medseg.errors import GeometryError, Interrupted, LabelError, MedsegError
from medseg.io.content import pixel_digest
from medseg.labels import LabelTable
from medseg.provenance import sha256_file
from medseg.volume import Volume

Kind = Literal[
    "missing_file",
    "checksum",
    "unreadable",
    "modality",
    "colour",
    "grid",
    "label_value",
    "missing_label",
    "empty_label",
    "unknown_spacing",
    "duplicate",
    "mixed_shapes",
    "patient_in_two_splits",
    "split",
]
ReadImage = Callable[[Sequence[Path]], Volume]
ReadLabel = Callable[[Path, Volume], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding. `case_id` is "" for a finding about the set; `leak` says that a split is not clean."""

    case_id: str
    level: Level
    kind: Kind
    text: str
    leak: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """What was seen of a readable image.

    Parameters
    ----------
    shape : (I, J) or (I, J, K)
    channels : int
    spacing_mm, spacing_origin, modality
        As in `Volume`.
    pixel_sha256 : str
        Hash of the decoded pixels.
    image_sha256 : tuple of str
        Hash of each image file.
    label_sha256 : str or None
        Hash of the mask file, None without one.
    voxels : dict
        Label name -> voxels of the mask that can only be this label; a scheme's open unions are
        written `lung_left|lung_right`. Empty without a mask.
    notes : tuple of str
        What the reader noted about the file.
    """

    case_id: str
    shape: tuple[int, ...]
    channels: int
    spacing_mm: tuple[float, ...] | None
    spacing_origin: str
    modality: str
    pixel_sha256: str
    image_sha256: tuple[str, ...]
    label_sha256: str | None
    voxels: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Findings about all cases, in the order of the cases, findings about the set last."""

    problems: tuple[Problem, ...]
    facts: dict[str, CaseFacts]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Findings that set a case, or the whole set, aside."""
        return tuple(problem for problem in self.problems if problem.level == "error")

    @property
    def unusable(self) -> frozenset[str]:
        """Cases that an error was found in."""
        return frozenset(problem.case_id for problem in self.errors if problem.case_id)

    @property
    def leaks(self) -> tuple[Problem, ...]:
        """Findings that make results untrue: a patient or an image on both sides of a split."""
        return tuple(problem for problem in self.problems if problem.leak)


def check_cases(
    cases: Sequence[Case],
    *,
    table: LabelTable,
    read_image: ReadImage,
    read_label: ReadLabel,
    options: DataOptions,
    gray_only: bool | None = None,
    splits: Mapping[str, str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read every image and mask once and list all that is wrong with them.

    Parameters
    ----------
    cases : sequence of Case
    table : LabelTable
        Mask values must be named by it, or by the scheme that the case names.
    read_image, read_label : callable
        ``read_image(paths)`` -> Volume, ``read_label(path, like)`` -> (1, *spatial) integers on the
        grid of `like`; they raise MedsegError for a file that is refused.
    options : DataOptions
        Modalities, gray, levels, and the split that leaks are looked for in.
    gray_only : bool, optional
        Whether colour is refused; `options.gray` unless a preprocessing step makes images gray.
    splits : mapping of str to str, optional
        case_id -> split where the caller has assigned them; else `options.split` is followed.
    workers : int, optional
        Threads that read files.
    progress : callable, optional
        Called with (done, total) after each case.

    Returns
    -------
    CheckReport
        Unreadable or missing files do not raise; they are errors of their case.
    """
    check = _CaseCheck(
        table=table,
        read_image=read_image,
        read_label=read_label,
        options=options,
        gray_only=options.gray if gray_only is None else gray_only,
    )
    problems: list[Problem] = []
    facts: dict[str, CaseFacts] = {}
    for done, (found, seen) in enumerate(_in_order(check.run, cases, workers), start=1):
        problems += found
        if seen is not None:
            facts[seen.case_id] = seen
        if progress is not None:
            progress(done, len(cases))
    known, split_problems = _splits(cases, options, splits)
    problems += split_problems
    problems += _duplicates(cases, facts, known, options)
    problems += _mixed(cases, facts, options)
    return CheckReport(problems=tuple(_case_order(problems, cases)), facts=facts)


Result = tuple[list[Problem], CaseFacts | None]


def _in_order(work: Callable[[Case], Result], cases: Sequence[Case], workers: int) -> Iterator[Result]:
    if workers <= 1:
        yield from map(work, cases)
        return
    with ThreadPoolExecutor(max_workers=workers) as pool:
        yield from pool.map(work, cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseCheck:
    """The checks that need one case only."""

    table: LabelTable
    read_image: ReadImage
    read_label: ReadLabel
    options: DataOptions
    gray_only: bool

    def run(self, case: Case) -> Result:
        problems = [*_missing_files(case), *self._scheme(case)]
        if case.label is None:
            level = self.options.checks.missing_label
            problems.append(_problem(case, "missing_label", "has no mask; it is only predicted", level))
        if any(problem.kind == "missing_file" for problem in problems):
            return problems, None
        try:
            hashes = tuple(sha256_file(path) for path in case.images)
            volume = self.read_image(case.images)
        except (MedsegError, OSError) as err:
            return [*problems, _refusal(case, "unreadable", err)], None
        problems += [*_checksums(case, hashes), *self._image(case, volume)]
        voxels, label_hash, found = self._label(case, volume)
        return problems + found, CaseFacts(
            case_id=case.case_id,
            shape=volume.spatial_shape,
            channels=int(volume.array.shape[0]),
            spacing_mm=volume.spacing_mm,
            spacing_origin=volume.spacing_origin,
            modality=volume.modality,
            pixel_sha256=volume.pixel_sha256 or pixel_digest(volume.array),
            image_sha256=hashes,
            label_sha256=label_hash,
            voxels=voxels,
            notes=volume.notes,
        )

    def _scheme(self, case: Case) -> list[Problem]:
        if case.label is None or case.scheme is None or case.scheme in self.table.schemes:
            return []
        known = ", ".join(sorted(self.table.schemes)) or "none"
        text = f"names the label scheme {case.scheme!r}; label_schemes of the settings: {known}"
        return [_problem(case, "label_value", text)]

    def _image(self, case: Case, volume: Volume) -> list[Problem]:
        problems = []
        allowed, modality = self.options.modality, volume.modality
        # Pictures and NIfTI have no modality to be wrong.
        if allowed and volume.source.format in ("dicom", "memory") and modality not in allowed:
            wanted = ", ".join(name or '""' for name in allowed)
            found = f"has the modality {modality}" if modality else "does not say its modality"
            text = f"{found}; data.modality allows {wanted}"
            problems.append(_problem(case, "modality", text))
        channels = int(volume.array.shape[0])
        if self.gray_only and len(case.images) == 1 and channels > 1:
            text = f"has {channels} colour channels where gray is expected; add {{use: gray}} to preprocess"
            problems.append(_problem(case, "colour", text))
        if volume.spacing_mm is None:
            text = "does not say its pixel size; lengths and areas are given in pixels"
            problems.append(_problem(case, "unknown_spacing", text, self.options.checks.unknown_spacing))
        return problems

    def _label(self, case: Case, volume: Volume) -> tuple[dict[str, int], str | None, list[Problem]]:
        """Voxels by label, hash of the mask file, and what is wrong with the mask."""
        if case.label is None or (case.scheme is not None and case.scheme not in self.table.schemes):
            return {}, None, []
        try:
            digest = sha256_file(case.label)
            mask = self.read_label(case.label, volume)
            sets = encode_mask(mask, scheme=case.scheme, like=volume, table=self.table)
        except (MedsegError, OSError) as err:
            values: Kind = "label_value" if isinstance(err, LabelError) else "unreadable"
            return {}, None, [_refusal(case, "grid" if isinstance(err, GeometryError) else values, err)]
        voxels = _voxels(sets, self.table)
        if voxels:
            return voxels, digest, []
        text = "has a mask without any structure"
        return voxels, digest, [_problem(case, "empty_label", text, self.options.checks.empty_label)]


def _voxels(sets: NDArray[np.int16], table: LabelTable) -> dict[str, int]:
    """Voxels by label name, background and ignored voxels left out."""
    counts = np.bincount(sets.ravel(), minlength=len(table.sets))
    members = [sorted(classes) for classes in table.sets]
    return {
        "|".join(table.names[c] for c in members[index]): int(count)
        for index, count in enumerate(counts)
        if count and index > 0 and len(members[index]) < table.class_count
    }


def _problem(case: Case, kind: Kind, text: str, level: Level = "error") -> Problem:
    return Problem(case_id=case.case_id, level=level, kind=kind, text=text)


def _refusal(case: Case, kind: Kind, err: MedsegError | OSError) -> Problem:
    """The reader's own sentence; a stop by the user is no finding and goes on up."""
    if isinstance(err, Interrupted):
        raise err
    return _problem(case, kind, str(err))


def _missing_files(case: Case) -> Iterable[Problem]:
    files = [("image", path) for path in case.images]
    files += [("mask", case.label)] if case.label is not None else []
    for what, path in files:
        if not path.is_file():
            state = "is a folder" if path.is_dir() else "does not exist"
            yield _problem(case, "missing_file", f"{what} {path} {state}")
        elif not os.access(path, os.R_OK):
            yield _problem(case, "missing_file", f"{what} {path} may not be read by this user")


def _checksums(case: Case, hashes: Sequence[str]) -> Iterable[Problem]:
    expected = case.sha256.split(";") if case.sha256 else []
    for path, wanted, found in zip(case.images, expected, hashes, strict=False):
        if wanted != found:
            text = f"image {path} has the SHA-256 {found[:12]}..., the manifest says {wanted[:12]}..."
            yield _problem(case, "checksum", text)


def _splits(
    cases: Sequence[Case], options: DataOptions, given: Mapping[str, str] | None
) -> tuple[Mapping[str, str], list[Problem]]:
    """The split of every case as far as it is known, and why it is not."""
    if given is not None:
        return given, _torn_patients(cases, given)
    if not isinstance(options.split, ManifestSplit):
        try:
            return assign_splits(cases, options.split), []
        except MedsegError as err:
            return {}, [Problem(case_id="", level="error", kind="split", text=str(err))]
    splits = {case.case_id: str(case.split) for case in cases if case.split is not None}
    problems = [_problem(c, "split", "has no split in the manifest") for c in cases if c.split is None]
    return splits, problems + _torn_patients(cases, splits)


def _torn_patients(cases: Sequence[Case], splits: Mapping[str, str]) -> list[Problem]:
    problems = []
    for patient in patients_in_several(cases, splits):
        members = [case for case in cases if case.patient_id == patient and case.case_id in splits]
        where = ", ".join(f"{case.case_id} ({splits[case.case_id]})" for case in members)
        problems.append(
            Problem(
                case_id=members[-1].case_id,
                level="error",
                kind="patient_in_two_splits",
                text=f"one patient is in several splits: {where}",
                leak=True,
            )
        )
    return problems


def _duplicates(
    cases: Sequence[Case], facts: Mapping[str, CaseFacts], splits: Mapping[str, str], options: DataOptions
) -> Iterator[Problem]:
    """One finding for each case whose pixels an earlier case has."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.case_id in facts:
            groups[facts[case.case_id].pixel_sha256].append(case)
    for group in groups.values():
        first = group[0]
        for case in group[1:]:
            here = splits.get(case.case_id)
            others = [c for c in group[: group.index(case)] if splits.get(c.case_id) != here]
            across = bool(others) and here is not None
            twin = others[0] if across else first
            text = f"has the same pixels as {twin.case_id}"
            if across:
                places = f"{twin.case_id} ({splits.get(twin.case_id)}), {case.case_id} ({here})"
                text = f"the same pixels are in several splits: {places}"
            yield Problem(
                case_id=case.case_id,
                level="error" if across else options.checks.duplicate_in_split,
                kind="duplicate",
                text=text,
                leak=across,
            )


def _mixed(cases: Sequence[Case], facts: Mapping[str, CaseFacts], options: DataOptions) -> Iterator[Problem]:
    """Cases whose number of axes or channels differs from that of the most."""
    seen: dict[str, tuple[int, int]] = {}
    for case in (c for c in cases if c.case_id in facts):
        own = facts[case.case_id]
        # Where gray is expected, colour is refused or converted; either way it is no second channel.
        channels = 1 if options.gray and len(case.images) == 1 else own.channels
        seen[case.case_id] = len(own.shape), channels
    if len(set(seen.values())) < 2:
        return
    (axes, channels), _ = Counter(seen.values()).most_common(1)[0]
    for case_id, found in seen.items():
        if found != (axes, channels):
            text = f"has {found[0]} axes and {found[1]} channels; most cases have {axes} and {channels}"
            yield Problem(case_id=case_id, level="error", kind="mixed_shapes", text=text)


def _case_order(problems: Sequence[Problem], cases: Sequence[Case]) -> list[Problem]:
    position = {case.case_id: number for number, case in enumerate(cases)}
    return sorted(problems, key=lambda problem: position.get(problem.case_id, len(position)))
