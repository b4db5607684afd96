"""Which case trains, validates or is tested: by patient, seeded, independent of the order of rows."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medseg.data.manifest import Case, Split, manifest_error
from medseg.data.options import FoldSplit, HoldoutSplit, ManifestSplit, SplitOptions
from medseg.errors import ManifestError


def assign_splits(cases: Sequence[Case], options: SplitOptions) -> dict[str, Split]:
    """The split of every case.

    A patient's place depends on (seed, patient id) alone; which part a place falls into depends on
    the shares and on how many cases the other patients have. A new patient therefore moves at most
    the patients next to a border.

    Parameters
    ----------
    cases : sequence of Case
    options : HoldoutSplit, ManifestSplit or FoldSplit

    Returns
    -------
    dict of str to str
        case_id -> train, validation or test, in the order of `cases`. Where every fold is tested in its
        turn (``fold: all``), all cases are test; `splits_of_fold` says what they are for one fold.

    Raises
    ------
    ManifestError
        Fewer patients than parts, a case without split or fold where the manifest must say it, a
        patient in two parts, a column to stratify by that does not exist.
    """
    if isinstance(options, ManifestSplit):
        return _from_manifest(cases)
    if isinstance(options, HoldoutSplit):
        return _holdout(cases, options)
    folds = assign_folds(cases, options)
    if options.fold == "all":
        return dict.fromkeys(folds, "test")
    return splits_of_fold(folds, options, fold=options.fold)


def splits_of_fold(folds: Mapping[str, int], options: FoldSplit, *, fold: int) -> dict[str, Split]:
    """The split of every case where one fold is tested; `folds` are those of `assign_folds`."""
    parts: dict[int, Split] = {fold: "test"}
    if options.validation == "next":
        parts[(fold + 1) % options.count] = "validation"
    return {case_id: parts.get(number, "train") for case_id, number in folds.items()}


def assign_folds(cases: Sequence[Case], options: FoldSplit) -> dict[str, int]:
    """The fold of every case: the manifest's column where it has one, else dealt by the seed.

    Patients are dealt one by one, each to the fold that has the fewest cases of its stratum so
    far, then the fewest cases.

    Raises
    ------
    ManifestError
        As `assign_splits`, and a fold that `count` does not allow.
    """
    if any(case.fold is not None for case in cases):
        return _manifest_folds(cases, options.count)
    groups, strata = _by_patient(cases), _strata(cases, options.stratify)
    if len(groups) < options.count:
        raise ManifestError(
            f"{options.count} folds need {options.count} patients, found {len(groups)}; lower split.count"
        )
    totals = [0] * options.count
    within: dict[str, list[int]] = defaultdict(lambda: [0] * options.count)
    chosen: dict[str, int] = {}
    for patient in _deal(groups, strata, options.seed):
        counts = within[strata[patient]]
        fold = min(range(options.count), key=lambda f: (counts[f], totals[f], f))
        counts[fold] += len(groups[patient])
        totals[fold] += len(groups[patient])
        chosen[patient] = fold
    return {case.case_id: chosen[case.patient_id] for case in cases}


def patients_in_several(cases: Sequence[Case], parts: Mapping[str, object]) -> dict[str, list[str]]:
    """Patients whose cases are in more than one part: patient_id -> the parts, sorted.

    `parts` maps case_id to a split or fold; cases that it does not name are left out.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.case_id in parts:
            found[case.patient_id].add(str(parts[case.case_id]))
    return {patient: sorted(names) for patient, names in found.items() if len(names) > 1}


def _holdout(cases: Sequence[Case], options: HoldoutSplit) -> dict[str, Split]:
    groups, strata = _by_patient(cases), _strata(cases, options.stratify)
    shares: dict[Split, float] = {
        "train": options.training,
        "validation": options.validation,
        "test": options.test,
    }
    parts = [part for part, share in shares.items() if share > 0]
    if len(groups) < len(parts):
        raise ManifestError(
            f"{len(parts)} parts ({', '.join(parts)}) need {len(parts)} patients or more, "
            f"found {len(groups)}; add patients or set a share of split to 0"
        )
    order = _deal(groups, strata, options.seed)
    cuts = _cuts([len(groups[patient]) for patient in order], [shares[part] for part in parts])
    chosen = {
        p: part for part, start, end in zip(parts, cuts, cuts[1:], strict=False) for p in order[start:end]
    }
    return {case.case_id: chosen[case.patient_id] for case in cases}


