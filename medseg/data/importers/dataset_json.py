"""What nnU-Net's and the Decathlon's dataset.json have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.data.importers.json_file import path_inside, read_object
from medseg.data.importers.label_names import read_label_names
from medseg.data.importers.records import Kind, Listing, counted
from medseg.errors import ManifestError

DATASET_JSON = "dataset.json"


def open_listing(folder: Path, kind: Kind) -> tuple[Listing, Mapping[str, Any]]:
    """A listing with the label names and channels of dataset.json, and the JSON object itself.

    Raises
    ------
    ManifestError
        There is no such file, or it is not readable as JSON (`json_file.read_json`).
    """
    path = folder / DATASET_JSON
    if not path.is_file():
        raise ManifestError(f"{folder} has no {DATASET_JSON}, so it is no {kind} data set")
    about = read_object(path)
    title = about.get("name")
    listing = Listing(
        kind=kind, title=title if isinstance(title, str) and title.strip() else folder.resolve().name
    )
    listing.names = read_label_names(listing, about.get("labels"), order=about.get("regions_class_order"))
    listing.channels = _channel_names(listing, about)
    return listing, about


def check_count(listing: Listing, about: Mapping[str, Any], key: str, found: int, what: str) -> None:
    """Note where dataset.json counts other than there are; a key that is not there says nothing."""
    said = about.get(key)
    if said is not None and (isinstance(said, bool) or said != found):
        listing.add(f"{DATASET_JSON}: {key} is {said!r:.40}, found {counted(found, what)}")


def named_file(listing: Listing, folder: Path, value: object, *, role: str, case_id: str) -> Path | None:
    """The file that dataset.json names, or None with the reason noted."""
    found = path_inside(folder, value)
    if isinstance(found, str):
        listing.add(f"{role}: {found}", case_id=case_id)
        return None
    return found


def _channel_names(listing: Listing, about: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels by number, from channel_names (v2) or modality (v1, MSD)."""
    key = "channel_names" if "channel_names" in about else "modality"
    named = about.get(key)
    if named is None:
        return ()
    expected = [str(number) for number in range(len(named))] if isinstance(named, dict) else []
    if not expected or sorted(named, key=str) != sorted(expected):
        listing.add(f"{DATASET_JSON}: {key} must name the channels 0, 1, ... without gaps", fatal=True)
        return ()
    return tuple(str(named[number]) for number in expected)
