"""An exported network beside its source: the same windows in, how far apart the logits are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import BundleError

LIMIT = 1e-4
"""Largest difference of a probability, and of a logit as a part of the largest one or of 1."""

Answer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far apart two networks are.

    Parameters
    ----------
    windows : tuple of str
        What was shown to both.
    logits, probabilities : float
        Largest absolute difference.
    largest_logit : float
        Largest absolute logit of the source.
    """

    windows: tuple[str, ...]
    logits: float
    probabilities: float
    largest_logit: float

    @property
    def text(self) -> str:
        """One line for people."""
        return (
            f"read back and compared on {', '.join(self.windows)}: largest difference {self.logits:.1e} in logits "
            f"(up to {self.largest_logit:.3g}), {self.probabilities:.1e} in probabilities; allowed: {LIMIT:g}"
        )

    def to_json(self) -> dict[str, Any]:
        """For records."""
        return {
            "windows": list(self.windows),
            "largest_difference_logits": self.logits,
            "largest_difference_probabilities": self.probabilities,
            "largest_logit": self.largest_logit,
            "limit": LIMIT,
        }


def compare(
    network: nn.Module, other: Answer, shown: Sequence[tuple[str, NDArray[np.float32]]], *, what: str
) -> Comparison:
    """Show the same windows to a network and to what was made of it.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    other : callable
        (B, C, *window) -> (B, L, *window) logits.
    shown : sequence of (str, (B, C, *window) float32 array)
        Windows with what they are.
    what : str
        The export, for the message.

    Raises
    ------
    BundleError
        They differ by more than `LIMIT`, or in shape.
    """
    logits = probabilities = largest = 0.0
    for name, window in shown:
        with torch.inference_mode():
            ours: Tensor = network(torch.from_numpy(window)).contiguous().float()
        theirs = torch.from_numpy(np.ascontiguousarray(other(window)))
        if ours.shape != theirs.shape:
            raise BundleError(
                f"{what}: {name} gives {tuple(theirs.shape)}, the source {tuple(ours.shape)}; not written"
            )
        largest = max(largest, float(ours.abs().max()))
        logits = max(logits, float((ours - theirs).abs().max()))
        apart = (torch.softmax(ours, 1) - torch.softmax(theirs, 1)).abs().max()
        probabilities = max(probabilities, float(apart))
    found = Comparison(
        windows=tuple(name for name, _ in shown),
        logits=logits,
        probabilities=probabilities,
        largest_logit=largest,
    )
    if not (logits <= LIMIT * max(1.0, largest) and probabilities <= LIMIT):
        raise BundleError(f"{what}: not written, because it differs from its source: {found.text}")
    return found


def windows(
    shape: Sequence[int], *, channels: int, batch: int = 2, seed: int = 0
) -> Iterator[tuple[str, Any]]:
    """Windows that need no image: noise, and smooth structures.

    Parameters
    ----------
    shape : sequence of int
        Voxels along each axis.
    channels, batch, seed : int

    Yields
    ------
    (str, (B, C, *shape) float32 array)
    """
    random = np.random.default_rng(seed)
    size = (batch, channels, *shape)
    by_x = " x ".join(map(str, shape))
    yield f"noise {by_x}", random.standard_normal(size, dtype=np.float32)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    ball = np.exp(-4 * np.sum([axis**2 for axis in axes], axis=0))
    waves = np.prod([np.cos(3 * (number + 1) * axis) for number, axis in enumerate(axes)], axis=0)
    smooth = np.stack([ball + (0.2 + 0.1 * channel) * waves for channel in range(channels)]).astype(
        np.float32
    )
    yield f"structures {by_x}", np.repeat(smooth[None], batch, axis=0)
