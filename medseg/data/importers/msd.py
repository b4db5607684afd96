"""A folder of the Medical Segmentation Decathlon, or another with lists in dataset.json -> cases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.data.importers.dataset_json import check_count, named_file, open_listing
from medseg.data.importers.file_names import image_stem, list_files
from medseg.data.importers.records import ImportOptions, Listing, counted, shown
from medseg.data.manifest import Case, Split

_LISTS: Mapping[str, Split] = {
    "training": "train",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs")
_FIRST_CHANNEL = re.compile(r"_0000$")


def list_msd(folder: Path, options: ImportOptions) -> Listing:
    """The cases that dataset.json lists under training, validation and test.

    Parameters
    ----------
    folder : Path
        Holds dataset.json.
    options : ImportOptions
        `keep_unlabelled` and `test` are followed.

    Returns
    -------
    Listing
        An entry is `{"image": file, "label": file}`, `image` also a list of one file per channel; test
        images may be bare names. A case of a data set that names several modalities and gives one
        file has them along a fourth axis; a note says which setting reads them.

    Raises
    ------
    ManifestError
        No dataset.json, or one that is no JSON.

    References
    ----------
    Antonelli et al., The Medical Segmentation Decathlon, Nat Commun 13, 4128 (2022).
    """
    listing, about = open_listing(folder, "msd")
    if not isinstance(about.get("training"), list):
        listing.add("dataset.json has no list `training`", fatal=True)
        return listing
    counts = {"train": 0, "validation": 0, "test": 0}
    for key, split in _LISTS.items():
        entries = about.get(key, [])
        if not isinstance(entries, list):
            listing.add(f"dataset.json: {key} must be a list")
            continue
        counts[split] += len(entries)
        if split != "test" or options.test:
            for number, entry in enumerate(entries):
                _entry(listing, folder, entry, where=f"{key}[{number}]", split=split, options=options)
    check_count(listing, about, "numTraining", counts["train"], "training case")
    check_count(listing, about, "numTest", counts["test"], "test case")
    _unlisted(listing, folder, about, options)
    if listing.in_one_file:
        listing.notes.append(
            f"images hold {counted(len(listing.channels), 'channel')} ({shown(listing.channels)}) along a fourth "
            "axis; the pipeline needs data.fourth_axis: channels"
        )
    return listing


def _entry(
    listing: Listing, folder: Path, entry: Any, *, where: str, split: Split, options: ImportOptions
) -> None:
    """One entry of a list: a case, or a problem."""
    given = entry if isinstance(entry, dict) else {"image": entry}
    written = given.get("image")
    names = written if isinstance(written, list) and written else [written]
    case_id = where
    if isinstance(names[0], str) and names[0].strip():
        stem = image_stem(re.split(r"[/\\]", names[0])[-1])
        case_id = _FIRST_CHANNEL.sub("", stem) if len(names) > 1 else stem
    images = [named_file(listing, folder, name, role="image", case_id=case_id) for name in names]
    label = given.get("label")
    mask = named_file(listing, folder, label, role="label", case_id=case_id) if label else None
    if not label and split != "test" and not options.keep_unlabelled:
        listing.add(f"dataset.json names no label in {where}", case_id=case_id)
    _check_channels(listing, case_id, len(names))
    found = tuple(image for image in images if image is not None)
    # A case whose files are refused stays out of the list; one with other problems is checked on.
    if len(found) == len(images) and not (label and mask is None):
        fold = _fold(listing, given.get("fold"), case_id)
        listing.cases.append(
            Case(case_id=case_id, patient_id=case_id, images=found, label=mask, split=split, fold=fold)
        )


def _check_channels(listing: Listing, case_id: str, files: int) -> None:
    expected = len(listing.channels)
    if expected and files not in (1, expected):
        listing.add(
            f"expected {counted(expected, 'channel')}, found {counted(files, 'file')}", case_id=case_id
        )


def _fold(listing: Listing, value: Any, case_id: str) -> int | None:
    """The fold of an entry, as MONAI's data lists have it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10000:
        listing.add(f"fold must be a whole number from 0, found {value!r:.40}", case_id=case_id)
        return None
    return value


def _unlisted(listing: Listing, folder: Path, about: Mapping[str, Any], options: ImportOptions) -> None:
    """Note the files that the folders hold and dataset.json does not name."""
    named = {path for case in listing.cases for path in (*case.images, case.label)}
    for name in _FOLDERS:
        if not (folder / name).is_dir() or (name == "imagesTs" and not options.test):
            continue
        files = [p for p in list_files(folder / name) if p not in named]
        broken = listing.broken()
        extra = [p.name for p in files if image_stem(p.name) not in broken]
        if extra:
            listing.notes.append(
                f"{counted(len(extra), 'file')} in {name} that dataset.json does not name left out: {shown(extra)}"
            )
