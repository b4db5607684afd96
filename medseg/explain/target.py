"""What is explained: the voxels of one structure in a mask, and the score that a network gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import ConfigError
from medseg.inference.sliding_window import window_slices
from medseg.labels import LabelTable

Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One structure of one mask, on the grid of the prepared image.

    Parameters
    ----------
    name : str
        Label or region.
    channels : mapping of int to int
        Class index -> channel of the network's answer, for each class of the structure.
    classes : (*sp) integer array
        Class index of each voxel of the structure, 0 elsewhere.
    """

    name: str
    channels: dict[int, int]
    classes: NDArray[Any]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(*sp) where the structure is."""
        return np.asarray(self.classes > 0)

    def windows(self, window: Sequence[int] | None, *, overlap: float) -> Iterator[Box]:
        """Windows of the image that show any of the structure; the whole image where there is no window."""
        shape = self.classes.shape
        size = tuple(min(n, w) for n, w in zip(shape, window or shape, strict=True))
        for box in window_slices(shape, size, overlap):
            if self.classes[box].any():
                yield box

    def scores(self, logits: Tensor, box: Box) -> Tensor:
        """Sum of the logits of the structure's classes over its voxels.

        Parameters
        ----------
        logits : (B, C, *window) tensor
            The network's answer to a window.
        box : tuple of slice
            Where the window lies.

        Returns
        -------
        (B,) tensor
        """
        classes = torch.from_numpy(np.ascontiguousarray(self.classes[box])).to(logits.device)
        total = logits.new_zeros(logits.shape[0])
        for index, channel in self.channels.items():
            total = total + (logits[:, channel] * (classes == index)).flatten(1).sum(dim=1)
        return total


def structure_channels(table: LabelTable, name: str, regions: Sequence[int] = ()) -> dict[int, int]:
    """Class index -> channel of the network for a label or region.

    Parameters
    ----------
    table : LabelTable
    name : str
    regions : sequence of int, optional
        Where channels are regions, the class that each of them writes (`ClassChoice`).

    Raises
    ------
    ConfigError
        The table has no such label or region; the message lists those that it has.
    """
    known = table.region_classes()
    if name not in known:
        raise ConfigError(f"--label {name}: the model has no such label or region; it has {', '.join(known)}")
    if not regions:
        return {index: index for index in known[name]}
    written = {index: channel for channel, index in enumerate(regions)}
    return {index: written[index] for index in known[name]}


def target_of(
    label_map: NDArray[Any], table: LabelTable, name: str, *, regions: Sequence[int] = ()
) -> Target:
    """The voxels of a label or region in a mask.

    Parameters
    ----------
    label_map : (*sp) integer array
        Class indices, on the grid of the prepared image.
    table, name, regions
        As for `structure_channels`.

    Raises
    ------
    ConfigError
        There is no such structure, or the mask has none of it.
    """
    channels = structure_channels(table, name, regions)
    classes = np.where(np.isin(label_map, list(channels)), label_map, 0).astype(np.int16)
    if not classes.any():
        raise ConfigError(
            f"--label {name}: the model found none of it in this image, so there is nothing to explain; "
            "choose a label that is in the mask"
        )
    return Target(name=name, channels=channels, classes=classes)
