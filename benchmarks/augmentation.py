"""Milliseconds of random augmentation, step by step and as a whole, beside MONAI's random transforms.

    python benchmarks/augmentation.py [REPEATS]

One thread; each row is the median of REPEATS (40 unless given) runs on a 40 x 56 x 40 volume of one channel with
three classes, every step with probability 1. The last rows are the whole list with the probabilities of nnU-Net's
default augmentation, mean over samples. Times are of the processor, not of the wall clock, so that other
programs disturb them little; both sides run in turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai import transforms as monai
from pydantic import TypeAdapter

from medseg.data.patches import View
from medseg.transforms.augment import augment
from medseg.transforms.options import AugmentStep

SHAPE = (40, 56, 40)
STEPS = TypeAdapter(tuple[AugmentStep, ...])
KEYS = ["image", "label"]
MODES = ("bilinear", "nearest")

# Ours, MONAI's, and how often nnU-Net v2 applies it.
ROWS: dict[str, tuple[dict[str, Any], Callable[[float], Any], float]] = {
    "rotate 30 degrees": (
        {"use": "rotate", "degrees": 30},
        lambda p: monai.RandRotated(KEYS, *[np.pi / 6] * 3, prob=p, mode=MODES),
        0.2,
    ),
    "scale 0.7 to 1.4": (
        {"use": "scale", "low": 0.7, "high": 1.4},
        lambda p: monai.RandAffined(KEYS, prob=p, scale_range=(-0.3, 0.4), mode=MODES),
        0.2,
    ),
    "elastic": (
        {"use": "elastic", "sigma": 8, "magnitude": 2},
        lambda p: monai.Rand3DElasticd(KEYS, (8, 9), (40, 80), prob=p, mode=MODES),
        0.0,
    ),
    "flip": (
        {"use": "flip", "axes": (0, 1, 2), "lateral": None},
        lambda p: monai.RandFlipd(KEYS, prob=p, spatial_axis=(0, 1, 2)),
        0.5,
    ),
    "noise": ({"use": "noise"}, lambda p: monai.RandGaussianNoised(KEYS[:1], prob=p, std=0.05), 0.1),
    "blur": (
        {"use": "blur", "low": 0.5, "high": 1.0},
        lambda p: monai.RandGaussianSmoothd(KEYS[:1], *[(0.5, 1.0)] * 3, prob=p),
        0.2,
    ),
    "brightness": ({"use": "brightness"}, lambda p: monai.RandShiftIntensityd(KEYS[:1], 0.1, prob=p), 0.15),
    "contrast": ({"use": "contrast"}, lambda p: monai.RandScaleIntensityd(KEYS[:1], 0.25, prob=p), 0.15),
    "low resolution": (
        {"use": "low_resolution", "low": 1, "high": 2},
        lambda p: monai.RandSimulateLowResolutiond(KEYS[:1], prob=p, zoom_range=(0.5, 1.0)),
        0.25,
    ),
    "gamma": ({"use": "gamma"}, lambda p: monai.RandAdjustContrastd(KEYS[:1], prob=p, gamma=(0.7, 1.5)), 0.3),
}


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with two ellipsoids side by side, and their labels."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = sum((g / r) ** 2 for g, r in zip(grid, (0.5, 0.6, 0.45), strict=True)) < 1
    label = np.where(inside, np.where(grid[1] < 0, 1, 2), 0).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    return torch.from_numpy((label * 0.4 + noise).astype(np.float32))[None], torch.from_numpy(label)[None]


def timed(*functions: Callable[[int], object], repeats: int) -> list[list[float]]:
    """Milliseconds of each function, called in turns with 0, 1, 2, ..."""
    found: list[list[float]] = [[] for _ in functions]
    for number in range(-2, repeats):
        for times, function in zip(found, functions, strict=True):
            begin = time.thread_time()
            function(max(0, number))
            if number >= 0:
                times.append(1e3 * (time.thread_time() - begin))
    return found


def ours(steps: tuple[AugmentStep, ...], view: View | None = None) -> Callable[[int], object]:
    """Our augmentation of the sample, by seed."""
    image, label = sample()
    mirror = np.arange(4)
    return lambda seed: augment(image, label, steps, seed=seed, mirror_sets=mirror, view=view)


def theirs(transform: Any) -> Callable[[int], object]:
    """MONAI's, with a state that goes on."""
    image, label = sample()
    transform.set_random_state(0)
    return lambda seed: transform({"image": image.clone(), "label": label.clone()})


def read(changes: float | None) -> tuple[AugmentStep, ...]:
    """All steps; with nnU-Net's probabilities where no other is given."""
    steps = [{**own, "probability": usual if changes is None else changes} for own, _, usual in ROWS.values()]
    return STEPS.validate_python(tuple(steps))


def main() -> None:
    """Print one row per step, then the whole list."""
    torch.set_num_threads(1)
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print(f"{'ms per sample of ' + ' x '.join(map(str, SHAPE)):<36}{'medseg':>9}{'MONAI':>9}")
    for (name, (_, peer, _)), step in zip(ROWS.items(), read(1.0), strict=True):
        both = timed(ours((step,)), theirs(peer(1.0)), repeats=repeats)
        print(f"{name:<36}{np.median(both[0]):>9.2f}{np.median(both[1]):>9.2f}", flush=True)
    usual = [peer(p) for _, peer, p in ROWS.values() if p > 0]
    view = View(size=SHAPE, start=(0, 0, 0), minima=(-0.5,))
    whole = timed(ours(read(None), view), theirs(monai.Compose(usual)), repeats=5 * repeats)
    print(f"{'all, nnU-Net probabilities, mean':<36}{np.mean(whole[0]):>9.2f}{np.mean(whole[1]):>9.2f}")
    print(f"{'  longest of a hundred':<36}" + "".join(f"{np.percentile(w, 99):>9.2f}" for w in whole))
    every = timed(
        ours(read(1.0)), theirs(monai.Compose([peer(1.0) for _, peer, _ in ROWS.values()])), repeats=20
    )
    print(f"{'all, every time':<36}{np.mean(every[0]):>9.2f}{np.mean(every[1]):>9.2f}")


if __name__ == "__main__":
    main()
