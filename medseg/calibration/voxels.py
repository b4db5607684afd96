"""Probabilities of one case against its reference, gathered block by block while the network is asked.

Which voxels count: those of the box around a structure in the reference, a margin wider on every side, and, wherever
they are, those that the network gives the structure with a probability of at least one half. Empty background far
away, which every network knows, would make any number look good; a structure invented far away must not hide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medseg.calibration.reliability import ReliabilitySums
from medseg.calibration.sizes import told
from medseg.geometry import GridMap
from medseg.inference.blended_ensemble import BlendedBlock
from medseg.inference.postprocess import bounding_box
from medseg.labels import LabelTable
from medseg.tilt import Shear, straighten_labels
from medseg.transforms.regrid import label_to_grid
from medseg.volume import Volume

MARGIN_MM = 3.0
MARGIN_SHARE = 0.02
"""Margin where the spacing is not known, as a share of the longest side of the image."""
MOST_SAMPLES = 8192
"""Voxels of a case that a temperature is fitted on."""
FOREGROUND = ""
"""Stands for all labels together, among the names of structures."""
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelSample:
    """Voxels that a temperature is fitted on.

    Parameters
    ----------
    values : (C, n) float32 array
        What was averaged, before any scaling.
    allowed : (n, L) bool array
        Classes that the reference admits.
    """

    values: NDArray[np.float32]
    allowed: NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class _Structure:
    """One structure while a case is gone through."""

    members: list[int]
    inside: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    box: Box | None
    unscaled: ReliabilitySums = field(default_factory=ReliabilitySums.empty)
    calibrated: ReliabilitySums = field(default_factory=ReliabilitySums.empty)


class VoxelWatch:
    """Sums over the blocks of one prediction; see `medseg.inference.block_watch.BlockWatch`.

    Parameters
    ----------
    reference : (*prepared) integer array
        Set indices on the grid of the network.
    table : LabelTable
    margin : sequence of int
        Voxels that boxes are wider than a structure, along each axis.
    scaled : bool
        Whether calibrated probabilities differ from the unscaled.
    seed : int
        Of the sample.
    """

    def __init__(
        self,
        reference: NDArray[Any],
        table: LabelTable,
        *,
        margin: Sequence[int],
        scaled: bool,
        seed: int = 0,
    ) -> None:
        self._reference, self._matrix, self._scaled = reference, table.set_matrix, scaled
        self._structures = {
            name: _structure(reference, self._matrix, members, margin)
            for name, members in _named(table).items()
        }
        self._positions = _sampled(reference.shape, self._structures[FOREGROUND].box, seed)
        self._values: list[NDArray[np.float32]] = []
        self._allowed: list[NDArray[np.bool_]] = []

    def add(self, block: BlendedBlock, calibrated: Tensor) -> None:
        """Take a finished block and its calibrated probabilities."""
        sets = self._reference[block.place]
        unscaled = block.probabilities.cpu().numpy()
        scaled = calibrated.cpu().numpy() if self._scaled else unscaled
        for structure in self._structures.values():
            likely = _sum_of(unscaled, structure.members)
            taken = _in_box(structure.box, block.place) | (likely >= 0.5)
            known = structure.inside | structure.outside
            taken &= known[sets]
            if not taken.any():
                continue
            true = structure.inside[sets[taken]]
            structure.unscaled.add(likely[taken], true)
            if self._scaled:
                structure.calibrated.add(_sum_of(scaled, structure.members)[taken], true)
        self._sample(block, sets)

    def _sample(self, block: BlendedBlock, sets: NDArray[Any]) -> None:
        place = block.place
        starts = np.array([part.start for part in place])
        stops = np.array([part.stop for part in place])
        here = self._positions[((self._positions >= starts) & (self._positions < stops)).all(axis=1)] - starts
        if len(here):
            picks = tuple(here.T)
            values = block.values.float().cpu().numpy()
            self._values.append(np.array(values[(slice(None), *picks)], dtype=np.float32))
            self._allowed.append(self._matrix[sets[picks]])

    @property
    def sample(self) -> VoxelSample:
        """The voxels that were drawn."""
        if not self._values:
            classes = self._matrix.shape[1]
            return VoxelSample(values=np.empty((0, 0), np.float32), allowed=np.empty((0, classes), np.bool_))
        return VoxelSample(values=np.concatenate(self._values, axis=1), allowed=np.concatenate(self._allowed))

    def unscaled(self) -> dict[str, ReliabilitySums]:
        """Sums of the network's own probabilities, by structure."""
        return {name: structure.unscaled for name, structure in self._structures.items()}

    def calibrated(self) -> dict[str, ReliabilitySums]:
        """Sums of the calibrated probabilities; the same without a temperature."""
        if not self._scaled:
            return self.unscaled()
        return {name: structure.calibrated for name, structure in self._structures.items()}


