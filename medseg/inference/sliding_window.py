"""Windows over an image larger than the network sees at once, blended to probabilities block by block."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.errors import ConfigError
from medseg.inference.options import TtaName
from medseg.inference.ordered_blend import OrderedBlend, half_weights
from medseg.inference.window_batches import Choice, WindowBatches
from medseg.inference.window_blend import (
    AxisPlan,
    Block,
    Box,
    TileStore,
    WindowBlend,
    carried_values,
    plan_axes,
    slowest_first,
)

Blend = Literal["gaussian", "constant"]
Network = Callable[[Tensor], Tensor]
Read = Callable[[Box], Tensor]

SIGMA = 0.125
"""Standard deviation of the blending weights as a part of the window."""

LEAST_WEIGHT = 1e-3
"""No voxel of a window counts less than this, so that a sum of weights is never zero."""

# Logits of so many values are turned into probabilities in place, so many rows at a time.
_OVERWRITTEN = 1 << 23
_ROWS = 8

GAMMAS = (0.75, 1.33)
"""Exponents of the darker and brighter versions."""


def unchanged(logits: Tensor) -> Tensor:
    """(B, L, *sp) logits of any float type -> float32."""
    return logits.float()


def softmax(logits: Tensor) -> Tensor:
    """(B, L, *sp) logits of any float type -> float32 probabilities that sum to one over L.

    Large float32 logits are overwritten, slice by slice: with a hundred classes a second copy is what memory ends by.
    """
    values = logits.float()
    if values.nelement() < _OVERWRITTEN or not values.is_inference() or not _is_dense(values):
        return torch.softmax(values, dim=1)
    for part in torch.split(values, _ROWS, dim=2):
        part.copy_(torch.softmax(part, dim=1))
    return values


def _is_dense(values: Tensor) -> bool:
    """Whether each value has a place of its own."""
    layout = torch.channels_last if values.ndim == 4 else torch.channels_last_3d
    return values.is_contiguous() or (values.ndim in (4, 5) and values.is_contiguous(memory_format=layout))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Windows over an image.

    Parameters
    ----------
    size : tuple of int
        Voxels of the image.
    window : tuple of int
        An image that is shorter along an axis is centred in the window.
    overlap : float
        Share of a window that its neighbour sees again, 0 to below 1.
    batch_size : int
        Windows in one run of the network.
    blend : {"gaussian", "constant"}
        Weights of a window: falling from the centre with sigma an eighth of the window, or all alike.
    even : bool
        Windows at equal distances, instead of each as far as the overlap lets it.
    ordered : bool
        Sums in float16, window after window; see `OrderedBlend`.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    overlap: float = 0.25
    batch_size: int = 4
    blend: Blend = "gaussian"
    even: bool = False
    ordered: bool = False

    @classmethod
    def over(cls, size: Sequence[int], window: Sequence[int] | None, **options: Any) -> Sweep:
        """Windows over an image of a size; None: one, of the whole image.

        Raises
        ------
        ConfigError
            The window has another number of axes.
        """
        size = tuple(int(n) for n in size)
        return cls(size=size, window=_checked_window(size, window), **options)

    @property
    def before(self) -> tuple[int, ...]:
        """Voxels of a window in front of an image that is shorter."""
        return tuple(max(w - n, 0) // 2 for n, w in zip(self.size, self.window, strict=True))

    @property
    def axes(self) -> tuple[AxisPlan, ...]:
        """Windows along each axis of the image, filled up where it is shorter than one."""
        filled = [max(n, w) for n, w in zip(self.size, self.window, strict=True)]
        return plan_axes(filled, self.window, self.overlap, even=self.even)

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from the slowest to the fastest, as the blocks come."""
        return tuple(range(len(self.size))) if self.ordered else slowest_first(self.axes)

    @property
    def carried(self) -> int:
        """Voxels whose sums wait at most, each with a float32 per channel and one for the weight."""
        if not self.ordered:
            return carried_values([self.axes[axis] for axis in self.order])
        slow, *rest = (AxisPlan(length=1, window=1, starts=(0,)), *self.axes)[-3:]
        row = slow.window * rest[0].window * rest[1].length
        # Two bytes each.
        return -(-(slow.most_carried * math.prod(axis.length for axis in rest) + 2 * row) // 2)

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(axis.starts) for axis in self.axes)

    def sums_bytes(self, channels: int) -> int:
        """Memory of the sums that windows share, and of the windows of one run."""
        window = self.batch_size * math.prod(self.window)
        return 4 * (channels + 1) * (self.carried + 3 * window)

    @property
    def fills_up(self) -> bool:
        """Whether the image is shorter than the window along an axis."""
        return any(n < w for n, w in zip(self.size, self.window, strict=True))

    def blocks(
        self,
        read: Read,
        ask: Network,
        *,
        filling: float = 0.0,
        store: TileStore | None = None,
        choice: Choice | None = None,
        background: Tensor | None = None,
        sums_device: torch.device | None = None,
    ) -> Iterator[Block]:
        """Blend what `ask` makes of each window; every voxel of the image comes once, in finished blocks.

        Parameters
        ----------
        read : callable
            Box of the image -> (C, *box) float tensor.
        ask : callable
            (B, C, *window) tensor -> (B, L, *window) float32 tensor.
        filling : float, optional
            What an image that is shorter than the window is filled up with.
        store : TileStore, optional
            See `WindowBlend`.
        choice : Choice, optional
            Which windows are shown; each of them unless given.
        background : (L,) tensor, optional
            Answer to each voxel of a window that the choice leaves out.
        sums_device : torch.device, optional
            Where windows are summed; where `ask` leaves them unless given.
        """
        blend: WindowBlend | OrderedBlend
        if self.ordered:
            blend = OrderedBlend(self.axes, half_weights(self.window), store=store)
        else:
            weights = importance(self.window, blend=self.blend if self.count > 1 else "constant")
            blend = WindowBlend(self.axes, weights, order=self.order, store=store)
        choice = choice or Choice()
        if choice.wanted is not None and (background is None or isinstance(blend, OrderedBlend)):
            raise ValueError(
                "windows are left out where it is known what stands for them, and sums are float32"
            )
        batches = WindowBatches(
            lambda place: self._cut(read, place, filling), ask, size=self.batch_size, choice=choice
        )
        for index, found in batches.answers(blend.places()):
            if found is not None:
                block = blend.add(index, found if sums_device is None else found.to(sums_device))
            elif background is not None and isinstance(blend, WindowBlend):
                block = blend.skip(index, background, device=sums_device or "cpu")
            yield self._inside(block)

    def _cut(self, read: Read, place: Box, filling: float) -> Tensor:
        """One window of the image, filled up where the image is shorter."""
        inner, sides = [], []
        for n, w, b, along in zip(self.size, self.window, self.before, place, strict=True):
            inner.append(along if n >= w else slice(0, n))
            sides.append((b, max(w - n, 0) - b))
        part = read(tuple(inner))
        if not any(itertools.chain(*sides)):
            return part
        return F.pad(part, [n for pair in reversed(sides) for n in pair], value=filling)

    def _inside(self, block: Block) -> Block:
        """A block without what filled the image up."""
        if not self.fills_up:
            return block
        place, cut = [], []
        for n, b, part in zip(self.size, self.before, block.place, strict=True):
            start, stop = max(part.start - b, 0), min(part.stop - b, n)
            place.append(slice(start, stop))
            cut.append(slice(start + b - part.start, stop + b - part.start))
        return Block(place=tuple(place), values=block.values[(slice(None), *cut)])


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

    For images whose probabilities need not be bounded in memory; `Sweep.blocks` gives the same in parts.

    Parameters
    ----------
    image : (C, *sp) float tensor
        Prepared image, two or three spatial axes.
    network : callable
        (B, C, *window) -> (B, L, *window) logits; the caller sees to evaluation and inference mode.
    window : sequence of int or None
        Voxels along each axis. None: the whole image.
    overlap, batch_size, blend
        See `Sweep`.
    tta, flip_axes, side_axis, mirror_classes, activation
        See `with_copies`.

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
    sweep = Sweep.over(image.shape[1:], window, overlap=overlap, batch_size=batch_size, blend=blend)
    ask = with_copies(
        network,
        copies(
            image.ndim - 1, lambda: (float(image.min()), float(image.max())), tta=tta, flip_axes=flip_axes
        ),
        activation=activation,
        side_axis=side_axis,
        mirror_classes=mirror_classes,
    )
    filling = float(image.min()) if sweep.fills_up else 0.0
    return joined(sweep.blocks(lambda box: image[(slice(None), *box)], ask, filling=filling), sweep.size)


