"""Lung Dice of chest-xray-lungs on radiographs changed in ways that other hospitals' films differ.

    MEDSEG_DATA=... python benchmarks/chest_xray_stress.py [CASES]

Takes CASES (60 unless given) films of the validation and test splits of data_manifests/chest_xray_lungs.csv, changes
image and mask together, and prints per change: mean Dice of lung on `shenzhen`, refused films, swapped sides.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medseg.data.manifest import Case, read_manifest
from medseg.errors import InputRefusedError
from medseg.models.bundle import read_bundle
from medseg.pipeline.model import LoadedModel
from medseg.volume import Source, Volume

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, Pixels], tuple[Pixels, Pixels]]
PROJECT = Path(__file__).resolve().parent.parent


def gamma(power: float) -> Change:
    """Darker above 1, brighter below."""
    return lambda image, mask: ((255 * (image / 255) ** power).astype(np.uint8), mask)


def border(share: float, value: int, *, negative: bool = False) -> Change:
    """A frame around the film, as wide as `share` of its longer side."""

    def change(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
        width = int(max(image.shape) * share)
        inside = 255 - image if negative else image
        return np.pad(inside, width, constant_values=value), np.pad(mask, width)

    return change


def turn(degrees: float) -> Change:
    """Turned about the centre."""
    return lambda image, mask: (
        np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(mask).rotate(degrees)),
    )


def resize(factor: float) -> Change:
    """Other number of pixels."""

    def change(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
        size = tuple(max(1, round(n * factor)) for n in image.shape[::-1])
        way = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
        small = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        return np.asarray(Image.fromarray(image).resize(size, way)), np.asarray(small)

    return change


def crop(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """8 % cut off on each side."""
    box = tuple(slice(int(0.08 * n), n - int(0.08 * n)) for n in image.shape)
    return image[box], mask[box]


def noise(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Gaussian noise, 12 of 255 gray levels."""
    grain = np.random.default_rng(0).normal(0, 12, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8), mask


CHANGES: dict[str, Change] = {
    "as it is": lambda image, mask: (image, mask),
    "inverted": lambda image, mask: (255 - image, mask),
    "gamma 2.2": gamma(2.2),
    "gamma 0.45": gamma(0.45),
    "black border 25 %": border(0.25, 0),
    "white border 15 %": border(0.15, 255),
    "inverted, black border 12 %": border(0.12, 0, negative=True),
    "turned by 8 degrees": turn(8),
    "turned by -8 degrees": turn(-8),
    "half the resolution": resize(0.5),
    "six times the resolution": resize(6),
    "cropped by 8 %": crop,
    "noise": noise,
    "histogram equalised": lambda image, mask: (np.asarray(ImageOps.equalize(Image.fromarray(image))), mask),
}


def read(case: Case) -> tuple[Pixels, Pixels]:
    """Image and mask of a case, rows x columns."""
    if case.label is None:
        sys.exit(f"case {case.case_id} has no mask")
    return np.asarray(Image.open(case.images[0]).convert("L")), np.asarray(Image.open(case.label))


def measure(model: LoadedModel, cases: list[Case], change: Change) -> tuple[list[float], int, int]:
    """Dice of lung on shenzhen, refused films, films with more than 2 % of the lungs on the wrong side."""
    dice, refused, swapped = [], 0, 0
    for case in cases:
        image, mask = change(*read(case))
        volume = Volume(array=image.T[None].astype(np.float32), source=Source(paths=(), format="picture"))
        try:
            found = model.segment(volume, case_id=case.case_id).label_map.T
        except InputRefusedError:
            refused += 1
            continue
        if case.scheme == "lung":
            both = np.count_nonzero((found > 0) & (mask > 0))
            dice.append(2 * both / (np.count_nonzero(found) + np.count_nonzero(mask)))
        else:  # The masks say 1 for left, the model says 1 for right.
            wrong = np.count_nonzero((found == mask) & (mask > 0))
            swapped += wrong > 0.02 * np.count_nonzero(mask)
    return dice, refused, swapped


def main() -> None:
    """Print one line per change."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    root = Path(os.environ["MEDSEG_DATA"]) / "cxr"
    cases = read_manifest(PROJECT / "data_manifests" / "chest_xray_lungs.csv", root=root)
    held_out = [case for case in cases if case.split in ("validation", "test")]
    chosen = [held_out[i] for i in np.random.default_rng(0).permutation(len(held_out))[:count]]
    model = LoadedModel(read_bundle("chest-xray-lungs"))
    for name, change in CHANGES.items():
        dice, refused, swapped = measure(model, chosen, change)
        print(
            f"{name:<28} dice {np.mean(dice):.4f} (n={len(dice)})  refused {refused}  swapped {swapped}",
            flush=True,
        )


if __name__ == "__main__":
    main()
