"""Occlusion maps: how much the answer in a structure changes when a box of the image is covered.

Two effects of each box are told: by how much the mean logit of the structure falls over its voxels, and by how much the
soft Dice 2 sum(p m) / (sum(p) + sum(m)) of its probabilities p with its mask m falls. A voxel gets the
mean effect of the boxes that cover it. Negative: the answer gets stronger without what lies there.

References
----------
Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014, doi:10.1007/978-3-319-10590-1_53.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.explain.target import Box, Target
from medseg.transforms.image_view import ImageView, channel_minima, mean_and_deviation

Fill = Literal["mean", "minimum"]
_SHARES = {2: 8, 3: 4}
"""Boxes of an eighth of a picture's, of a quarter of a volume's length along each axis, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occlusion:
    """Maps of the effect of covering, on the grid of the prepared image.

    Parameters
    ----------
    logit : (*sp) float32 array
        Fall of the mean logit.
    dice : (*sp) float32 array
        Fall of the soft Dice.
    boxes : int
        How many were tried.
    size : tuple of int
        Voxels of a box along each axis.
    base_logit, base_dice : float
        Of the image as it is.
    """

    logit: NDArray[np.float32]
    dice: NDArray[np.float32]
    boxes: int
    size: tuple[int, ...]
    base_logit: float
    base_dice: float


@dataclass(slots=True)
class _Sums:
    """Sums over the voxels of windows, of the image as it is or of one per box."""

    logit: NDArray[np.float64]
    both: NDArray[np.float64]
    likely: NDArray[np.float64]


def box_size(shape: Sequence[int], size: Sequence[int] | None = None) -> tuple[int, ...]:
    """Voxels of a box along each axis; a share of the image unless given.

    Raises
    ------
    ConfigError
        Another number of axes, or a box that covers an axis wholly.
    """
    if size is None:
        return tuple(max(1, round(n / _SHARES[len(shape)])) for n in shape)
    size = tuple(size) * len(shape) if len(size) == 1 else size
    if len(size) != len(shape) or any(not 1 <= s < n for s, n in zip(size, shape, strict=False)):
        raise ConfigError(
            f"--box {' '.join(map(str, size))}: the prepared image has {' x '.join(map(str, shape))} voxels; give "
            "one number, or one per axis, each below the length of the axis"
        )
    return tuple(int(s) for s in size)


