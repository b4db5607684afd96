"""Cells of voxels: folded into channels, unfolded, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F


def space_to_depth(x: Tensor, cell: Sequence[int]) -> Tensor:
    """(B, C, *sp), multiples of the cell -> (B, C * cells, *sp / cell): each cell of voxels becomes channels."""
    if tuple(cell) == (2, 2):
        return F.pixel_unshuffle(x, 2)
    dims = len(cell)
    size = [n // c for n, c in zip(x.shape[2:], cell, strict=True)]
    cells = x.reshape(*x.shape[:2], *(part for pair in zip(size, cell, strict=True) for part in pair))
    cells = cells.permute(0, 1, *(3 + 2 * a for a in range(dims)), *(2 + 2 * a for a in range(dims)))
    return cells.reshape(x.shape[0], -1, *size)


def depth_to_space(x: Tensor, cell: Sequence[int]) -> Tensor:
    """(B, C * cells, *sp) -> (B, C, *sp * cell); undoes `space_to_depth`."""
    if tuple(cell) == (2, 2):
        shuffled: Tensor = F.pixel_shuffle(x, 2)
        return shuffled
    dims = len(cell)
    cells = x.reshape(x.shape[0], -1, *cell, *x.shape[2:])
    cells = cells.permute(0, 1, *(part for a in range(dims) for part in (2 + dims + a, 2 + a)))
    return cells.reshape(*cells.shape[:2], *(n * c for n, c in zip(x.shape[2:], cell, strict=True)))


class MeanPool(nn.Module):
    """Mean of each cell of voxels; the last cells of an axis that does not divide are smaller.

    In two dimensions this is torch's. In three dimensions torch's gives up the channels-last layout, so that
    every layer around it copies; where the cells fill the size, sums of slices keep it.
    """

    def __init__(self, cell: Sequence[int]) -> None:
        super().__init__()
        self.cell = tuple(cell)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> (B, C, *sp / cell), rounded up."""
        if x.ndim == 4:
            return F.avg_pool2d(x, self.cell, self.cell, ceil_mode=True)
        if any(n % s for n, s in zip(x.shape[2:], self.cell, strict=True)):
            return F.avg_pool3d(x, self.cell, self.cell, ceil_mode=True)
        for axis, s in enumerate(self.cell, start=2):
            x = _sum_of_slices(x, axis, s)
        return x / prod(self.cell)


def _sum_of_slices(x: Tensor, axis: int, step: int) -> Tensor:
    before = (slice(None),) * axis
    total = x[(*before, slice(0, None, step))]
    for first in range(1, step):
        total = total + x[(*before, slice(first, None, step))]
    return total
