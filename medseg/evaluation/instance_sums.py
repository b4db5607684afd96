"""What is added up of each instance while an image is gone through slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.evaluation.diameter import plane_axes
from medseg.evaluation.instance_map import Box, InstanceMap


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSums:
    """Numbers of one instance, in voxel indices and in the units of the steps.

    Parameters
    ----------
    voxels : int
    box : tuple of (int, int)
        First and last index along each of three axes.
    centroid : (float, float, float)
    long_axis, short_axis : float
        In the slice `plane`, where the longest in-plane diameter is largest; of several the first.
    plane : int
    mean, sd : float or None
        Of the image, divisor n; None without one.
    confidence : float or None
        Mean probability of the voxels that the network gave to the structure; None where there is none.
    """

    voxels: int
    box: tuple[tuple[int, int], ...]
    centroid: tuple[float, ...]
    long_axis: float
    short_axis: float
    plane: int
    mean: float | None
    sd: float | None
    confidence: float | None


def gather(
    numbered: InstanceMap,
    *,
    steps: NDArray[np.float64],
    values: NDArray[Any] | None,
    certainty: Callable[[Box], NDArray[np.float32]] | None,
) -> list[InstanceSums]:
    """Numbers of all instances of a structure, in one pass.

    Parameters
    ----------
    numbered : InstanceMap
    steps : (3, 3) float array
        Columns: steps in space along each axis.
    values : (I, J, K) array or None
        Of the image.
    certainty : callable or None
        Box -> probability at each voxel, NaN where it is of another structure.
    """
    running = [_Running() for _ in range(numbered.count)]
    plane_steps = np.delete(steps, numbered.axis, axis=1)
    for place, numbers in numbered.slabs():
        if not running:
            break
        seen = None if values is None else values[place]
        sure = None if certainty is None else certainty(place)
        for number, part in enumerate(ndimage.find_objects(numbers, max_label=numbered.count), start=1):
            if part is None:
                continue
            mask = numbers[part] == number
            start = tuple(p.start + b.start for p, b in zip(part, place, strict=True))
            one = running[number - 1]
            one.add_shape(mask, start)
            one.add_planes(mask, start, axis=numbered.axis, steps=plane_steps)
            if seen is not None:
                one.values.add(seen[part][mask])
            if sure is not None:
                one.add_certainty(sure[part][mask])
    return [one.result() for one in running]


class _Moments:
    """Number, mean and squared deviations of values that come in parts (Chan et al., 1979)."""

    __slots__ = ("count", "deviations", "mean")

    def __init__(self) -> None:
        self.count, self.mean, self.deviations = 0, 0.0, 0.0

    def add(self, values: NDArray[Any]) -> None:
        count = int(values.size)
        mean = float(values.mean(dtype=np.float64))
        own = float(((values.astype(np.float64) - mean) ** 2).sum())
        total, apart = self.count + count, mean - self.mean
        self.deviations += own + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    @property
    def sd(self) -> float:
        return math.sqrt(max(self.deviations, 0.0) / self.count)


class _Running:
    """Sums of one instance."""

    def __init__(self) -> None:
        self.voxels = 0
        self.first, self.last = [math.inf] * 3, [-math.inf] * 3
        self.index_sums = [0.0] * 3
        self.long, self.short, self.plane = 0.0, 0.0, -1
        self.values = _Moments()
        self.sure_voxels, self.sure = 0, 0.0

    def add_shape(self, mask: NDArray[np.bool_], start: tuple[int, ...]) -> None:
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            profile = mask.sum(axis=others, dtype=np.int64)
            self.index_sums[axis] += float(profile @ (start[axis] + np.arange(len(profile))))
            self.first[axis] = min(self.first[axis], start[axis])
            self.last[axis] = max(self.last[axis], start[axis] + len(profile) - 1)
        self.voxels += int(profile.sum())

    def add_planes(
        self, mask: NDArray[np.bool_], start: tuple[int, ...], *, axis: int, steps: NDArray[np.float64]
    ) -> None:
        for index, plane in enumerate(np.moveaxis(mask, axis, 0)):
            if _largest_possible(plane, steps) <= self.long:
                continue
            axes = plane_axes(plane, steps)
            if axes is not None and axes.long > self.long * (1 + 1e-9):
                self.long, self.short, self.plane = axes.long, axes.short, start[axis] + index

    def add_certainty(self, values: NDArray[np.float32]) -> None:
        known = ~np.isnan(values)
        self.sure_voxels += int(np.count_nonzero(known))
        self.sure += float(values[known].sum(dtype=np.float64))

    def result(self) -> InstanceSums:
        return InstanceSums(
            voxels=self.voxels,
            box=tuple((int(a), int(b)) for a, b in zip(self.first, self.last, strict=True)),
            centroid=tuple(total / self.voxels for total in self.index_sums),
            long_axis=self.long,
            short_axis=self.short,
            plane=self.plane,
            mean=self.values.mean if self.values.count else None,
            sd=self.values.sd if self.values.count else None,
            confidence=self.sure / self.sure_voxels if self.sure_voxels else None,
        )


def _largest_possible(plane: NDArray[np.bool_], steps: NDArray[np.float64]) -> float:
    """No diameter in a plane is longer than the longer diagonal of the box of its pixels; 0 where it is empty."""
    spans = []
    for other in (1, 0):
        filled = np.flatnonzero(plane.any(axis=other))
        if not filled.size:
            return 0.0
        spans.append(filled[-1] - filled[0] + 1)
    one, two = steps[:, 0] * spans[0], steps[:, 1] * spans[1]
    return float(max(np.linalg.norm(one + two), np.linalg.norm(one - two)))
