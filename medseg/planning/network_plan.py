"""Patch, batch and network that fit image sizes, memory and device.

On a CPU time is short: samples of a quarter million voxels; for pictures a network at half resolution, for
volumes a U-Net of one convolution a level that is narrow where the voxels are many. On a GPU memory is short:
a residual U-Net on the largest samples that fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.errors import ConfigError
from medseg.models.options import ResidualUNetOptions, SmallUNetOptions, UNetOptions

CPU_PATCH_VOXELS = 1 << 18
_GPU_PATCH_VOXELS = 1 << 23
# Voxels of a batch on a CPU: more makes the steps fewer and not better.
_CPU_BATCH_VOXELS = {2: 1 << 19, 3: 360_000}
_MOST_BATCH = {"cpu": {2: 8, 3: 4}, "cuda": {2: 16, 3: 8}}
# Voxels that the coarsest level keeps along an axis, as nnU-Net does.
_LEAST_COARSEST = 4
_FEATURES_GPU = (32, 64, 128, 256, 320, 320, 320)
# In 3-D 16 channels at full resolution see a third fewer samples in the same time, and were no better for it.
_FEATURES_CPU = {2: (16, 24, 48, 96, 128, 128), 3: (8, 32, 64, 128, 160)}
_FEATURES_CPU_RICH = (32, 48, 96, 128, 192, 192)
_MANY_CLASSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """How a network shrinks its window.

    Parameters
    ----------
    strides : tuple of tuple of int
        For each transition to a coarser level, by axis.
    kernels : tuple of tuple of int
        Convolution kernels of each level, by axis; one more than strides.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.kernels)

    @property
    def total(self) -> tuple[int, ...]:
        """Voxels of the window along each axis per voxel of the coarsest level."""
        axes = range(len(self.kernels[0]))
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in axes)

    @property
    def isotropic(self) -> bool:
        """Whether every axis shrinks alike, by two each time, with kernels of three."""
        return {n for s in self.strides for n in s} <= {2} and {n for k in self.kernels for n in k} == {3}


def plan_topology(
    shape: Sequence[int], spacing_mm: Sequence[float] | None, *, most_levels: int, fold: bool = False
) -> Topology:
    """Strides and kernels for images of a shape and spacing.

    An axis is halved while it stays long enough and its voxels are not coarser than twice the finest;
    a kernel spans an axis once its voxels are that near. A level that would halve a single axis is left out.
    As in nnU-Net (Isensee et al., Nature
    Methods 2021, doi:10.1038/s41592-020-01008-z).

    Parameters
    ----------
    shape : sequence of int
        Typical voxels along each axis.
    spacing_mm : sequence of float or None
        None counts as equal along all axes.
    most_levels : int
    fold : bool, optional
        Whether the finest level is itself reached by a halving (`small_unet`).
    """
    spacing = list(spacing_mm) if spacing_mm is not None else [1.0] * len(shape)
    size, strides = [float(n) for n in shape], []
    kernels = [_kernel(spacing)]
    for _ in range(most_levels - (0 if fold else 1)):
        step = _halved(size, spacing)
        if step.count(2) < 2:
            break
        size = [n / s for n, s in zip(size, step, strict=True)]
        spacing = [v * s for v, s in zip(spacing, step, strict=True)]
        strides.append(step)
        kernels.append(_kernel(spacing))
    if fold:
        kernels = kernels[1:] or kernels
    return Topology(strides=tuple(strides), kernels=tuple(kernels))


def _halved(size: Sequence[float], spacing: Sequence[float]) -> tuple[int, ...]:
    long_enough = [n >= 2 * _LEAST_COARSEST for n in size]
    finest = min((v for v, ok in zip(spacing, long_enough, strict=True) if ok), default=0.0)
    return tuple(2 if ok and v < 2 * finest else 1 for v, ok in zip(spacing, long_enough, strict=True))