def start_watch(
    grid: GridMap,
    shear: Shear | None,
    *,
    reference: NDArray[Any],
    volume: Volume,
    table: LabelTable,
    scaled: bool,
    seed: int = 0,
) -> VoxelWatch:
    """Begin to watch a pass.

    Parameters
    ----------
    grid, shear
        See `medseg.inference.block_watch.StartWatch`.
    reference : (1, *source) integer array
        Set indices on the grid of the volume.
    volume : Volume
    table : LabelTable
    scaled, seed
        See `VoxelWatch`.
    """
    if shear is not None:
        reference = straighten_labels(reference[0], shear)[None]
    # What lies beyond the image is not known, and counts for nothing.
    unknown = len(table.sets) - 1
    on_grid = label_to_grid(reference, grid, fill=unknown)[0]
    return VoxelWatch(on_grid, table, margin=margin_voxels(grid, volume.spacing_mm), scaled=scaled, seed=seed)


def margin_voxels(grid: GridMap, spacing_mm: Sequence[float] | None) -> tuple[int, ...]:
    """The margin along each axis of the network's grid, in its voxels, rounded up."""
    if spacing_mm is None:
        share = math.ceil(MARGIN_SHARE * max(grid.target_shape))
        return (share,) * len(grid.target_shape)
    return tuple(
        math.ceil(MARGIN_MM / (spacing_mm[source] * abs(scale))) for source, scale, _ in grid.axis_maps()
    )


def _named(table: LabelTable) -> Mapping[str, tuple[int, ...]]:
    """Classes of all labels together, then of each label and region."""
    return {FOREGROUND: tuple(range(1, table.class_count)), **table.region_classes()}


def _structure(
    reference: NDArray[Any], matrix: NDArray[np.bool_], members: Sequence[int], margin: Sequence[int]
) -> _Structure:
    inside, outside = told(matrix, members)
    box = bounding_box(reference, tuple(int(index) for index in np.flatnonzero(inside)))
    if box is not None:
        box = tuple(
            slice(max(0, part.start - more), min(size, part.stop + more))
            for part, more, size in zip(box, margin, reference.shape, strict=True)
        )
    return _Structure(members=list(members), inside=inside, outside=outside, box=box)


def _sum_of(probabilities: NDArray[np.float32], members: Sequence[int]) -> NDArray[np.float32]:
    if len(members) == 1:
        return np.asarray(probabilities[members[0]])
    return np.asarray(probabilities[list(members)].sum(axis=0, dtype=np.float32))


def _in_box(box: Box | None, place: Box) -> NDArray[np.bool_]:
    """Which voxels of a block lie in a box."""
    found = np.zeros([part.stop - part.start for part in place], dtype=np.bool_)
    if box is not None:
        found[
            tuple(
                slice(
                    max(0, edge.start - part.start),
                    max(0, min(edge.stop, part.stop) - part.start),
                )
                for edge, part in zip(box, place, strict=True)
            )
        ] = True
    return found


def _sampled(shape: Sequence[int], box: Box | None, seed: int) -> NDArray[np.int64]:
    """(n, axes) places in a box, drawn without replacement."""
    if box is None:
        return np.empty((0, len(shape)), dtype=np.int64)
    sizes = [part.stop - part.start for part in box]
    total = math.prod(sizes)
    drawn = np.random.default_rng(seed).choice(total, size=min(MOST_SAMPLES, total), replace=False)
    places = np.stack(np.unravel_index(np.sort(drawn), sizes), axis=1)
    return np.asarray(places + np.array([part.start for part in box]), dtype=np.int64)
