"""Cases and augmentations that loader processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from medseg.data.dataset import PreparedCase
from medseg.data.patches import PatchSampler, View, find_places, structure_sets
from medseg.labels import Label, LabelTable
from medseg.transforms.augment import Augmentation, augment, compile_augment
from medseg.transforms.options import AugmentStep

TABLE = LabelTable(
    labels=(
        Label(name="right", value=1, colour="#3aa0ff", side="right", pair="left"),
        Label(name="left", value=2, colour="#b684f5", side="left", pair="right"),
    ),
    regions={"both": ("right", "left")},
    ignore=255,
)


class SmallCases:
    """Cases whose pixels tell which case they are; rows and columns differ in number."""

    def __init__(
        self,
        count: int = 7,
        *,
        other_shape: str = "",
        unlabelled: str = "",
        size: tuple[int, int] = (6, 4),
    ) -> None:
        self.size = size
        self.case_ids = tuple(f"case-{number}" for number in range(count))
        self.other_shape, self.unlabelled = other_shape, unlabelled

    def fingerprint(self) -> str:
        return "small"

    def __getitem__(self, index: int) -> PreparedCase:
        case_id = self.case_ids[index]
        shape = (1, 5, 4) if case_id == self.other_shape else (1, *self.size)
        image = np.full(shape, float(index), dtype=np.float32)
        label = None if case_id == self.unlabelled else np.full(shape, index % 2, dtype=np.int16)
        return PreparedCase(case_id=case_id, image=image, label=label)


class Volumes:
    """Volumes of different shapes with a large and a small structure, as the cache gives them."""

    def __init__(self, count: int = 5, *, table: LabelTable = TABLE) -> None:
        self.case_ids = tuple(f"case-{number}" for number in range(count))
        self.ignored_set = len(table.sets) - 1

    def fingerprint(self) -> str:
        return "volumes"

    def __getitem__(self, index: int) -> PreparedCase:
        shape = (18 + index, 15 - index, 9 + 2 * index)
        random = np.random.default_rng(index)
        image = random.random((2, *shape), dtype=np.float32)
        label = np.zeros((1, *shape), dtype=np.int16)
        label[0, 2:9, 3:8, 2:7], label[0, 12 + index // 2, 2, 3] = 1, 2
        label[0, -2:] = self.ignored_set
        return PreparedCase(
            case_id=self.case_ids[index],
            image=image,
            label=label,
            spacing_mm=(1.0, 1.0, 2.0),
            minima=tuple(float(channel.min()) for channel in image),
            places=find_places(label, ignored_set=self.ignored_set, seed=index),
        )


def augmentation(table: LabelTable = TABLE) -> Augmentation:
    """A full list of random steps, as for MR volumes."""
    read = TypeAdapter(tuple[AugmentStep, ...])
    steps = (
        {"use": "rotate", "degrees": 20, "unit": "mm", "probability": 0.5},
        {"use": "scale", "low": 0.8, "high": 1.25, "probability": 0.5},
        {"use": "elastic", "sigma": 6, "magnitude": 1.5, "probability": 0.3},
        {"use": "flip", "axes": (0, 1)},
        *({"use": name} for name in ("noise", "blur", "brightness", "contrast", "gamma", "low_resolution")),
    )
    return compile_augment(read.validate_python(steps), table.mirror_sets)


PATCHES = PatchSampler(size=(8, 10, 6), foreground=0.4, structures=structure_sets(TABLE))


def unchanged(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    return image, label


def unpadded(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    return augment(image, label, (), seed=seed, mirror_sets=TABLE.mirror_sets, view=view)


def noisy(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(image.shape, generator=generator)
    return image + noise / (1 + noise.mean()), label


def die_on_case_3(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    if float(image.mean()) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return image, label


def stop_on_case_3(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    if float(image.mean()) == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return image, label


def loop_on_case_3(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    while float(image.mean()) == 3:
        time.sleep(0.01)
    return image, label


def fail_on_case_3(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    if float(image.mean()) == 3:
        raise ValueError("no such intensity")
    return image, label


class Once:
    """An augmentation during which something happens to the process, the first time or each time."""

    def __init__(self, what: str, marker: Path, *, again: bool = False) -> None:
        self.what, self.marker, self.again = what, marker, again

    def __call__(self, image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
        if float(image.mean()) == 3 and (self.again or not self.marker.exists()):
            self.marker.touch()
            if self.what == "memory":
                raise MemoryError
            if self.what == "full":
                raise OSError(28, "No space left on device")
            os.kill(os.getpid(), getattr(signal, self.what))
        return noisy(image, label, seed, view)
