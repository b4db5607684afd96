"""Maps beside the mask, on the grid of the image: entropy, disagreement, variance, probabilities; block by block."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import StorageError
from medseg.geometry import GridMap
from medseg.inference.confidence import normalised_entropy
from medseg.inference.options import MapName
from medseg.inference.spread import SPREAD
from medseg.labels import LabelTable
from medseg.transforms.block_restore import BlockRestorer, Box, SourceBlock

STEPS = 255
"""A value of 1 in the stored maps."""


class SourceMaps:
    """The maps of one image, (*source) uint8 each.

    Parameters
    ----------
    names : sequence of MapName
        Disagreement and variance are left out where there is one network.
    shape : sequence of int
        Voxels of the source.
    table : LabelTable
    members : int
        Networks.
    folder : Path, optional
        Where the maps lie in files without names; in memory unless given.
    """

    def __init__(
        self,
        names: Sequence[MapName],
        shape: Sequence[int],
        *,
        table: LabelTable,
        members: int,
        folder: Path | None = None,
    ) -> None:
        self._names = tuple(n for n in names if n not in SPREAD or members > 1)
        self._table = table
        self._plain = tuple(str(n) for n in ("entropy", *SPREAD) if n in self._names)
        kept = list(self._plain)
        if "probabilities" in self._names:
            kept += [f"probability_{name}" for name in table.names[1:]]
        self.arrays: dict[str, NDArray[np.uint8]] = {name: _array(tuple(shape), folder) for name in kept}
        """By name, in steps of 1 / 255; 0 where the network did not look."""

    @property
    def class_count(self) -> int:
        """L."""
        return self._table.class_count

    def with_channels(self, values: Tensor, spread: Tensor) -> Tensor:
        """(L, *place) probabilities and (0 or 2, *place) spread -> with a channel for each map beside probabilities."""
        more = [
            normalised_entropy(values) if name == "entropy" else spread[SPREAD.index(name)]
            for name in self._plain
        ]
        return torch.cat([values, *(channel[None] for channel in more)])

    def labels(self, block: SourceBlock) -> Tensor:
        """Write the maps of a block; its most probable classes."""
        count = self._table.class_count
        for number, name in enumerate(self._plain):
            self._write(name, block.place, block.interpolate(count + number))
        if "probabilities" in self._names:
            for index, name in enumerate(self._table.names[1:], start=1):
                self._write(f"probability_{name}", block.place, block.interpolate(index))
        return replace(block, values=block.values[:count]).winners()

    def _write(self, name: str, place: Box, values: Tensor) -> None:
        array = self.arrays[name]
        array[place] = values.clamp(0, 1).mul(STEPS).round_().to(torch.uint8).numpy()
        if isinstance(array, np.memmap):
            _forget(array)


def restore_with_maps(
    blocks: Iterator[tuple[Box, Tensor]], grid: GridMap, *, order: Sequence[int], maps: SourceMaps
) -> NDArray[Any]:
    """`block_restore.restore_blocks`, and the maps on the way.

    Parameters
    ----------
    blocks : iterator of (place, (L + maps, *place) float32 tensor)
        As `SourceMaps.with_channels` makes them.
    grid, order
        See `restore_blocks`.
    maps : SourceMaps
        Filled.
    """
    count = maps.class_count
    restored = np.zeros(grid.source_shape, dtype=np.uint8 if count <= 256 else np.int16)
    restorer = BlockRestorer(grid, order)
    for place, values in blocks:
        for block in restorer.add(place, values):
            restored[block.place] = maps.labels(block).numpy()
    return restored


def _array(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.uint8]:
    if folder is None:
        return np.zeros(shape, dtype=np.uint8)
    size = int(np.prod(shape, dtype=np.int64))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(max(1, size))
            # The map keeps the file after it is closed; in Fortran order, as NIfTI is written.
            return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape, order="F")
    except OSError as err:
        raise StorageError(
            f"{folder} has no room for a map of {size >> 20} MiB: {err.strerror or err}; free space, or "
            "ask for fewer maps"
        ) from err


def _forget(array: np.memmap[Any, Any]) -> None:
    """Give the pages of a map back to the system, which writes them to its file."""
    pages = getattr(array, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
