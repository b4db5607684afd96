"""Blend overlapping windows and give away every part of the image as soon as no window can change it.

The whole image's probabilities never exist. Windows come in the order of their places, last axis fastest, so
after window (i, j, k) the box that begins at its corner and ends at the corners of the next windows is
finished. What reaches beyond it is carried to those next windows: along the last axis a piece of one window, along
the first a slice of the image as deep as two windows overlap. That slice is what memory goes into, so the longest axis
should be the first.

Sums are the same as those of one accumulator of the image's size, but for the order of the additions.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from medseg.amounts import bytes_text
from medseg.errors import ConfigError, StorageError

Box = tuple[slice, ...]
# Weight of a window that was passed over, beside one that was shown: below what a float32 sum can tell.
_FAINT = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPlan:
    """Where windows lie along one axis.

    Parameters
    ----------
    length, window : int
        Voxels of the image and of a window; the image is at least as long.
    starts : tuple of int
        Ascending; the last window ends with the image.
    """

    length: int
    window: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, length: int, window: int, overlap: float, *, even: bool = False) -> AxisPlan:
        """Windows of which a share `overlap` is seen again by the next; the last one ends with the image.

        `even`: at equal distances, as nnU-Net places them; none is longer than the overlap allows.
        """
        if even:
            return cls(length=length, window=window, starts=_even_starts(length, window, overlap))
        step = max(int(window * (1 - overlap)), 1)
        count = 1 + -(-max(0, length - window) // step)
        starts = tuple(min(index * step, length - window) for index in range(count))
        return cls(length=length, window=window, starts=starts)

    def finished(self, index: int) -> int:
        """First voxel that windows after number `index` can still change."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.length

    @property
    def most_carried(self) -> int:
        """Largest number of voxels that two neighbouring windows share."""
        return max((a + self.window - b for a, b in itertools.pairwise(self.starts)), default=0)


def _even_starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    count = 1 + math.ceil((length - window) / max(window * (1 - overlap), 1))
    step = (length - window) / max(count - 1, 1)
    # Half a voxel goes to the even number, as NumPy rounds.
    return tuple(round(step * index) for index in range(count))


def plan_axes(
    size: Sequence[int], window: Sequence[int], overlap: float, *, even: bool = False
) -> tuple[AxisPlan, ...]:
    """Windows along each axis of an image.

    Raises
    ------
    ConfigError
        The window has another number of axes, or is longer than the image along one.
    """
    if len(size) != len(window) or any(w > n for n, w in zip(size, window, strict=True)):
        raise ConfigError(f"a window of {tuple(window)} voxels does not lie in an image of {tuple(size)}")
    return tuple(AxisPlan.of(n, w, overlap, even=even) for n, w in zip(size, window, strict=True))


