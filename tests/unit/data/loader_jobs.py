"""Cases and augmentations that loader processes can import."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import torch
from torch import Tensor

from medseg.data.dataset import PreparedCase


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


def unchanged(image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return image, label


def noisy(image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(image.shape, generator=generator)
    return image + noise / (1 + noise.mean()), label


def die_on_case_3(image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    if float(image.mean()) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return image, label


def stop_on_case_3(image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    if float(image.mean()) == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return image, label


def loop_on_case_3(image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    while float(image.mean()) == 3:
        time.sleep(0.01)
    return image, label


def fail_on_case_3(image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    if float(image.mean()) == 3:
        raise ValueError("no such intensity")
    return image, label
