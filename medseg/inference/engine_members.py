"""Engines of the members of a predictor, opened when they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.inference.engines import Engine, EngineSpec, open_engine
from medseg.inference.members import Members
from medseg.inference.options import EngineName

Shape = tuple[int, ...]
# Sizes of windows whose engines stay open.
_MOST_SIZES = 4


class MemberEngines:
    """Opens an engine for a member and a size of windows.

    Where members stay in memory their engines do, too; else there is one at a time, opened for each batch from what is
    kept on disk.

    Parameters
    ----------
    members : Members
    weights : str
        Digest of the networks and all their weights; without one nothing is kept on disk.
    in_channels : int
    threads : int
    folder : Path or None
        Where compiled networks are kept.
    """

    def __init__(
        self, members: Members, *, weights: str, in_channels: int, threads: int, folder: Path | None
    ) -> None:
        self._members, self._weights = members, weights
        self._in_channels, self.threads = in_channels, threads
        self.folder = folder if weights else None
        self._calibration: dict[Shape, tuple[NDArray[np.float32], ...]] = {}
        self._kept: dict[tuple[EngineName, Shape], dict[int, Engine]] = {}

    def __len__(self) -> int:
        return len(self._members)

    @contextlib.contextmanager
    def engine(self, name: EngineName, position: int, window: Shape) -> Iterator[Engine]:
        """The engine of one member for windows of a size, for as long as the block runs."""
        found = self._kept.get(_place(name, window), {}).get(position)
        if found is None:
            found = self.open(name, position, window)
            self.keep(found, name, position, window)
        try:
            yield found
        finally:
            del found

    def open(self, name: EngineName, position: int, window: Shape) -> Engine:
        """Open an engine anew.

        Raises
        ------
        EngineFailure
            It cannot run the network.
        MissingPackageError
            It is not installed.
        """
        spec = EngineSpec(
            window=window,
            in_channels=self._in_channels,
            threads=self.threads,
            weights=f"{self._weights}:{position}",
            folder=self.folder,
            calibration=self._calibration.get(window, ()),
        )
        # What is loaded here may be exported, for which tensors made in inference mode are of no use.
        with torch.inference_mode(False):
            return open_engine(name, partial(self._members.network, position), spec)

    def keep(self, engine: Engine, name: EngineName, position: int, window: Shape) -> None:
        """Keep an open engine, where members stay in memory."""
        if not self._members.kept:
            return
        self._kept.setdefault(_place(name, window), {})[position] = engine
        sizes = [place for place in self._kept if place[1]]
        for place in sizes[: max(0, len(sizes) - _MOST_SIZES)]:
            del self._kept[place]

    def calibrate(self, window: Shape, windows: Sequence[Tensor]) -> None:
        """Windows of images that eight-bit engines take their ranges from."""
        self._calibration[window] = tuple(np.array(shown.numpy(), np.float32) for shown in windows)


def _place(name: EngineName, window: Shape) -> tuple[EngineName, Shape]:
    """torch takes windows of any size."""
    return (name, () if name == "torch" else window)
