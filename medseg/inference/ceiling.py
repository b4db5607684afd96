"""What a prediction takes of the memory, and how it is made to fit below a ceiling.

Three things can give way without changing the result: windows are shown to the network one by one, the prepared
image is made window by window from its source, and the sums that windows share wait in a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medseg.amounts import bytes_text
from medseg.errors import ConfigError
from medseg.geometry import GridMap
from medseg.inference.sliding_window import Sweep
from medseg.memory import ResidentPeak, return_free_memory
from medseg.transforms.block_restore import BlockRestorer

_FLOAT = 4
# A label of each prepared and of each source voxel.
_LABEL_BYTES = 1
# The label map is copied once for clean-up, of which slabs are looked at; the writers have buffers.
_AFTER_BYTES = 1
_SLABS_BYTES = 120 << 20
# A source voxel of a block that is interpolated: its class, the largest value, the next one and what it is made of.
_BLOCK_BYTES = 18
# A window's probabilities, their weighted copy, and the copy that the softmax or a mirrored version needs.
_WINDOW_COPIES = 3
# What the allocator does not give back, as a part of all that is allocated.
_SLACK = 1.08
# Part of a ceiling that is left free for what is not foreseen: 2.04 GB were taken once where 1.94 were expected.
_SPARE = 0.05
_TICK_S = 0.002
_NO_CEILING = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What an image and a network ask for.

    Parameters
    ----------
    source_voxels, prepared_voxels : int
        Of one channel.
    in_channels, class_count : int
    window : tuple of int
    batch_size : int
        Windows that the settings show at once.
    carried : int
        Voxels that windows share at most, see `window_blend.carried_values`.
    rim : int
        Voxels of rims for the interpolation.
    network_bytes : int
        What the network takes for one window and its answer.
    block_voxels : int
        Source voxels of the largest block that is interpolated at once.
    probability_bytes : int, optional
        Of each prepared voxel, of the winning class and of the regions that hold it (`ConfidenceTally`).
    """

    source_voxels: int
    prepared_voxels: int
    in_channels: int
    class_count: int
    window: tuple[int, ...]
    batch_size: int
    carried: int
    rim: int
    network_bytes: int
    block_voxels: int
    probability_bytes: int = 2

    @property
    def carried_bytes(self) -> int:
        """Of the sums that windows share."""
        return _FLOAT * (self.class_count + 1) * self.carried

    @property
    def answer_bytes(self) -> int:
        """Of what the network says of one window."""
        return _FLOAT * self.class_count * math.prod(self.window)

    @property
    def prepared_bytes(self) -> int:
        """Of the whole prepared image."""
        return _FLOAT * self.in_channels * self.prepared_voxels

    @property
    def least_bytes(self) -> int:
        """With nothing kept that can be made again or lie in a file."""
        return self.bytes_with()

    def bytes_with(self, *, batch_size: int = 1, kept_bytes: int = 0) -> int:
        """What a prediction takes beyond what is taken.

        Parameters
        ----------
        batch_size : int, optional
        kept_bytes : int, optional
            Of what is kept from one window to the next.
        """
        tally = (_LABEL_BYTES + self.probability_bytes) * self.prepared_voxels
        maps = tally + _LABEL_BYTES * self.source_voxels
        # One comes after the other.
        shown, cleaned = (
            self._windows_bytes(batch_size) + kept_bytes,
            _AFTER_BYTES * self.source_voxels + _SLABS_BYTES,
        )
        return round(_SLACK * (maps + max(shown, cleaned)))

    def _windows_bytes(self, batch_size: int) -> int:
        """While windows are shown and blocks go back to the grid of the file."""
        voxels = math.prod(self.window) * _FLOAT
        answer = voxels * (self.class_count + 1)
        # The windows of the next run are cut while this one is computed; what is blended was computed before.
        shown = 2 * voxels * self.in_channels + max(self.network_bytes, _WINDOW_COPIES * answer)
        planes = _FLOAT * self.class_count * self.rim
        # A tile that waits in a file is in memory while it is written or read.
        return batch_size * shown + planes + answer + _BLOCK_BYTES * self.block_voxels


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a prediction is made to fit.

    Parameters
    ----------
    batch_size : int
        Windows that are shown at once.
    keep_bytes : float
        Size up to which the prepared image is kept.
    in_file : bool
        Whether shared sums wait in a file.
    reuse : bool
        Whether the answer to an empty window is kept for the next.
    bytes : int
        What it is expected to take beyond what is taken already.
    """

    batch_size: int
    keep_bytes: float
    in_file: bool
    bytes: int
    reuse: bool = True


def fit(demand: Demand, *, max_bytes: int, taken_bytes: int) -> Fit:
    """The fastest way that stays below a ceiling.

    Parameters
    ----------
    demand : Demand
    max_bytes : int
        Ceiling of the whole process.
    taken_bytes : int
        What it holds already: program, network, source image.

    Raises
    ------
    ConfigError
        Nothing would; names the smallest ceiling that does.
    """
    room = round((1 - _SPARE) * max_bytes) - taken_bytes
    if demand.least_bytes > room:
        raise too_low(
            max_bytes,
            taken_bytes + demand.least_bytes,
            f"{bytes_text(taken_bytes)} are taken by program, network and image",
        )
    kept, chosen = 0, []
    for part in (demand.carried_bytes, demand.prepared_bytes, demand.answer_bytes):
        chosen.append(demand.bytes_with(kept_bytes=kept + part) <= room)
        kept += part if chosen[-1] else 0
    shared, keeps, reuse = chosen
    batch = demand.batch_size
    while batch > 1 and demand.bytes_with(batch_size=batch, kept_bytes=kept) > room:
        batch -= 1
    return Fit(
        batch_size=batch,
        keep_bytes=math.inf if keeps else 0,
        in_file=not shared,
        reuse=reuse,
        bytes=demand.bytes_with(batch_size=batch, kept_bytes=kept),
    )


def too_low(max_bytes: int, least_bytes: int, why: str) -> ConfigError:
    """A ceiling that holds nothing, with the smallest that would.

    Parameters
    ----------
    max_bytes, least_bytes : int
        Of the whole process: allowed, expected.
    why : str
        What else a reader should know, a phrase.
    """
    ceiling = least_ceiling(least_bytes)
    # As it is written, it must be enough.
    step = 1e8 if ceiling > 9.5e8 else 5e7
    needed = bytes_text(math.ceil(ceiling / step) * step)
    return ConfigError(
        f"max_ram is {bytes_text(max_bytes)}, but this image takes at least {needed} with this model ({why}); set it "
        f"to {needed.replace(' ', '')} or more"
    )


def least_ceiling(least_bytes: int) -> int:
    """The smallest ceiling below which so much may be expected."""
    return math.ceil(least_bytes / (1 - _SPARE))


def expected_bytes(demand: Demand, *, max_bytes: int | None, taken_bytes: int) -> int:
    """What a prediction will take beyond what is taken, done as `fit` says; without a ceiling nothing gives way."""
    try:
        return fit(
            demand, max_bytes=_NO_CEILING if max_bytes is None else max_bytes, taken_bytes=taken_bytes
        ).bytes
    except ConfigError:
        return demand.least_bytes


def demand_of(
    sweep: Sweep, grid: GridMap, *, in_channels: int, class_count: int, network_bytes: int
) -> Demand:
    """What a sweep over a prepared image asks for.

    Parameters
    ----------
    sweep : Sweep
    grid : GridMap
        From the source to the prepared image.
    in_channels, class_count : int
    network_bytes : int
        See `Demand`.
    """
    blocks = [max(axis.finished(n) - start for n, start in enumerate(axis.starts)) for axis in sweep.axes]
    return Demand(
        source_voxels=math.prod(grid.source_shape),
        prepared_voxels=math.prod(sweep.size),
        in_channels=in_channels,
        class_count=class_count,
        window=sweep.window,
        batch_size=sweep.batch_size,
        carried=sweep.carried,
        # Ways back that do not smooth keep no more.
        rim=BlockRestorer(grid, sweep.order).kept_values(blocks),
        network_bytes=network_bytes,
        block_voxels=_block_voxels(grid, blocks),
    )


def _block_voxels(grid: GridMap, block: Sequence[int]) -> int:
    """Source voxels that a block of the prediction becomes at most."""
    sizes = (
        min(grid.source_shape[axis], math.ceil(abs(scale) * n) + 1)
        for n, (axis, scale, _) in zip(block, grid.axis_maps(), strict=True)
    )
    return math.prod(sizes)


def extra_bytes(work: Callable[[], object]) -> int:
    """Largest resident memory while a function runs, beyond what was resident before."""
    # Memory that is free but not given back would be taken again unseen.
    return_free_memory()
    with ResidentPeak(every_s=_TICK_S) as peak:
        work()
    return peak.extra_bytes
