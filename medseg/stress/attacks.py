"""Attacks on the networks of a model: the prepared image changed by a hair, so that the mask gets worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.inference.sliding_window import window_slices
from medseg.training.attacks import Ball, fgsm, pgd
from medseg.transforms.corruptions import usual_range

AttackName = Literal["fgsm", "pgd"]
ATTACKS: tuple[AttackName, ...] = get_args(AttackName)
EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Largest change of a value at the severities 1 to 5, in percent of the prepared image's range."""
EPSILON_UNIT = "% of the gray range, at most, at each voxel"
PGD_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacker:
    """Networks that are attacked together, and what counts as worse.

    Parameters
    ----------
    networks : sequence of nn.Module
        (B, C, *sp) -> (B, L, *sp) logits, in evaluation mode. Of several, their mean loss is raised.
    loss : nn.Module
        forward(logits, (B, 1, *sp) set indices) -> scalar, lower is better.
    window : sequence of int or None
        What they are shown at a time; windows side by side are attacked one by one.
    """

    networks: Sequence[nn.Module]
    loss: nn.Module
    window: Sequence[int] | None = None

    def attacked(
        self,
        image: NDArray[np.float32],
        sets: NDArray[Any],
        kind: AttackName,
        epsilon: float,
        *,
        seed: int = 0,
        steps: int = PGD_STEPS,
    ) -> NDArray[np.float32]:
        """A prepared image after an attack; no value changes by more than epsilon.

        Parameters
        ----------
        image : (C, *sp) float32 array
        sets : (1, *sp) integer array
            Reference as set indices, on the grid of the image.
        kind : {"fgsm", "pgd"}
        epsilon : float
            In the values of the image.
        seed : int, optional
            Of PGD's random start.
        steps : int, optional
            Of PGD; the image of the highest loss on the way is taken.
        """
        result = image.copy()
        shape = image.shape[1:]
        window = tuple(min(n, w) for n, w in zip(shape, self.window or shape, strict=True))
        device = next(self.networks[0].parameters()).device
        generator = torch.Generator().manual_seed(seed)
        for box in window_slices(shape, window, 0.0):
            place = (slice(None), *box)
            part = torch.from_numpy(np.ascontiguousarray(image[place]))[None].to(device)
            label = torch.from_numpy(np.ascontiguousarray(sets[place]).astype(np.int64))[None].to(device)
            ball = Ball.around(part, epsilon)

            def worse(changed: Tensor, label: Tensor = label) -> Tensor:
                losses = [self.loss(network(changed).float(), label) for network in self.networks]
                return torch.stack(losses).mean()

            if kind == "fgsm":
                found = fgsm(worse, ball)
            else:
                found = pgd(worse, ball, steps=steps, generator=generator, keep_best=True)
            result[place] = found[0].cpu().numpy()
        return result


def epsilon_of(image: NDArray[np.float32], severity_percent: float) -> float:
    """Percent of a prepared image's range in its own values."""
    low, high = usual_range(image)
    return severity_percent / 100 * (high - low)


def source_units(prepared: NDArray[np.float32], source: NDArray[np.float32]) -> float | None:
    """How many units of the source one unit of the prepared image is worth; None where they are not proportional.

    Parameters
    ----------
    prepared, source : (*sp) float32 array
        The same voxels as the network sees them and as the file has them. Values cut off at the prepared image's
        least and largest are left out.
    """
    inside = (prepared > prepared.min()) & (prepared < prepared.max())
    x, y = prepared[inside].astype(np.float64), source[inside].astype(np.float64)
    if x.size < 2 or x.std() == 0 or y.std() == 0 or abs(np.corrcoef(x, y)[0, 1]) < 0.99:
        return None
    return float(abs(np.cov(x, y)[0, 1]) / x.var(ddof=1))
