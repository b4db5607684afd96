"""Maps beside the mask, on the grid of the image: entropy, disagreement, variance, probabilities; block by block."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import StorageError
from medseg.inference.confidence import normalised_entropy
from medseg.inference.options import MapName
from medseg.inference.spread import SPREAD
from medseg.labels import LabelTable
from medseg.transforms.block_restore import Box, SourceBlock
from medseg.transforms.class_choice import ClassChoice

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
    choice : ClassChoice, optional
        How their values become classes.
    folder : Path, optional
        Where the maps lie in files without names; in memory unless given.
    apart : bool, optional
        Whether probabilities are other values than those that the mask is chosen by.
    """

    def __init__(
        self,
        names: Sequence[MapName],
        shape: Sequence[int],
        *,
        table: LabelTable,
        members: int,
        choice: ClassChoice | None = None,
        folder: Path | None = None,
        apart: bool = False,
    ) -> None:
        self._choice = choice or ClassChoice()
        self._plain = tuple(
            str(n) for n in ("entropy", *SPREAD) if n in names and (n not in SPREAD or members > 1)
        )
        self._structures = (
            {f"probability_{name}": index for index, name in enumerate(table.names[1:], start=1)}
            if "probabilities" in names
            else {}
        )
        # Values that are probabilities of classes are interpolated for the mask anyway.
        self._apart = apart or self._choice.scale != "probabilities" or bool(self._choice.regions)
        self._shape, self._folder = tuple(shape), folder

    @cached_property
    def arrays(self) -> dict[str, NDArray[np.uint8]]:
        """By name, in steps of 1 / 255; 0 where the network did not look."""
        return {name: _array(self._shape, self._folder) for name in (*self._plain, *self._structures)}

    @property
    def channels(self) -> int:
        """Channels that `with_channels` adds."""
        return len(self._plain) + (len(self._structures) if self._apart else 0)

    def with_channels(self, values: Tensor, probabilities: Tensor, spread: Tensor | None) -> Tensor:
        """The values of a block, and behind them those of the maps.

        Parameters
        ----------
        values : (C, *place) float32 tensor
            What the mask is chosen by.
        probabilities : (L, *place) float32 tensor
            Of the classes.
        spread : (2, *place) float32 tensor or None
            See `MemberSpread`.
        """
        more = []
        for name in self._plain:
            if name == "entropy":
                more.append(normalised_entropy(probabilities)[None])
            elif spread is not None:
                more.append(spread[SPREAD.index(name)][None])
        if self._apart and self._structures:
            more.append(probabilities[1:])
        return torch.cat([values, *more])

    def winners(self, block: SourceBlock) -> Tensor:
        """Write the maps of a block that `with_channels` made; class of each of its voxels."""
        first = len(block.values) - self.channels
        for channel, name in enumerate(self._plain, start=first):
            self._write(name, block.place, block.interpolate(channel))
        before = first + len(self._plain) - 1 if self._apart else 0
        for name, index in self._structures.items():
            self._write(name, block.place, block.interpolate(before + index))
        return self._choice.winners(replace(block, values=block.values[:first]))

    def _write(self, name: str, place: Box, values: Tensor) -> None:
        array = self.arrays[name]
        array[place] = values.clamp(0, 1).mul(STEPS).round_().to(torch.uint8).numpy()
        if isinstance(array, np.memmap):
            _forget(array)


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