def joined(blocks: Iterator[Block], size: Sequence[int]) -> Tensor:
    """(L, *size) tensor of all blocks."""
    whole: Tensor | None = None
    for block in blocks:
        if whole is None:
            whole = block.values.new_empty((len(block.values), *size))
        whole[(slice(None), *block.place)] = block.values
    if whole is None:
        raise ValueError("there is no block")
    return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One version of a window that the network is shown.

    Parameters
    ----------
    change : callable
        Changes intensities of a window.
    axes : tuple of int
        Spatial axes along which it is mirrored.
    """

    change: Callable[[Tensor], Tensor]
    axes: tuple[int, ...] = ()


def copies(
    dims: int,
    value_range: Callable[[], tuple[float, float]],
    *,
    tta: Sequence[TtaName] = (),
    flip_axes: Sequence[int] = (0,),
) -> tuple[Copy, ...]:
    """The versions that test-time augmentation asks for; the window itself is the first.

    Parameters
    ----------
    dims : int
        Axes of the image.
    value_range : callable
        Least and largest value of the whole image, so that a window is altered as its neighbours are; asked where
        it matters.
    tta : sequence of {"flip", "gamma", "invert"}
        Every combination of `flip_axes` is mirrored; gamma and invert act on the image brought to [0, 1] by its
        own range.
    flip_axes : sequence of int
        Spatial axes of "flip".
    """
    flips = _flips(dims, flip_axes) if "flip" in tta else [()]
    return tuple(
        Copy(change=change, axes=axes) for change in _intensities(value_range, tta) for axes in flips
    )


def with_copies(
    network: Network,
    versions: Sequence[Copy],
    *,
    activation: Callable[[Tensor], Tensor] = softmax,
    side_axis: int | None = 0,
    mirror_classes: Sequence[int] | None = None,
) -> Network:
    """A network whose answer is the mean over versions of what it is shown, each mirrored back.

    Parameters
    ----------
    network : callable
        (B, C, *window) -> (B, L, *window) logits.
    versions : sequence of Copy
    activation : callable
        Logits to what is averaged.
    side_axis : int or None
        The left-right axis, along which a mirrored body swaps its sides; None where there is none.
    mirror_classes : sequence of L int, or None
        Class index after the body is mirrored left to right (`LabelTable.mirror_classes`).
    """

    places: dict[torch.device, Tensor] = {}

    def mirrored_places(device: torch.device) -> Tensor | None:
        if mirror_classes is None:
            return None
        if device not in places:
            places[device] = torch.tensor(list(mirror_classes)).to(device, non_blocking=True)
        return places[device]

    def ask(batch: Tensor) -> Tensor:
        total: Tensor | None = None
        for version in versions:
            swaps = side_axis is not None and side_axis in version.axes
            mirror = mirrored_places(batch.device) if swaps else None
            found = _mirrored_run(
                network, activation, version.change(batch), axes=version.axes, mirror=mirror
            )
            total = found if total is None else total.add_(found)
        if total is None:
            raise ValueError("there is no version to show")
        return total.div_(len(versions)) if len(versions) > 1 else total

    return ask


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


def _intensities(
    value_range: Callable[[], tuple[float, float]], tta: Sequence[TtaName]
) -> list[Callable[[Tensor], Tensor]]:
    versions: list[Callable[[Tensor], Tensor]] = [lambda x: x]
    if not {"gamma", "invert"} & set(tta):
        return versions
    low, high = value_range()
    width = max(high - low, torch.finfo(torch.float32).tiny)

    def darker_or_brighter(gamma: float) -> Callable[[Tensor], Tensor]:
        return lambda x: ((x - low) / width).clamp(0, 1) ** gamma * width + low

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
    mirror: Tensor | None,
) -> Tensor:
    dims = [axis + 2 for axis in axes]
    found = activation(network(batch.flip(dims) if dims else batch))
    if dims:
        found = found.flip(dims)
    # In a mirrored body the left lung looks like a right one: class c was seen as its mirror.
    return found if mirror is None else found[:, mirror]
