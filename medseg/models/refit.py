"""Weights of one network refitted to another's shape: image channels, labels, cells, kernels, axes.

Each function keeps what the network computes where it can: equal image channels, volumes of equal slices and
labels of the same meaning give what the bundle gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from medseg.models.option_fields import Inflation


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """A tensor in the shape that is needed, and in words what was done; "" where nothing was."""

    tensor: Tensor
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """What the channels of a first convolution or a head stand for.

    Parameters
    ----------
    count : int
        Image channels or classes, slowest.
    cell : tuple of int
        Voxels along each axis, after them.
    """

    count: int
    cell: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Of the tensor."""
        return self.count * prod(self.cell)


def inflate(weight: Tensor, edge: int, *, mode: Inflation) -> Tensor:
    """Kernel of a convolution over pictures -> over volumes.

    Parameters
    ----------
    weight : (out, in, I, J) tensor
    edge : int
        K, the edge along the new axis.
    mode : "mean" or "centre"
        See `NetworkFields.inflate`. An even kernel has no centre and takes the mean.

    Returns
    -------
    (out, in, I, J, K) tensor
        On a volume of equal slices it gives what `weight` gives on one of them; with "mean" but for the
        slices whose neighbours are padding.

    References
    ----------
    Carreira and Zisserman, Quo vadis, action recognition?, CVPR 2017, doi:10.1109/CVPR.2017.502.
    """
    if mode == "mean" or edge % 2 == 0:
        return weight.unsqueeze(-1).expand(*weight.shape, edge) / edge
    return fit_edge(weight.unsqueeze(-1), weight.ndim, edge)


def inflate_transposed(weight: Tensor, edge: int, *, stride: int) -> Tensor:
    """Like `inflate` for a transposed convolution: each new slice is a sum of as much as one kernel."""
    phases = torch.arange(edge) % stride
    counts = torch.bincount(phases, minlength=stride)[phases].to(weight.dtype)
    return weight.unsqueeze(-1) / counts


def fit_edge(weight: Tensor, axis: int, edge: int) -> Tensor:
    """Zeros around a smaller kernel: the same sums; a kernel of one voxel: the sum, as for equal slices."""
    found = weight.shape[axis]
    if edge == found:
        return weight
    if edge == 1:
        return weight.sum(dim=axis, keepdim=True)
    margin = [0, 0] * weight.ndim
    margin[2 * (weight.ndim - 1 - axis)] = margin[2 * (weight.ndim - 1 - axis) + 1] = (edge - found) // 2
    return torch.nn.functional.pad(weight, margin)


def edges_fit(found: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether `fit_edge` can make the one kernel of the other."""
    return all(w in (1, f) or (w > f and (w - f) % 2 == 0) for f, w in zip(found, wanted, strict=True))


def fit_inputs(weight: Tensor, source: Folding, target: Folding) -> Tensor | None:
    """First convolution for other image channels or cells.

    Each channel gets the mean of those of the source, scaled so that equal channels give equal sums; each
    voxel of a new cell gets its part likewise.

    Parameters
    ----------
    weight : (out, channels, *kernel) tensor
    source, target : Folding

    Returns
    -------
    (out, channels', *kernel) tensor, or None where the cells are not those of one another
    """
    if weight.shape[1] != source.channels:
        return None
    parts = weight.reshape(weight.shape[0], source.count, *source.cell, *weight.shape[2:])
    if source.count != target.count:
        parts = parts.sum(dim=1, keepdim=True) / target.count
        parts = parts.expand(-1, target.count, *parts.shape[2:])
    fitted = _fit_cells(parts, source.cell, target.cell, first=2, keep_sum=True)
    return None if fitted is None else fitted.reshape(weight.shape[0], target.channels, *weight.shape[2:])


def fit_head(
    tensor: Tensor, fresh: Tensor, source: Folding, target: Folding, rows: Sequence[Sequence[int]]
) -> Tensor | None:
    """Head for other labels or cells.

    Parameters
    ----------
    tensor : (channels, ...) tensor
        Weight or bias of the source.
    fresh : (channels', ...) tensor
        What the classes without a source keep.
    source, target : Folding
    rows : sequence of sequence of int
        For each class of the target the classes of the source whose mean it starts from; none: fresh.

    Returns
    -------
    (channels', ...) tensor, or None where the cells are not those of one another
    """
    if tensor.shape[0] != source.channels or tensor.shape[1:] != fresh.shape[1:]:
        return None
    parts = tensor.reshape(source.count, *source.cell, *tensor.shape[1:])
    fitted = _fit_cells(parts, source.cell, target.cell, first=1, keep_sum=False)
    if fitted is None:
        return None
    made = fresh.reshape(target.count, *target.cell, *fresh.shape[1:]).clone()
    for row, classes in enumerate(rows):
        if classes:
            made[row] = fitted[list(classes)].mean(dim=0)
    return made.reshape(fresh.shape)


def _fit_cells(
    parts: Tensor, found: Sequence[int], wanted: Sequence[int], *, first: int, keep_sum: bool
) -> Tensor | None:
    """Voxels of a cell, from axis `first` on, joined or repeated with their sum or their mean kept; None: neither."""
    for axis, (before, after) in enumerate(zip(found, wanted, strict=True), start=first):
        if before == after:
            continue
        if before != 1 and after != 1:
            return None
        joined = parts.sum(dim=axis, keepdim=True) / after if keep_sum else parts.mean(dim=axis, keepdim=True)
        parts = joined.expand(*joined.shape[:axis], after, *joined.shape[axis + 1 :])
    return parts