def carried_values(axes: Sequence[AxisPlan]) -> int:
    """Voxels that are carried at most, each with a float32 per class and one for the weight."""
    total = 0
    for number, axis in enumerate(axes):
        before = math.prod(a.window for a in axes[:number])
        after = math.prod(a.length for a in axes[number + 1 :])
        total += before * axis.most_carried * after
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A finished part of the image.

    Parameters
    ----------
    place : tuple of slice
        Where it lies.
    values : (L, *place) float32 tensor
        Weighted means.
    """

    place: Box
    values: Tensor


class WindowBlend:
    """Weighted sums of windows, given away block by block.

    Parameters
    ----------
    axes : sequence of AxisPlan
        In the axes of the image.
    weights : (*window) float tensor
        How much each voxel of a window counts.
    order : sequence of int, optional
        Axes from the slowest to the fastest; by default those that carry the fewest voxels.
    store : TileStore, optional
        Keeps what is carried along the slowest axis, nearly all of it; in memory unless given.
    """

    def __init__(
        self,
        axes: Sequence[AxisPlan],
        weights: Tensor,
        *,
        order: Sequence[int] | None = None,
        store: TileStore | None = None,
    ) -> None:
        self.order = tuple(order) if order is not None else slowest_first(axes)
        self._axes = tuple(axes[a] for a in self.order)
        self._weights = weights.permute(self.order)
        self._back = [self.order.index(a) for a in range(len(axes))]
        self._stores: list[TileStore] = [MemoryTiles() for _ in axes]
        self._stores[0] = store or self._stores[0]

    def places(self) -> Iterator[tuple[tuple[int, ...], Box]]:
        """Number of each window along each axis, in the order they must be added, and its place in the image."""
        for index in itertools.product(*(range(len(axis.starts)) for axis in self._axes)):
            corner = [axis.starts[n] for axis, n in zip(self._axes, index, strict=True)]
            box = [slice(a, a + axis.window) for axis, a in zip(self._axes, corner, strict=True)]
            yield index, tuple(box[position] for position in self._back)

    def add(self, index: tuple[int, ...], values: Tensor) -> Block:
        """Add the next window; the block that it finishes.

        Parameters
        ----------
        index : tuple of int
            As `places` gives it, one after the other.
        values : (L, *window) float32 tensor
            Left as it is.
        """
        return self._finish(self._weighted(values), index)

    def skip(
        self, index: tuple[int, ...], background: Tensor, *, device: torch.device | str = "cpu"
    ) -> Block:
        """Pass over the next window: background, but only where no other window has anything to say.

        Parameters
        ----------
        index : tuple of int
            As for `add`.
        background : (L,) float32 tensor
            Value of each of its voxels.
        device : torch.device or str
            Where the other windows' values are.
        """
        self._weights = self._weights.to(device, non_blocking=True)
        values = torch.cat([background, torch.ones(1)]).to(device, non_blocking=True)
        faint = self._weights * _FAINT
        return self._finish(values.reshape(-1, *(1,) * faint.ndim) * faint, index)

    def _finish(self, piece: Tensor, index: tuple[int, ...]) -> Block:
        """Add the weighted values of a window; the block that it finishes."""
        for number in reversed(range(len(self._axes))):
            piece = self._settle(piece, number, index)
        mean = piece[:-1].div_(piece[-1])
        place = [slice(axis.starts[n], axis.finished(n)) for axis, n in zip(self._axes, index, strict=True)]
        return Block(
            place=tuple(place[position] for position in self._back),
            values=mean.permute(0, *(1 + position for position in self._back)),
        )

    def _weighted(self, values: Tensor) -> Tensor:
        """(L + 1, *window) weighted values and the weights themselves, slowest axis first."""
        self._weights = self._weights.to(values.device, non_blocking=True)
        turned = values.detach().permute(0, *(1 + axis for axis in self.order))
        piece = torch.empty(
            (len(values) + 1, *self._weights.shape), dtype=torch.float32, device=values.device
        )
        torch.mul(turned, self._weights, out=piece[:-1])
        piece[-1] = self._weights
        return piece

    def _settle(self, piece: Tensor, number: int, index: tuple[int, ...]) -> Tensor:
        """Add what earlier windows left along one axis, keep what later ones will need, give the rest.

        Parameters
        ----------
        piece : (L + 1, ...) tensor
            Of the window along this axis and those before, finished along those after.
        """
        axis, here, columns = self._axes[number], index[number], index[number + 1 :]
        if here:
            shared = axis.starts[here - 1] + axis.window - axis.starts[here]
            if shared:
                piece.narrow(1 + number, 0, shared).add_(self._stores[number].take(columns))
        done = axis.finished(here) - axis.starts[here]
        left = axis.window - done
        if left:
            self._stores[number].put(columns, piece.narrow(1 + number, done, left))
        return piece.narrow(1 + number, 0, done)


def slowest_first(axes: Sequence[AxisPlan]) -> tuple[int, ...]:
    """The order of the axes that carries the fewest voxels."""
    return min(
        itertools.permutations(range(len(axes))),
        key=lambda order: (carried_values([axes[a] for a in order]), order),
    )


class TileStore(Protocol):
    """Keeps what neighbouring windows share until the later one comes, in its own precision."""

    def put(self, key: tuple[int, ...], tile: Tensor) -> None:
        """Keep a copy."""

    def take(self, key: tuple[int, ...]) -> Tensor:
        """Give what was put there last, and keep it no longer."""


class MemoryTiles:
    """Tiles in memory, or that of the device."""

    def __init__(self) -> None:
        self._tiles: dict[tuple[int, ...], Tensor] = {}

    def put(self, key: tuple[int, ...], tile: Tensor) -> None:
        """Keep a copy."""
        self._tiles[key] = tile.clone(memory_format=torch.contiguous_format)

    def take(self, key: tuple[int, ...]) -> Tensor:
        """Give it away."""
        return self._tiles.pop(key)


class FileTiles:
    """Tiles in a file without a name, which goes when it is closed or the process ends.

    Parameters
    ----------
    folder : Path
        Where there is room for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._free: dict[int, list[int]] = {}
        self._kept: dict[tuple[int, ...], tuple[int, torch.Size, torch.device, torch.dtype]] = {}
        self._end = 0

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def put(self, key: tuple[int, ...], tile: Tensor) -> None:
        """Write a copy.

        Raises
        ------
        StorageError
            The disk is full.
        """
        data = tile.contiguous().cpu().numpy()
        free = self._free.get(data.nbytes)
        place = free.pop() if free else self._end
        self._end = max(self._end, place + data.nbytes)
        try:
            self._file.seek(place)
            self._file.write(data.data.cast("B"))
        except OSError as err:
            raise StorageError(
                f"{self._folder} has no room for {bytes_text(self._end)} of intermediate sums: {err.strerror or err}; "
                "free space, or allow more memory"
            ) from err
        self._kept[key] = (place, tile.shape, tile.device, tile.dtype)

    def take(self, key: tuple[int, ...]) -> Tensor:
        """Read it back; its place is used again."""
        place, shape, device, dtype = self._kept.pop(key)
        tile = torch.empty(shape, dtype=dtype)
        buffer = tile.numpy().data.cast("B")
        self._file.seek(place)
        if self._file.readinto(buffer) != len(buffer):
            raise StorageError(
                f"intermediate sums in {self._folder} cannot be read back; the disk may be failing"
            )
        self._free.setdefault(len(buffer), []).append(place)
        return tile.to(device)