def _kernel(spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(3 if v < 2 * min(spacing) else 1 for v in spacing)


def uniform(topology: Topology, shape: Sequence[int], *, least_levels: int, fold: bool) -> Topology:
    """The nearest topology that halves every axis each time, for networks that can do nothing else."""
    axes = len(shape)
    count = min(len(topology.strides), *(max(1, int(math.log2(max(2, n / _LEAST_COARSEST)))) for n in shape))
    count = max(count, least_levels - (0 if fold else 1))
    levels = count if fold else count + 1
    return Topology(strides=((2,) * axes,) * count, kernels=((3,) * axes,) * levels)


def plan_patch(
    shape: Sequence[int],
    spacing_mm: Sequence[float] | None,
    *,
    stride: Sequence[int],
    most_voxels: int,
    least: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Voxels of a sample: the typical image, cut along the longest edge (in mm) until it is small enough.

    Parameters
    ----------
    shape, spacing_mm : sequence
        Of the typical image.
    stride : sequence of int
        Each edge is a multiple of it, the image's edge rounded up at most (or `least`).
    most_voxels : int
        Kept unless every edge is at its least.
    least : sequence of int, optional
        Least edges; twice the stride unless given.
    """
    spacing = spacing_mm if spacing_mm is not None else [1.0] * len(shape)
    least = tuple(least) if least is not None else tuple(2 * s for s in stride)
    patch = [max(low, -(-n // s) * s) for n, s, low in zip(shape, stride, least, strict=True)]
    while math.prod(patch) > most_voxels:
        free = [axis for axis, n in enumerate(patch) if n - stride[axis] >= least[axis]]
        if not free:
            break
        longest = max(free, key=lambda axis: (patch[axis] * spacing[axis], patch[axis]))
        patch[longest] -= stride[longest]
    return tuple(patch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What one step of the training shows to the network."""

    patch: tuple[int, ...]
    batch: int

    @property
    def voxels(self) -> int:
        """Voxels of a batch."""
        return self.batch * math.prod(self.patch)


def samplings(
    patch_of: Callable[[int], tuple[int, ...]], *, device: str, dims: int, batch: int | None
) -> Iterator[Sampling]:
    """Patch and batch from the best down, each taking less memory than those before.

    Parameters
    ----------
    patch_of : callable (most_voxels) -> patch
    device : "cpu" or "cuda"
    dims : int
    batch : int or None
        Given batch size; None: chosen here.
    """
    most = CPU_PATCH_VOXELS if device == "cpu" else _GPU_PATCH_VOXELS
    seen: set[tuple[int, ...]] = set()
    last = math.inf
    while most >= 2**dims:
        patch = patch_of(most)
        most //= 2
        if patch in seen:
            continue
        seen.add(patch)
        for count in _batches(patch, device=device, dims=dims, batch=batch, smallest=most < 2**dims):
            sampling = Sampling(patch=patch, batch=count)
            if sampling.voxels < last:
                last = sampling.voxels
                yield sampling
    if batch is None:
        yield Sampling(patch=patch, batch=1)


def _batches(
    patch: tuple[int, ...], *, device: str, dims: int, batch: int | None, smallest: bool
) -> Iterator[int]:
    if batch is not None:
        yield batch
        return
    most = _MOST_BATCH[device][dims]
    if device == "cpu":
        most = max(2, min(most, round(_CPU_BATCH_VOXELS[dims] / math.prod(patch))))
    yield from range(most, 1, -1)


def network_options(
    topology: Topology, *, device: str, class_count: int, in_channels: int, per_axis: bool
) -> dict[str, Any]:
    """The network as the YAML would write it.

    Parameters
    ----------
    per_axis : bool
        Whether the network takes strides and kernels by axis.
    """
    kind = network_kind(device, len(topology.kernels[0]))
    features: tuple[int, ...]
    more: dict[str, Any] = {}
    if kind is ResidualUNetOptions:
        features, more = _FEATURES_GPU, {"deep_supervision": True}
    elif kind is UNetOptions:
        features, more = _FEATURES_CPU[3], {"convolutions": 1}
    else:
        rich = class_count > _MANY_CLASSES or in_channels > 1
        features = _FEATURES_CPU_RICH if rich else _FEATURES_CPU[2]
    use = kind.model_fields["use"].default
    options: dict[str, Any] = {"use": use, "channels": list(features[: topology.levels])} | more
    if per_axis and not topology.isotropic:
        strides = [list(stride) for stride in topology.strides]
        if kind is SmallUNetOptions:
            options["cell"] = strides.pop(0)
        options["strides"] = strides
        options["kernels"] = [list(kernel) for kernel in topology.kernels]
    return options


def network_kind(device: str, dims: int) -> type[UNetOptions | SmallUNetOptions | ResidualUNetOptions]:
    """The network that the plan chooses where none is given."""
    if device == "cuda":
        return ResidualUNetOptions
    return UNetOptions if dims == 3 else SmallUNetOptions


def most_levels(device: str, dims: int) -> int:
    """Resolutions that the chosen network has at most."""
    return len(_FEATURES_GPU) if device == "cuda" else len(_FEATURES_CPU[dims])


def check_patch(patch: Sequence[int], dims: int) -> None:
    """Refuse a given patch with another number of axes than the images.

    Raises
    ------
    ConfigError
    """
    if len(patch) != dims:
        raise ConfigError(
            f"training.patch_size has {len(patch)} axes {list(patch)}, the images have {dims}; give {dims} numbers"
        )