def boxes_of(shape: Sequence[int], size: Sequence[int]) -> list[Box]:
    """Boxes that cover an image, each axis stepped by half a box; those at the end are moved in."""
    starts = []
    for n, s in zip(shape, size, strict=True):
        step = max(1, s // 2)
        starts.append(sorted({min(k, n - s) for k in range(0, n - s + step, step)}))
    return [tuple(slice(a, a + s) for a, s in zip(c, size, strict=True)) for c in itertools.product(*starts)]


def occlusion_maps(
    network: nn.Module,
    view: ImageView,
    target: Target,
    *,
    size: Sequence[int] | None = None,
    fill: Fill = "mean",
    window: Sequence[int] | None = None,
    overlap: float = 0.5,
    batch_size: int = 8,
) -> Occlusion:
    """Cover box after box and see what becomes of a structure; `batch_size` windows in memory at a time.

    Parameters
    ----------
    network : nn.Module
        (B, C, *sp) -> (B, L, *sp) logits, in evaluation mode.
    view : ImageView
        (C, *sp) prepared image.
    target : Target
    size : sequence of int, optional
        Voxels of a box.
    fill : {"mean", "minimum"}, optional
        What covers a box: the mean or the minimum of each channel.
    window, overlap : optional
        As for `seg_grad_cam`; a voxel counts as often as windows show it.
    batch_size : int, optional
    """
    chosen = box_size(view.shape, size)
    boxes = boxes_of(view.shape, chosen)
    values = _fill_values(view, fill)
    base, change = _sums(1), _sums(len(boxes))
    voxels = 0
    for place in target.windows(window, overlap=overlap):
        image = torch.from_numpy(np.ascontiguousarray(view.read(place)))
        voxels += int(target.mask[place].sum())
        own = _judge(network, image[None], target, place)
        for name in ("logit", "both", "likely"):
            getattr(base, name)[0] += getattr(own, name)[0]
        _cover(network, image, target, place, boxes, values, own, change, batch_size)
    return _maps(view.shape, boxes, chosen, base, change, voxels)


def _cover(
    network: nn.Module,
    image: Tensor,
    target: Target,
    place: Box,
    boxes: Sequence[Box],
    values: Tensor,
    own: _Sums,
    change: _Sums,
    batch_size: int,
) -> None:
    """Add to `change` what each box that reaches into a window does to it."""
    parts = [(number, part) for number, box in enumerate(boxes) if (part := _within(box, place)) is not None]
    for start in range(0, len(parts), batch_size):
        some = parts[start : start + batch_size]
        batch = image[None].repeat(len(some), *[1] * image.ndim)
        for row, (_, part) in enumerate(some):
            covered: tuple[Any, ...] = (row, slice(None), *part)
            batch[covered] = values.reshape(-1, *[1] * len(part))
        found = _judge(network, batch, target, place)
        numbers = [number for number, _ in some]
        for name in ("logit", "both", "likely"):
            getattr(change, name)[numbers] += getattr(found, name) - getattr(own, name)[0]


def _judge(network: nn.Module, batch: Tensor, target: Target, place: Box) -> _Sums:
    """(B,) sums of the structure's logits, of its probabilities in its mask, and of all its probabilities."""
    device = next(network.parameters()).device
    mask = torch.from_numpy(np.ascontiguousarray(target.mask[place])).to(device)
    with torch.inference_mode():
        logits = network(batch.to(device)).float()
        channels = sorted(set(target.channels.values()))
        likely = torch.softmax(logits, dim=1)[:, channels].sum(dim=1)
        parts = (
            target.scores(logits, place),
            (likely * mask).flatten(1).sum(dim=1),
            likely.flatten(1).sum(dim=1),
        )
    return _Sums(*(part.double().cpu().numpy() for part in parts))


def _maps(
    shape: tuple[int, ...],
    boxes: Sequence[Box],
    size: tuple[int, ...],
    base: _Sums,
    change: _Sums,
    voxels: int,
) -> Occlusion:
    def dice(both: NDArray[np.float64], likely: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2 * both / np.maximum(likely + voxels, 1e-12)

    before = dice(base.both, base.likely)
    after = dice(base.both + change.both, base.likely + change.likely)
    return Occlusion(
        logit=_spread(shape, boxes, -change.logit / max(voxels, 1)),
        dice=_spread(shape, boxes, before - after),
        boxes=len(boxes),
        size=size,
        base_logit=float(base.logit[0] / max(voxels, 1)),
        base_dice=float(before[0]),
    )


def _spread(
    shape: tuple[int, ...], boxes: Sequence[Box], effects: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Mean effect of the boxes that cover each voxel."""
    total, count = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for box, effect in zip(boxes, effects, strict=True):
        total[box] += np.float32(effect)
        count[box] += 1
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


def _within(box: Box, place: Box) -> Box | None:
    """The part of a box that lies in a window, in the window's own coordinates."""
    part = []
    for one, other in zip(box, place, strict=True):
        low, high = max(one.start, other.start), min(one.stop, other.stop)
        if low >= high:
            return None
        part.append(slice(low - other.start, high - other.start))
    return tuple(part)


def _fill_values(view: ImageView, fill: Fill) -> Tensor:
    if fill == "minimum":
        return torch.from_numpy(channel_minima(view))
    return torch.tensor([mean for _, mean, _ in mean_and_deviation(view)], dtype=torch.float32)


def _sums(count: int) -> _Sums:
    return _Sums(*(np.zeros(count) for _ in range(3)))