def _cuts(sizes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Borders in a row of patients so that each stretch comes closest to its share of the cases.

    Every stretch has at least one patient.
    """
    reached = np.concatenate([[0], np.cumsum(sizes)])
    cuts = [0]
    for number in range(1, len(shares)):
        wanted = sum(shares[:number]) * reached[-1]
        first, last = cuts[-1] + 1, len(sizes) - (len(shares) - number)
        distance = np.abs(reached[first : last + 1] - wanted)
        cuts.append(first + int(distance.argmin()))
    return [*cuts, len(sizes)]


def _deal(groups: Mapping[str, Sequence[Case]], strata: Mapping[str, str], seed: int) -> list[str]:
    """Patients in the order of their hash, the strata spread evenly over the row.

    The r-th of n patients of a stratum stands at (r + 1/2) / n, so any stretch of the row has the
    strata in nearly the proportions of the whole.
    """
    sizes = Counter(strata[patient] for patient in groups)
    seen: Counter[str] = Counter()
    places: list[tuple[float, str, str]] = []
    for key, patient in sorted((_hash(seed, patient), patient) for patient in groups):
        stratum = strata[patient]
        places.append(((seen[stratum] + 0.5) / sizes[stratum], key, patient))
        seen[stratum] += 1
    return [patient for _, _, patient in sorted(places)]


def _hash(seed: int, patient_id: str) -> str:
    return hashlib.sha256(f"{seed}\0{patient_id}".encode("utf-8", "surrogatepass")).hexdigest()


def _by_patient(cases: Sequence[Case]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.patient_id].append(case)
    return dict(groups)


def _strata(cases: Sequence[Case], column: str | None) -> dict[str, str]:
    """The stratum of each patient: the most frequent value of the column, ties to the first by text."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        values[case.patient_id][_value(case, column)] += 1
    return {patient: min(c, key=lambda v: (-c[v], v)) for patient, c in values.items()}


def _value(case: Case, column: str | None) -> str:
    if column is None:
        return ""
    if column == "label_scheme":
        return case.scheme or ""
    if column not in case.columns:
        known = ", ".join(["label_scheme", *case.columns])
        raise ManifestError(
            f"split.stratify names the column {column}, which case {case.case_id} lacks; known: {known}"
        )
    return case.columns[column]


def _from_manifest(cases: Sequence[Case]) -> dict[str, Split]:
    splits: dict[str, Split] = {case.case_id: case.split for case in cases if case.split is not None}
    problems = [f"case {case.case_id} has no split" for case in cases if case.split is None]
    problems += _torn(cases, splits, "splits")
    if problems:
        raise manifest_error("split: use: manifest", problems)
    return splits


def _manifest_folds(cases: Sequence[Case], count: int) -> dict[str, int]:
    folds = {case.case_id: case.fold for case in cases if case.fold is not None}
    problems = [f"case {case.case_id} has no fold, others have one" for case in cases if case.fold is None]
    problems += [f"case {c} has fold {f}; split.count is {count}" for c, f in folds.items() if f >= count]
    problems += [f"no case has fold {fold}" for fold in range(count) if fold not in folds.values()]
    problems += _torn(cases, folds, "folds")
    if problems:
        raise manifest_error("column fold of the manifest", problems)
    return folds


def _torn(cases: Sequence[Case], parts: Mapping[str, object], what: str) -> list[str]:
    """A sentence for each patient in several parts, naming its cases rather than the patient."""
    torn = patients_in_several(cases, parts)
    members = _by_patient(cases)
    return [
        f"one patient is in several {what}: "
        + ", ".join(f"{c.case_id} ({parts[c.case_id]})" for c in members[patient] if c.case_id in parts)
        for patient in torn
    ]
