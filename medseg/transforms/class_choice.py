"""Which class a voxel gets, by the values of its channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A class below this share of 1 / L everywhere cannot be the largest of L that sum to one, rounding included.
_SURELY_BELOW = 0.999
# Two float16 steps, relative: values that lie closer may change places when they are rounded.
_HALF_CLOSE = 2.0**-9
# What sums in float32 may be off by near zero.
_LEAST_CLOSE = 1e-5


class Interpolated(Protocol):
    """A block of channel values that can be interpolated to the voxels which are asked for."""

    @property
    def values(self) -> Tensor:
        """(C, ...) float32 values before interpolation."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis of the result."""

    def interpolate(self, index: int) -> Tensor:
        """One channel at those voxels."""

    def exact(self, voxels: tuple[NDArray[np.int64], ...]) -> NDArray[np.float64]:
        """(C, n) all channels at n of those voxels, in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChoice:
    """How the channels of a network become a class.

    Parameters
    ----------
    scale : {"probabilities", "logits"}
        What the values are; probabilities of classes sum to one.
    regions : tuple of int
        For each channel the class that it writes where it is more likely than not; a later channel writes over
        earlier ones. Empty: each channel is a class, and the largest wins.
    rounded : bool
        Whether values are rounded to float16 once interpolated, as nnU-Net's are: then equal values are common,
        and of equal ones the lower class wins.
    """

    scale: Literal["probabilities", "logits"] = "probabilities"
    regions: tuple[int, ...] = ()
    rounded: bool = False

    def probabilities(self, values: Tensor, *, class_count: int) -> Tensor:
        """(L, ...) float32 probabilities of classes that sum to one, from (C, ...) channel values.

        Of regions: that of a class is the chance that its region holds the voxel and no later one does.
        """
        if not self.regions:
            return values if self.scale == "probabilities" else torch.softmax(values, dim=0)
        likely = values if self.scale == "probabilities" else torch.sigmoid(values)
        result = values.new_zeros((class_count, *values.shape[1:]))
        rest = values.new_ones(values.shape[1:])
        for channel in reversed(range(len(self.regions))):
            result[self.regions[channel]] += rest * likely[channel]
            rest *= 1 - likely[channel]
        result[0] += rest
        return result

    def winners(self, block: Interpolated) -> Tensor:
        """(*block.shape) uint8 class of each voxel, int16 above 256 classes."""
        if self.regions:
            return self._last_likely(block)
        bounded = self.scale == "probabilities"
        classes = possible_classes(block.values, sum_to_one=bounded)
        if len(classes) == 1:
            kind = index_kind(max(classes) + 1)
            return torch.full(block.shape, classes[0], dtype=kind, device=block.values.device)
        if self.rounded:
            return _rounded_maximum(classes, block)
        return _running_maximum(classes, block.interpolate)[0]

    def _last_likely(self, block: Interpolated) -> Tensor:
        kind = index_kind(max(self.regions) + 1)
        winner = torch.zeros(block.shape, dtype=kind, device=block.values.device)
        for channel, index in enumerate(self.regions):
            value = block.interpolate(channel)
            if self.rounded:
                close = torch.nonzero(value.abs() < _LEAST_CLOSE, as_tuple=True)
                value[close] = _as_half(block.exact(_indices(close))[channel])
            likely = value if self.scale == "probabilities" else torch.sigmoid(value)
            winner.masked_fill_(likely > 0.5, index)
        return winner


def index_dtype(class_count: int) -> type[np.uint8 | np.int16]:
    """NumPy numbers that hold the indices of so many classes."""
    return np.uint8 if class_count <= 256 else np.int16


def index_kind(class_count: int) -> torch.dtype:
    """`index_dtype` of torch."""
    return torch.uint8 if class_count <= 256 else torch.int16


def possible_classes(values: Tensor, *, sum_to_one: bool = True) -> list[int]:
    """Classes that can be the largest somewhere between the voxels of a block; all where they lie on another device.

    Values that are mixed never leave the range of the mixed, and the largest of L that sum to one is 1 / L or more.
    To ask a device which classes these are would make it wait.

    Parameters
    ----------
    values : (L, ...) float32 tensor
    sum_to_one : bool, optional
        Whether they are probabilities.
    """
    if values.device.type != "cpu":
        return list(range(len(values)))
    flat = values.flatten(1)
    most = flat.amax(dim=1)
    floor = float(flat.amin(dim=1).max())
    if sum_to_one:
        floor = max(floor, _SURELY_BELOW / len(flat))
    return [index for index, value in enumerate(most.tolist()) if value >= floor] or [int(most.argmax())]


def largest_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Class with the largest probability, of equal ones the lower, and that probability.

    Parameters
    ----------
    values : (L, ...) float32 tensor
        Probabilities.

    Returns
    -------
    (...) uint8 tensor, int16 above 256 classes, and (...) float32 tensor
    """
    return _running_maximum(possible_classes(values), lambda index: values[index])


def _running_maximum(classes: Sequence[int], channel: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    best = channel(classes[0]).clone()
    winner = torch.full_like(best, classes[0], dtype=index_kind(max(classes) + 1))
    for index in classes[1:]:
        value = channel(index)
        winner.masked_fill_(value > best, index)
        torch.maximum(best, value, out=best)
    return winner, best


def _rounded_maximum(classes: Sequence[int], block: Interpolated) -> Tensor:
    """The largest of values rounded to float16; only where two are close does the rounding matter."""
    best = block.interpolate(classes[0]).clone()
    second = torch.full(best.shape, -torch.inf)
    winner = torch.full(best.shape, classes[0], dtype=index_kind(max(classes) + 1))
    for index in classes[1:]:
        value = block.interpolate(index)
        torch.maximum(second, torch.minimum(value, best), out=second)
        winner.masked_fill_(value > best, index)
        torch.maximum(best, value, out=best)
    close = torch.nonzero(best - second <= best.abs() * _HALF_CLOSE + _LEAST_CLOSE, as_tuple=True)
    if len(close[0]):
        found = block.exact(_indices(close)).astype(np.float16).argmax(axis=0)
        winner[close] = torch.from_numpy(found).to(winner.dtype)
    return winner


def _indices(places: tuple[Tensor, ...]) -> tuple[NDArray[np.int64], ...]:
    return tuple(index.numpy() for index in places)


def _as_half(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float16).astype(np.float32))
