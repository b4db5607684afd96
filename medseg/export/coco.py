"""Recognised targets of pictures as COCO JSON: boxes, run-length masks, scores, ids that stay the same.

The format is that of the COCO data set (cocodataset.org, "Data format"), which pycocotools and most
detection tools read. It describes pictures; a volume has no place in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg import __version__
from medseg.errors import ConfigError, InputError
from medseg.labels import LabelTable

# Below 2 ** 53, so that readers that keep numbers as doubles keep the ids.
_ID_BITS = 48
_REGION_IDS = 100_000
Json = Mapping[str, Any]


def coco_id(*parts: object) -> int:
    """A number for something named, the same in every run; from 1."""
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return 1 + (int.from_bytes(digest, "big") >> (256 - _ID_BITS))


def run_lengths(mask: NDArray[np.bool_], *, start: tuple[int, int], shape: tuple[int, int]) -> list[int]:
    """Lengths of the runs of zeros and ones in turn, down the first column, then the next; zeros first.

    Parameters
    ----------
    mask : (I', J') bool array
        Part of the picture that holds all of the object; i counts columns, j rows.
    start : (int, int)
        Its first pixel in the picture.
    shape : (int, int)
        Columns and rows of the picture.
    """
    i, j = np.nonzero(mask)
    places = (i + start[0]) * shape[1] + j + start[1]
    total = shape[0] * shape[1]
    if not places.size:
        return [total]
    breaks = np.flatnonzero(np.diff(places) > 1)
    begins = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [places.size - 1]])] + 1
    edges = np.concatenate([[0], np.stack([begins, ends], axis=1).ravel(), [total]])
    runs: list[int] = np.diff(edges).tolist()
    # No run of zeros follows an object that reaches the last pixel.
    return runs if runs[-1] else runs[:-1]


def compressed(runs: Sequence[int]) -> str:
    """Run lengths as the string that COCO files hold.

    From the fourth run on its difference to the run before the last; five bits a character, the lowest first,
    from "0" on, and the sixth bit says whether more follow.
    """
    letters = []
    for index, run in enumerate(runs):
        rest = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            # The highest of the five bits is the sign of what is left.
            more = rest != (-1 if bits & 16 else 0)
            letters.append(chr(48 + (bits | 32 if more else bits)))
    return "".join(letters)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedMask:
    """Instances of one structure in a picture.

    Parameters
    ----------
    numbers : (I', J') integer array
        Number of the instance of each pixel, 0 for none.
    start : (int, int)
        First pixel of the array in the picture, column and row.
    """

    numbers: NDArray[Any]
    start: tuple[int, int]


def coco_dataset(
    masks: Mapping[str, NumberedMask | None],
    *,
    case_id: str,
    shape: Sequence[int],
    table: LabelTable,
    confidences: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    """A COCO data set of one picture.

    Ids are digests of the names: the same case, label and number have the same id in every file, so that files
    can be joined. Category ids are the values of the labels in masks, and 100001 onwards for regions.

    Parameters
    ----------
    masks : mapping of str to NumberedMask or None
        Label or region -> its instances; None where there is none.
    case_id : str
        Name of the picture in the file; file names may tell who a patient is.
    shape : sequence of int
        Columns and rows.
    table : LabelTable
    confidences : mapping of (str, int) to float
        By structure and number of the instance, where they are known.

    Returns
    -------
    dict
        `info`, `images`, `annotations` (each with its `score` where it has a confidence) and `categories`.

    Raises
    ------
    InputError
        The image is a volume.
    """
    if len(shape) != 2:
        raise InputError(
            "COCO describes pictures and the image is a volume; use instances.csv, measurements.json or instance_sr"
        )
    columns, rows = shape
    identifiers = category_ids(table)
    annotations = []
    for name, mask in masks.items():
        for annotation in () if mask is None else _annotations(mask, (columns, rows)):
            number = annotation["number"]
            annotation |= {
                "id": coco_id(case_id, name, number),
                "image_id": coco_id(case_id),
                "category_id": identifiers[name],
            }
            score = confidences.get((name, number))
            annotations.append(annotation | ({} if score is None else {"score": score}))
    return {
        "info": {"description": "Recognised targets", "version": f"medseg {__version__}"},
        "images": [{"id": coco_id(case_id), "file_name": case_id, "width": columns, "height": rows}],
        "annotations": annotations,
        "categories": [
            {
                "id": identifiers[name],
                "name": name,
                "supercategory": "region" if name in table.regions else "label",
            }
            for name in masks
        ],
    }


def category_ids(table: LabelTable) -> dict[str, int]:
    """Category of each label and region."""
    labels = {label.name: label.value for label in table.labels}
    return labels | {name: _REGION_IDS + n for n, name in enumerate(table.regions, start=1)}


def _annotations(mask: NumberedMask, shape: tuple[int, int]) -> list[dict[str, Any]]:
    annotations = []
    for number, part in enumerate(ndimage.find_objects(mask.numbers), start=1):
        if part is None:
            continue
        own = mask.numbers[part] == number
        left, top = (slice_.start + first for slice_, first in zip(part, mask.start, strict=True))
        runs = run_lengths(own, start=(left, top), shape=shape)
        annotations.append(
            {
                "segmentation": {"size": [shape[1], shape[0]], "counts": compressed(runs)},
                "area": int(np.count_nonzero(own)),
                "bbox": [left, top, own.shape[0], own.shape[1]],
                "iscrowd": 0,
                "number": number,
            }
        )
    return annotations


def join_coco(datasets: Iterable[Json]) -> dict[str, Any]:
    """Several data sets of the same categories as one, images and annotations sorted by id.

    Raises
    ------
    ConfigError
        Two images or annotations with one id: a case twice.
    """
    parts = list(datasets)
    images = sorted((image for part in parts for image in part["images"]), key=lambda item: int(item["id"]))
    annotations = sorted((a for part in parts for a in part["annotations"]), key=lambda item: int(item["id"]))
    for items in (images, annotations):
        ids = [item["id"] for item in items]
        if len(set(ids)) < len(ids):
            raise ConfigError(
                "two pictures or instances have one COCO id; a case stands twice among the results"
            )
    categories = {c["id"]: c for part in parts for c in part["categories"]}
    return {
        "info": parts[0]["info"] if parts else {},
        "images": images,
        "annotations": annotations,
        "categories": [categories[key] for key in sorted(categories)],
    }
