"""Windows over an image larger than the network sees at once, blended to one probability map."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.errors import ConfigError
from medseg.inference.options import TtaName

Blend = Literal["gaussian", "constant"]
Network = Callable[[Tensor], Tensor]

SIGMA = 0.125
"""Standard deviation of the blending weights as a part of the window."""

LEAST_WEIGHT = 1e-3
"""No voxel of a window counts less than this, so that a sum of weights is never zero."""

GAMMAS = (0.75, 1.33)
"""Exponents of the darker and brighter versions."""


def softmax(logits: Tensor) -> Tensor:
    """(B, L, *sp) logits of any float type -> float32 probabilities that sum to one over L."""
    return torch.softmax(logits.float(), dim=1)


def sliding_window(
    image: Tensor,
    network: Network,
    *,
    window: Sequence[int] | None = None,
    overlap: float = 0.25,
    batch_size: int = 4,
    blend: Blend = "gaussian",
    tta: Sequence[TtaName] = (),
    flip_axes: Sequence[int] = (0,),
    side_axis: int | None = 0,
    mirror_classes: Sequence[int] | None = None,
    activation: Callable[[Tensor], Tensor] = softmax,
) -> Tensor:
    """Class probabilities of a whole image, from overlapping windows and mirrored or altered copies.

    The activation is applied before anything is averaged. One accumulator of the image's size is
    kept, however many copies there are.

    Parameters
    ----------
    image : (C, *sp) float tensor
        Prepared image, two or three spatial axes.
    network : callable
        (B, C, *window) -> (B, L, *window) logits; the caller sees to evaluation and inference mode.
    window : sequence of int or None
        Voxels along each axis. None: the whole image. An image smaller than the window is
        centred in one, filled up with the image's minimum, and cut back.
    overlap : float
        Share of a window that its neighbour sees again, 0 to below 1.
    batch_size : int
        Windows in one run of the network.
    blend : {"gaussian", "constant"}
        Weights of a window: falling from the centre with sigma an eighth of the window, or all alike.
    tta : sequence of {"flip", "gamma", "invert"}
        Copies to average over. Every combination of `flip_axes` is mirrored, and mirrored back
        exactly; gamma and invert act on the image brought to [0, 1] by its own range.
    flip_axes : sequence of int
        Spatial axes of "flip".
    side_axis : int or None
        The left-right axis, along which a mirrored body swaps its sides; None where there is none.
    mirror_classes : sequence of L int, or None
        Class index after the body is mirrored left to right (`LabelTable.mirror_classes`).
    activation : callable
        Logits to what is averaged.

    Returns
    -------
    (L, *sp) float32 tensor

    Raises
    ------
    ConfigError
        A window or flip axis that does not fit the image's axes.

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z (weights and flips).
    """
    size = tuple(int(n) for n in image.shape[1:])
    window = _checked_window(size, window)
    flips = _flips(len(size), flip_axes) if "flip" in tta else [()]
    padded, start = _pad_to(image, window)
    places = list(window_slices(tuple(padded.shape[1:]), window, overlap))
    # One window has nothing to blend with.
    weights = importance(window, blend=blend if len(places) > 1 else "constant")
    blended = _Accumulator(weights.to(image.device), tuple(padded.shape[1:]))
    for version in _intensities(padded, tta):
        for first in range(0, len(places), batch_size):
            batch_places = places[first : first + batch_size]
            batch = torch.stack([version(padded[(slice(None), *place)]) for place in batch_places])
            for axes in flips:
                mirror = mirror_classes if side_axis is not None and side_axis in axes else None
                found = _mirrored_run(network, activation, batch, axes=axes, mirror=mirror)
                for place, part in zip(batch_places, found, strict=True):
                    blended.add(place, part)
    return blended.mean()[(slice(None), *(slice(a, a + n) for a, n in zip(start, size, strict=True)))]


class _Accumulator:
    """Weighted sum of windows and sum of their weights."""

    def __init__(self, weights: Tensor, size: tuple[int, ...]) -> None:
        self._weights = weights
        self._seen = torch.zeros(size, dtype=torch.float32, device=weights.device)
        self._total = torch.zeros((0, *size), dtype=torch.float32, device=weights.device)

    def add(self, place: tuple[slice, ...], part: Tensor) -> None:
        if not len(self._total):
            self._total = torch.zeros((len(part), *self._seen.shape), device=self._seen.device)
        self._total[(slice(None), *place)] += part * self._weights
        self._seen[place] += self._weights

    def mean(self) -> Tensor:
        return self._total.div_(self._seen)


def importance(window: Sequence[int], *, blend: Blend = "gaussian") -> Tensor:
    """(*window) float32 blending weights, symmetric, largest in the centre."""
    weights = torch.ones(tuple(window), dtype=torch.float32)
    if blend == "constant":
        return weights
    for axis, n in enumerate(window):
        x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        bell = torch.exp(-0.5 * (x / (SIGMA * n)) ** 2)
        weights *= bell.reshape([-1 if a == axis else 1 for a in range(len(window))])
    return weights.clamp_(min=max(float(weights.min()), LEAST_WEIGHT))


def window_slices(size: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[slice, ...]]:
    """Places of windows that cover an image at least as large; the last of an axis ends at its end."""
    starts = []
    for n, w in zip(size, window, strict=True):
        step = max(int(w * (1 - overlap)), 1)
        count = 1 + -(-(n - w) // step)
        starts.append([min(index * step, n - w) for index in range(count)])
    for corner in itertools.product(*starts):
        yield tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))


def _checked_window(size: tuple[int, ...], window: Sequence[int] | None) -> tuple[int, ...]:
    if window is None:
        return size
    if len(window) != len(size):
        raise ConfigError(
            f"inference.window has {len(window)} axes {tuple(window)}, "
            f"the prepared image has {len(size)}: {size}; give one number per axis"
        )
    return tuple(int(n) for n in window)


def _flips(dims: int, flip_axes: Sequence[int]) -> list[tuple[int, ...]]:
    if any(not 0 <= axis < dims for axis in flip_axes):
        raise ConfigError(
            f"inference.flip_axes are {list(flip_axes)}, the prepared image has axes 0 to {dims - 1}"
        )
    axes = sorted(set(flip_axes))
    return [chosen for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)]


def _pad_to(image: Tensor, window: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    missing = [max(w - n, 0) for n, w in zip(image.shape[1:], window, strict=True)]
    before = tuple(n // 2 for n in missing)
    if not any(missing):
        return image, before
    sides = [part for n, b in zip(reversed(missing), reversed(before), strict=True) for part in (b, n - b)]
    return F.pad(image, sides, value=float(image.min())), before


def _intensities(image: Tensor, tta: Sequence[TtaName]) -> list[Callable[[Tensor], Tensor]]:
    # The range is the whole image's, so that a window is altered as its neighbours are.
    low, high = float(image.min()), float(image.max())
    width = max(high - low, torch.finfo(torch.float32).tiny)

    def darker_or_brighter(gamma: float) -> Callable[[Tensor], Tensor]:
        return lambda x: ((x - low) / width).clamp(0, 1) ** gamma * width + low

    versions: list[Callable[[Tensor], Tensor]] = [lambda x: x]
    if "gamma" in tta:
        versions += [darker_or_brighter(gamma) for gamma in GAMMAS]
    if "invert" in tta:
        versions.append(lambda x: low + high - x)
    return versions


def _mirrored_run(
    network: Network,
    activation: Callable[[Tensor], Tensor],
    batch: Tensor,
    *,
    axes: tuple[int, ...],
    mirror: Sequence[int] | None,
) -> Tensor:
    dims = [axis + 2 for axis in axes]
    found = activation(network(batch.flip(dims) if dims else batch))
    if dims:
        found = found.flip(dims)
    # In a mirrored body the left lung looks like a right one: class c was seen as its mirror.
    return found if mirror is None else found[:, torch.as_tensor(list(mirror), device=found.device)]
