"""An nnU-Net raw folder (v1 and v2) -> cases."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.data.importers.dataset_json import check_count, named_file, open_listing
from medseg.data.importers.file_names import PICTURE_ENDINGS, ending_of, list_files
from medseg.data.importers.records import ImportOptions, Listing, counted, shown
from medseg.data.manifest import Case, Split

_CHANNEL = re.compile(r"(.+)_([0-9]{4})", re.DOTALL)


def list_nnunet(folder: Path, options: ImportOptions) -> Listing:
    """The cases of `DatasetXXX_Name`: imagesTr, labelsTr, imagesTs, or the files that dataset.json names.

    Parameters
    ----------
    folder : Path
        Holds dataset.json.
    options : ImportOptions
        `keep_unlabelled` and `test` are followed.

    Returns
    -------
    Listing
        Training cases with split train, test cases with split test and, where there is a folder
        labelsTs, its masks. Images are in the order of their channels.

    Raises
    ------
    ManifestError
        No dataset.json, or one that is no JSON.

    References
    ----------
    nnU-Net, documentation/dataset_format.md (v2) and dataset_conversion.md (v1).
    """
    listing, about = open_listing(folder, "nnunet")
    ending = about.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not re.fullmatch(r"(\.[A-Za-z0-9]+)+", ending):
        listing.add(f"dataset.json: file_ending must be like .nii.gz, found {ending!r:.40}", fatal=True)
        return listing
    if not listing.channels and not listing.broken():
        listing.add("dataset.json names no channels: expected channel_names (or modality)", fatal=True)
    reading = _Reading(folder, ending, listing, options)
    if "dataset" in about:
        reading.named(about["dataset"])
    else:
        reading.part("imagesTr", "labelsTr", "train")
    check_count(listing, about, "numTraining", len(reading.training), "training case")
    if options.test and (folder / "imagesTs").is_dir():
        reading.part("imagesTs", "labelsTs", "test")
        check_count(listing, about, "numTest", len(reading.testing), "test case")
    return listing


class _Reading:
    """One pass over a folder."""

    def __init__(self, folder: Path, ending: str, listing: Listing, options: ImportOptions) -> None:
        self.folder, self.ending, self.listing, self.options = folder, ending, listing, options
        self.training: set[str] = set()
        self.testing: set[str] = set()

    def part(self, images: str, labels: str, split: Split) -> None:
        """The cases of a folder of images and its folder of masks."""
        if not (self.folder / images).is_dir():
            self.listing.add(f"there is no folder {images}", fatal=True)
            return
        found = self._images(images)
        masks = self._masks(labels) if (self.folder / labels).is_dir() else {}
        if split == "train" and not masks and not self.options.keep_unlabelled:
            self.listing.add(f"there is no mask *{self.ending} in {labels}")
        for case_id in sorted(set(masks) - set(found)):
            self.listing.add(
                f"the mask {labels}/{masks[case_id].name} has no image in {images}", case_id=case_id
            )
        self._seen(split).update(found)
        whole = self._rgb_files(found)
        for case_id in sorted(found):
            self._case(case_id, found[case_id], masks.get(case_id), split=split, expected=whole)

    def named(self, entries: Any) -> None:
        """The cases of the key `dataset`, which names every file."""
        if not isinstance(entries, dict) or not entries:
            self.listing.add("dataset.json: dataset must map case ids to images and label", fatal=True)
            return
        self.training.update(entries)
        for case_id, entry in entries.items():
            images = entry.get("images") if isinstance(entry, dict) else None
            if not isinstance(images, list) or not images:
                self.listing.add("dataset.json names no list of images", case_id=case_id)
                continue
            paths = [named_file(self.listing, self.folder, i, role="image", case_id=case_id) for i in images]
            label = entry.get("label")
            mask = label and named_file(self.listing, self.folder, label, role="label", case_id=case_id)
            if all(path is not None for path in paths) and not (label and mask is None):
                channels = {number: path for number, path in enumerate(paths) if path is not None}
                self._case(case_id, channels, mask or None, split="train", expected=self._channel_count())

    def _case(
        self, case_id: str, channels: Mapping[int, Path], label: Path | None, *, split: Split, expected: int
    ) -> None:
        absent = sorted(set(range(expected)) - set(channels))
        extra = sorted(set(channels) - set(range(expected)))
        if absent:
            names = shown(f"{n:04d} ({self._channel(n)})" for n in absent)
            self.listing.add(f"channel {names} is missing", case_id=case_id)
        if extra:
            text = (
                f"dataset.json names {counted(expected, 'channel')}, but there is {channels[extra[0]].name}"
            )
            self.listing.add(text, case_id=case_id)
        if label is None and split == "train" and not self.options.keep_unlabelled:
            self.listing.add("the image has no mask in labelsTr", case_id=case_id)
        self.listing.cases.append(
            Case(
                case_id=case_id,
                patient_id=case_id,
                images=tuple(channels[number] for number in sorted(channels)),
                label=label,
                split=split,
            )
        )

    def _images(self, name: str) -> dict[str, dict[int, Path]]:
        """case id -> channel -> file; what is named otherwise is a problem, other formats a note."""
        found: dict[str, dict[int, Path]] = defaultdict(dict)
        for path, stem in self._files(name):
            match = _CHANNEL.fullmatch(stem)
            if match is None:
                self.listing.add(f"{name}/{path.name} does not end in a channel such as _0000{self.ending}")
            else:
                found[match[1]][int(match[2])] = path
        if not found:
            self.listing.add(f"there is no image *_0000{self.ending} in {name}", fatal=name == "imagesTr")
        return dict(found)

    def _masks(self, name: str) -> dict[str, Path]:
        return {stem: path for path, stem in self._files(name)}

    def _files(self, name: str) -> list[tuple[Path, str]]:
        """(file, stem) of the files with the data set's ending."""
        found, others = [], []
        for path in list_files(self.folder / name):
            if ending_of(path.name, [self.ending]) == self.ending:
                found.append((path, path.name[: -len(self.ending)]))
            # Spacing of a .tif lies beside it in a .json of the same name.
            elif not path.name.endswith(".json"):
                others.append(path.name)
        if others:
            self.listing.notes.append(
                f"{counted(len(others), 'file')} in {name} without the ending {self.ending} left out: {shown(others)}"
            )
        return found

    def _rgb_files(self, found: Mapping[str, Mapping[int, Path]]) -> int:
        """How many files a case has: one where three channels are the colours of one picture."""
        count = self._channel_count()
        # nnU-Net's NaturalImage2DIO reads the colours of x_0000.png as the channels.
        if (
            count == 3
            and self.ending.casefold() in PICTURE_ENDINGS
            and all(set(c) == {0} for c in found.values())
        ):
            return 1
        return count

    def _channel_count(self) -> int:
        return max(len(self.listing.channels), 1)

    def _channel(self, number: int) -> str:
        return self.listing.channels[number] if number < len(self.listing.channels) else "no name"

    def _seen(self, split: Split) -> set[str]:
        return self.testing if split == "test" else self.training
