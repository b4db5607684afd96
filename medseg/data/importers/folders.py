"""Parallel folders of images and masks -> cases, matched by the stems of their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from medseg.data.importers.file_names import ending_of, image_stem, list_files
from medseg.data.importers.matching import Matches, match_stems
from medseg.data.importers.records import ImportOptions, Listing, counted, shown
from medseg.data.manifest import Case
from medseg.errors import ConfigError


def list_folders(folder: Path, options: ImportOptions) -> Listing:
    """The cases of a folder of images and a folder of masks.

    Parameters
    ----------
    folder : Path
        Images, of the first channel where there are several; folders inside are searched too.
    options : ImportOptions
        `labels` is the folder of the masks, `channels` those of further channels, `strip` the words
        that do not count in names; `keep_unlabelled` is followed.

    Returns
    -------
    Listing
        case id: the image's stem, folders inside before it (`a/b.nii` -> `a_b`).

    Raises
    ------
    ConfigError
        No folder of masks is given, or a folder is given twice.
    ManifestError
        A folder does not exist.
    """
    if options.labels is None:
        raise ConfigError("parallel folders need --labels: the folder of the masks")
    others = [Path(os.path.abspath(p)) for p in (*options.channels, options.labels)]
    if len({folder, *others}) < len(others) + 1:
        raise ConfigError("images, --channel and --labels must be different folders")
    listing = Listing(kind="folders", title=folder.name)
    images = _stems(listing, folder, others)
    if not images:
        listing.add(f"there is no image in {folder}", fatal=True)
        return listing
    found: dict[str, list[Path]] = {stem: [path] for stem, path in images.items()}
    for channel in others[:-1]:
        partners = _partners(listing, images, channel, folder, options, role="channel")
        for stem, path in partners.items():
            found[stem].append(path)
    masks = _partners(listing, images, others[-1], folder, options, role="mask")
    for stem, paths in found.items():
        case_id = _case_id(stem)
        listing.cases.append(
            Case(case_id=case_id, patient_id=case_id, images=tuple(paths), label=masks.get(stem))
        )
    return listing


def _partners(
    listing: Listing,
    images: Mapping[str, Path],
    folder: Path,
    home: Path,
    options: ImportOptions,
    *,
    role: str,
) -> dict[str, Path]:
    """image stem -> its file in `folder`; what has no partner or several is a problem."""
    files = _stems(listing, folder, [home])
    matches = match_stems(tuple(images), tuple(files), strip=options.strip)
    _tell(listing, matches, files, folder, role=role, lone=role == "mask" and options.keep_unlabelled)
    return {image: files[partner] for image, partner in matches.pairs}


def _tell(
    listing: Listing, matches: Matches, files: Mapping[str, Path], folder: Path, *, role: str, lone: bool
) -> None:
    for stem in matches.images:
        if not lone:
            listing.add(f"the image has no {role} in {folder}", case_id=_case_id(stem))
    for stem in matches.masks:
        listing.add(f"the {role} {files[stem]} has no image")
    for left, right in matches.ambiguous:
        text = (
            f"{shown(left)} and {shown(files[stem].name for stem in right)} cannot be told apart; "
            f"rename so that each image has one {role} of its name"
        )
        for stem in left:
            listing.add(text, case_id=_case_id(stem))


def _stems(listing: Listing, folder: Path, others: list[Path]) -> dict[str, Path]:
    """stem with folders -> image file; files of one stem are a problem, those of no image a note."""
    found: dict[str, Path] = {}
    strange = []
    for path in list_files(folder, below=True):
        # Masks may lie in a folder inside that of the images.
        if any(path.is_relative_to(o) and o.is_relative_to(folder) for o in others):
            continue
        if ending_of(path.name) is None:
            strange.append(path.name)
            continue
        relative = path.relative_to(folder)
        stem = (relative.parent / image_stem(path.name)).as_posix()
        if stem in found:
            listing.add(f"{found[stem]} and {path.name} have the same stem", case_id=_case_id(stem))
        found.setdefault(stem, path)
    if strange:
        listing.notes.append(
            f"{counted(len(strange), 'file')} in {folder} that are no images left out: {shown(strange)}"
        )
    return found


def _case_id(stem: str) -> str:
    return stem.replace("/", "_")
