"""Random geometric steps as one map: an affine, a displacement field, and whether sides were swapped.

Each step says where a voxel of its result comes from; maps of several steps are multiplied, so that
an image is interpolated once. Indices are voxel centres at integers, as in GridMap. Where voxels are not
cubes, rotation and elastic deformation need ``unit: mm``, or axes that are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import cos, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.patches import View
from medseg.errors import ConfigError
from medseg.transforms.options import Elastic, Flip, RandomCrop, Rotate, Scale, Shift

GeometricStep = Rotate | Scale | Flip | RandomCrop | Shift | Elastic
GEOMETRIC_STEPS = (Rotate, Scale, Flip, RandomCrop, Shift, Elastic)


@dataclass(slots=True, kw_only=True)
class Warp:
    """Where each voxel of an augmented image comes from; steps add themselves to it one by one.

    Parameters
    ----------
    source_shape, shape : tuple of int
        Spatial shape of the image that is sampled, and of the result.
    matrix : (d+1, d+1) float64 array
        Result voxel index to source voxel index.
    displacement : list of d (*shape) float32 arrays, or empty
        Added to the result voxel index before `matrix` is applied, in voxels.
    mirrored : bool
        Whether the lateral axis is read backwards: left and right labels change places.
    repeat_border : bool
        Whether voxels outside of the source repeat its rim instead of taking its minimum.
    """

    source_shape: tuple[int, ...]
    shape: tuple[int, ...]
    matrix: NDArray[np.float64]
    displacement: list[NDArray[np.float32]] = field(default_factory=list)
    mirrored: bool = False
    repeat_border: bool = False

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> Warp:
        """Nothing moves."""
        return cls(source_shape=shape, shape=shape, matrix=np.eye(len(shape) + 1))

    @property
    def is_identity(self) -> bool:
        """Whether image and label can be left alone."""
        unmoved = bool((self.matrix == np.eye(len(self.shape) + 1)).all())
        return unmoved and not self.displacement and self.shape == self.source_shape

    @property
    def moves_whole_voxels(self) -> bool:
        """Whether the map only flips and shifts by whole voxels, so that nothing is interpolated."""
        linear = self.matrix[:-1, :-1]
        flips = bool((np.abs(linear) == np.eye(len(self.shape))).all())
        return flips and not self.displacement and bool((self.matrix == np.round(self.matrix)).all())

    def coordinates(self, rows: slice | None = None) -> list[NDArray[np.float32]]:
        """Source index along each axis: d arrays that broadcast to `shape`, or to some rows of its first axis."""
        dims = len(self.shape)
        index = []
        for axis, count in enumerate(self.shape):
            form = [count if a == axis else 1 for a in range(dims)]
            line = np.arange(count, dtype=np.float32).reshape(form)
            if self.displacement:
                line = _rows(line, rows) + _rows(self.displacement[axis], rows)
            index.append(_rows(line, rows) if axis == 0 and not self.displacement else line)
        # Terms are added in a fixed order without BLAS: the same bits for any number of threads.
        found = []
        for row in self.matrix[:dims]:
            total = np.full((1,) * dims, row[dims], dtype=np.float32)
            for factor, line in zip(row[:dims], index, strict=True):
                if factor != 0:
                    total = total + np.float32(factor) * line
            found.append(total)
        return found

    def bounds(self) -> list[tuple[float, float]]:
        """Least and greatest source index along each axis, or a little beyond."""
        ends = []
        for axis, count in enumerate(self.shape):
            low, high = 0.0, count - 1.0
            if self.displacement:
                low += float(self.displacement[axis].min())
                high += float(self.displacement[axis].max())
            ends.append((low, high))
        found = []
        for row in self.matrix[:-1]:
            sums = [sorted((f * low, f * high)) for f, (low, high) in zip(row[:-1], ends, strict=True)]
            # Coordinates are in single precision.
            margin = 1e-3 + 1e-6 * max(self.source_shape)
            found.append(
                (row[-1] + sum(s[0] for s in sums) - margin, row[-1] + sum(s[1] for s in sums) + margin)
            )
        return found


def _rows(array: NDArray[np.float32], rows: slice | None) -> NDArray[np.float32]:
    """Some rows of the first axis of an array that broadcasts."""
    return array if rows is None or array.shape[0] == 1 else array[rows]


def draw_warp(
    shape: tuple[int, ...],
    label: NDArray[np.int16],
    steps: Sequence[tuple[GeometricStep, np.random.Generator]],
    *,
    ignored_set: int,
    view: View,
) -> Warp:
    """One random sample of all geometric steps, fused with the patch that is shown.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape of the image.
    label : (*shape) int16 array
        Set indices, for crops that look for foreground.
    steps : sequence of (step, generator)
        In the order of the YAML. Elastic deformation acts after all others wherever it stands.
    ignored_set : int
        Set index that is no foreground although it is not 0: the set of all classes.
    view : View
        The steps act about the middle of its patch.

    Raises
    ------
    ConfigError
        A step that does not fit the number of axes, or is in mm where the spacing is unknown.
    """
    warp = Warp.identity(shape)
    if view.size is not None and view.start is not None:
        warp.shape, warp.matrix[:-1, -1] = view.size, view.start
    elastic = []
    for step, random in steps:
        if isinstance(step, RandomCrop):
            _crop(warp, step, random, label, ignored_set)
        elif isinstance(step, Flip):
            _flip(warp, step, random)
        elif random.random() < step.probability:
            warp.repeat_border |= step.padding == "border"
            if isinstance(step, Elastic):
                elastic.append((step, random))
            else:
                _compose(warp, _linear(step, random, warp.shape, view.spacing_mm))
    for chosen, random in elastic:
        _deform(warp, chosen, random, view.spacing_mm)
    return warp


def _deform(
    warp: Warp, step: Elastic, random: np.random.Generator, spacing_mm: tuple[float, ...] | None
) -> None:
    sizes = _voxel_sizes(step, len(warp.shape), spacing_mm)
    axes = _axes(step, len(warp.shape))
    for axis, size in enumerate(sizes):
        if axis in axes:
            field = smooth_field(warp.shape, tuple(step.sigma / s for s in sizes), random)
            field *= np.float32(step.magnitude / size)
        else:
            field = np.zeros((1,) * len(sizes), dtype=np.float32)
        if axis < len(warp.displacement):
            warp.displacement[axis] = warp.displacement[axis] + field
        else:
            warp.displacement.append(field)


def _axes(step: Rotate | Scale | Elastic, dims: int) -> tuple[int, ...]:
    """The axes on which a step acts.

    Raises
    ------
    ConfigError
        An axis that the image does not have.
    """
    axes = tuple(range(dims)) if step.axes is None else step.axes
    if max(axes) >= dims:
        raise ConfigError(
            f"{step.use}: axes {list(axes)} do not fit an image of {dims} axes (0 to {dims - 1})"
        )
    return axes


def _voxel_sizes(
    step: Rotate | Elastic, dims: int, spacing_mm: tuple[float, ...] | None
) -> tuple[float, ...]:
    """Extent of a voxel along each axis in the unit of the step."""
    if step.unit == "voxel":
        return (1.0,) * dims
    if spacing_mm is None:
        raise ConfigError(
            f"{step.use}: unit mm needs the voxel size, which this case does not have; use unit: voxel"
        )
    return spacing_mm


def smooth_field(
    shape: tuple[int, ...], sigma: float | tuple[float, ...], random: np.random.Generator
) -> NDArray[np.float32]:
    """Gaussian random field of unit variance at every voxel: white noise on a lattice, smoothed.

    Parameters
    ----------
    shape : tuple of int
    sigma : float or tuple of float
        Standard deviation of the smoothing kernel in voxels, for all axes or each; lattice points are
        sigma apart.
    random : Generator
    """
    kernels = []
    widths = (sigma,) * len(shape) if isinstance(sigma, float) else sigma
    for count, sigma in zip(shape, widths, strict=True):
        lattice = np.arange(-3, count / sigma + 3) * sigma
        kernel = np.exp(-0.5 * ((np.arange(count)[:, None] - lattice) / sigma) ** 2)
        # Unit length of each line makes the sum of independent unit normals a unit normal.
        kernels.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
    field = random.standard_normal([k.shape[1] for k in kernels], dtype=np.float32)
    for kernel in kernels:
        # Contracts the first axis and appends the new one, so that after d turns the order is back.
        field = contract_first(kernel, field)
    return field


def contract_first(kernel: NDArray[Any], field: NDArray[Any]) -> NDArray[Any]:
    """``sum_g kernel[n, g] field[g, ...]`` as (..., n)."""
    # Plain einsum does not call BLAS, whose last digit may depend on the number of threads. It is
    # fast only where the summed axis is the outer one of the right factor.
    left = np.ascontiguousarray(field.reshape(field.shape[0], -1).T)
    flat = np.einsum("mg,gn->mn", left, np.ascontiguousarray(kernel.T))
    return np.asarray(flat.reshape(*field.shape[1:], kernel.shape[0]))


def _compose(warp: Warp, step: NDArray[np.float64]) -> None:
    warp.matrix = warp.matrix @ step


def _about_centre(linear: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    dims = len(shape)
    centre = (np.asarray(shape) - 1) / 2
    matrix = np.eye(dims + 1)
    matrix[:dims, :dims] = linear
    matrix[:dims, dims] = centre - linear @ centre
    return matrix


def _linear(
    step: Rotate | Scale | Shift,
    random: np.random.Generator,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, ...] | None,
) -> NDArray[np.float64]:
    """Result index to index before the step: the inverse of what happens to the content."""
    dims = len(shape)
    if isinstance(step, Shift):
        matrix = np.eye(dims + 1)
        matrix[:dims, dims] = random.uniform(-step.fraction, step.fraction, dims) * shape
        return matrix
    if isinstance(step, Scale):
        # Uniform in the logarithm: twice as large is as likely as half as large.
        factors = np.exp(random.uniform(np.log(step.low), np.log(step.high), dims if step.per_axis else 1))
        chosen = np.isin(np.arange(dims), _axes(step, dims))
        return _about_centre(np.diag(np.where(chosen, 1 / factors, 1.0)), shape)
    turn, axes = np.eye(dims), _axes(step, dims)
    for first, second in combinations(sorted(set(axes)), 2):
        angle = radians(random.uniform(-step.degrees, step.degrees))
        plane = np.eye(dims)
        plane[[first, second], [first, second]] = cos(angle)
        plane[first, second], plane[second, first] = -sin(angle), sin(angle)
        turn = turn @ plane
    sizes = np.array(_voxel_sizes(step, dims, spacing_mm))
    return _about_centre(turn * sizes / sizes[:, None], shape)


def _flip(warp: Warp, step: Flip, random: np.random.Generator) -> None:
    dims = len(warp.shape)
    if max(step.axes) >= dims:
        raise ConfigError(
            f"flip: axes {list(step.axes)} do not fit an image of {dims} axes (0 to {dims - 1})"
        )
    for axis, draw in zip(step.axes, random.random(len(step.axes)), strict=True):
        if draw < step.probability:
            matrix = np.eye(dims + 1)
            matrix[axis, axis], matrix[axis, dims] = -1, warp.shape[axis] - 1
            _compose(warp, matrix)
            warp.mirrored ^= axis == step.lateral


def _crop(
    warp: Warp, step: RandomCrop, random: np.random.Generator, label: NDArray[np.int16], ignored_set: int
) -> None:
    dims = len(warp.shape)
    if len(step.size) != dims:
        raise ConfigError(f"crop: size {list(step.size)} names {len(step.size)} axes, the image has {dims}")
    draws, place = random.random(2), random.random(dims)
    room = np.asarray(warp.shape) - step.size
    start = room // 2
    if draws[0] < step.probability:
        start = np.where(
            room > 0, np.minimum((place * (room + 1)).astype(np.int64), np.maximum(room, 0)), start
        )
        if draws[1] < step.foreground:
            voxel = _labelled_voxel(label, random, ignored_set)
            if voxel is not None:
                here = (np.linalg.inv(warp.matrix) @ [*voxel, 1])[:dims]
                wanted = np.round(here - np.asarray(step.size) / 2).astype(np.int64)
                start = np.where(room > 0, np.clip(wanted, 0, np.maximum(room, 0)), start)
    matrix = np.eye(dims + 1)
    matrix[:dims, dims] = start
    _compose(warp, matrix)
    warp.shape = step.size


def _labelled_voxel(
    label: NDArray[np.int16], random: np.random.Generator, ignored_set: int
) -> tuple[int, ...] | None:
    hits = np.flatnonzero((label != 0) & (label != ignored_set))
    if hits.size == 0:
        return None
    return tuple(int(v) for v in np.unravel_index(hits[random.integers(hits.size)], label.shape))
