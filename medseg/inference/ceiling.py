"""What a prediction takes of the memory, and how it is made to fit below a ceiling.

Three things can give way without changing the result: windows are shown to the network one by one, the prepared
image is made window by window from its source, and the sums that windows share wait in a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from medseg.amounts import bytes_text
from medseg.errors import ConfigError
from medseg.geometry import GridMap
from medseg.inference.sliding_window import Sweep
from medseg.memory import ResidentPeak, return_free_memory
from medseg.transforms.block_restore import BlockRestorer

_FLOAT = 4
# A label and a winning probability of each prepared voxel (`ConfidenceTally`), a label of each source voxel.
_TALLY_BYTES = 3
_LABEL_BYTES = 1
# The label map is copied once for clean-up; slabs of components and of interpolation, buffers of the writers.
_AFTER_BYTES = 1
_SLABS_BYTES = 120 << 20
# A window's probabilities, their weighted copy, and the copy that the softmax or a mirrored version needs.
_WINDOW_COPIES = 3
# What the allocator does not give back, as a part of all that is allocated.
_SLACK = 1.08
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
        What the network takes for one window, beyond window and answer.
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

    def least_bytes(self, *, batch_size: int = 1) -> int:
        """With nothing kept that can be made again or lie in a file."""
        window = math.prod(self.window) * _FLOAT
        # The windows of the next run are cut while this one is computed.
        shown = batch_size * (
            window * (2 * self.in_channels + _WINDOW_COPIES * (self.class_count + 1)) + self.network_bytes
        )
        planes = _FLOAT * self.class_count * self.rim
        maps = _TALLY_BYTES * self.prepared_voxels + (_LABEL_BYTES + _AFTER_BYTES) * self.source_voxels
        # A tile that waits in a file is in memory while it is written or read.
        return round(_SLACK * (shown + planes + maps + _SLABS_BYTES + window * (self.class_count + 1)))


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
    room = max_bytes - taken_bytes
    least = demand.least_bytes()
    if least > room:
        raise too_low(
            max_bytes,
            taken_bytes + least,
            f"{bytes_text(taken_bytes)} are taken by program, network and image",
        )
    in_file = least + demand.carried_bytes > room
    taken = least + (0 if in_file else demand.carried_bytes)
    keeps = taken + demand.prepared_bytes <= room
    taken += demand.prepared_bytes if keeps else 0
    reuse = taken + demand.answer_bytes <= room
    taken += demand.answer_bytes if reuse else 0
    batch = demand.batch_size
    while batch > 1 and taken - least + demand.least_bytes(batch_size=batch) > room:
        batch -= 1
    taken += demand.least_bytes(batch_size=batch) - least
    return Fit(
        batch_size=batch, keep_bytes=math.inf if keeps else 0, in_file=in_file, reuse=reuse, bytes=taken
    )


def too_low(max_bytes: int, least_bytes: int, why: str) -> ConfigError:
    """A ceiling that holds nothing, with the smallest that would.

    Parameters
    ----------
    max_bytes, least_bytes : int
        Of the whole process: allowed, needed.
    why : str
        What else a reader should know, a phrase.
    """
    needed = bytes_text(math.ceil(least_bytes / 5e7) * 5e7)
    return ConfigError(
        f"max_ram is {bytes_text(max_bytes)}, but this image takes at least {needed} with this model ({why}); set it "
        f"to {needed.replace(' ', '')} or more"
    )


def expected_bytes(demand: Demand, *, max_bytes: int | None, taken_bytes: int) -> int:
    """What a prediction will take beyond what is taken, done as `fit` says; without a ceiling nothing gives way."""
    try:
        return fit(
            demand, max_bytes=_NO_CEILING if max_bytes is None else max_bytes, taken_bytes=taken_bytes
        ).bytes
    except ConfigError:
        return demand.least_bytes()


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
    )


def extra_bytes(work: Callable[[], object]) -> int:
    """Largest resident memory while a function runs, beyond what was resident before."""
    # Memory that is free but not given back would be taken again unseen.
    return_free_memory()
    with ResidentPeak(every_s=_TICK_S) as peak:
        work()
    return peak.extra_bytes
