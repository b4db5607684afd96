"""Checks that every imported case must pass, whatever its layout."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medseg.data.importers.grids import grid_problems
from medseg.data.importers.records import ImportOptions, Listing
from medseg.data.importers.splits_file import torn_patients
from medseg.data.manifest import Case
from medseg.errors import ConfigError
from medseg.privacy import safe_name

Progress = Callable[[int, int, str], None]
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def with_patients(listing: Listing, pattern: str | None) -> list[Case]:
    """The cases with the patient ids that the pattern finds in their ids.

    Raises
    ------
    ConfigError
        The pattern is no regular expression, or has not exactly one group.
    """
    if pattern is None:
        return listing.cases
    try:
        compiled = re.compile(pattern)
    except re.error as err:
        raise ConfigError(f"--patient-pattern {pattern!r} is no regular expression: {err}") from err
    if compiled.groups != 1:
        raise ConfigError(
            f"--patient-pattern {pattern!r} needs one group (...), the patient id; found {compiled.groups}"
        )
    cases = []
    for case in listing.cases:
        match = compiled.search(case.case_id)
        if match is None or not match[1]:
            listing.add(f"--patient-pattern {pattern!r} finds no patient id", case_id=case.case_id)
        cases.append(case if match is None or not match[1] else replace(case, patient_id=match[1]))
    return cases


def check_cases(listing: Listing, options: ImportOptions, progress: Progress) -> None:
    """Note what is wrong with the cases of a listing.

    Files that do not exist or cannot stand in a manifest, grids that differ, ids that are doubled or
    would share a folder, files that serve two cases, patients in several folds or splits.

    Parameters
    ----------
    listing : Listing
        Its problems are added to.
    options : ImportOptions
        `check` and `root`, an absolute path, are followed.
    progress : callable
        Told the cases done, the number of all, and the id of the case.
    """
    ids: dict[str, list[str]] = defaultdict(list)
    owners: dict[Path, list[str]] = defaultdict(list)
    for number, case in enumerate(listing.cases):
        progress(number, len(listing.cases), case.case_id)
        ids[safe_name(case.case_id).casefold()].append(case.case_id)
        for path in (*case.images, *([case.label] if case.label is not None else [])):
            owners[path].append(case.case_id)
        missing = _check_files(listing, case, options.root)
        if options.check and not missing:
            for text in grid_problems(case, channels=listing.channels_in_one_file):
                listing.add(text, case_id=case.case_id)
    _check_doubles(listing, ids, owners)
    broken = listing.broken()
    for text in torn_patients([case for case in listing.cases if case.case_id not in broken]):
        listing.add(text)


def _check_doubles(listing: Listing, ids: dict[str, list[str]], owners: dict[Path, list[str]]) -> None:
    """Ids that are one folder, and files that serve several cases."""
    for same in ids.values():
        if len(same) > 1:
            for case_id in dict.fromkeys(same):
                listing.add(f"the id stands {len(same)} times, as {', '.join(same)}", case_id=case_id)
    for path, cases in owners.items():
        if len(cases) > 1:
            for case_id in dict.fromkeys(cases):
                listing.add(
                    f"{path} is used {len(cases)} times, by {', '.join(dict.fromkeys(cases))}",
                    case_id=case_id,
                )


def _check_files(listing: Listing, case: Case, root: Path | None) -> bool:
    """Whether a file of the case is missing; that and names that no manifest can hold are noted."""
    missing = False
    if _CONTROL.search(case.case_id):
        listing.add(
            f"the id {case.case_id!r} holds control characters; rename the file", case_id=case.case_id
        )
    files = [("image", path) for path in case.images]
    files += [("label", case.label)] if case.label is not None else []
    for role, path in files:
        if not path.is_file():
            missing = True
            state = "is no file" if path.exists() else "does not exist"
            listing.add(f"{role} {path} {state}", case_id=case.case_id)
        # The manifest's reader takes blanks at the ends of a path away.
        elif _CONTROL.search(str(path)) or str(path) != str(path).strip():
            listing.add(f"{role} {str(path)!r} cannot stand in a manifest; rename it", case_id=case.case_id)
        elif root is not None and not path.is_relative_to(root):
            listing.add(f"{role} {path} is not inside --root {root}", case_id=case.case_id)
    return missing
