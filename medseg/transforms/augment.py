"""Random training steps: one sample in, one sample out, a pure function of the sample and a seed.

Geometric steps are fused into one map and act first, with one bilinear (trilinear) interpolation of the image
and one nearest look-up of the label; the other steps follow in the order of the YAML. Each step draws from
a generator of its own, seeded by (seed, position in the list), and no sum depends on the number of
threads: the same seed gives the same bits in any worker.

MONAI's random transforms are not used: they keep their generator as state, which makes a sample
depend on what the worker did before, and they interpolate once per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from medseg.geometry import GridMap
from medseg.transforms.options import AugmentStep, Border
from medseg.transforms.random_geometry import GEOMETRIC_STEPS, Warp, draw_warp
from medseg.transforms.random_intensity import change_values, cover_border
from medseg.transforms.regrid import label_to_grid, regrid


def augment(
    image: Tensor,
    label: Tensor,
    steps: Sequence[AugmentStep],
    *,
    seed: int,
    mirror_sets: NDArray[Any],
    outside_set: int = 0,
) -> tuple[Tensor, Tensor]:
    """A random variant of one training sample.

    Parameters
    ----------
    image : (C, *spatial) float32 tensor on the CPU
        Left unchanged.
    label : (1, *spatial) int16 tensor
        Set indices (`LabelTable.sets`). Left unchanged.
    steps : sequence of AugmentStep
    seed : int
        Not negative. The same seed gives the same sample.
    mirror_sets : (S,) int array
        `LabelTable.mirror_sets`: set index after left and right have changed places.
    outside_set : int, optional
        Set index of voxels that come from outside of the image.

    Returns
    -------
    (Tensor, Tensor)
        (C, *shape) float32 and (1, *shape) int16; `shape` differs from `spatial` only after a crop.

    Raises
    ------
    ConfigError
        A step that does not fit the number of axes.
    """
    generators = [np.random.default_rng([seed, position]) for position in range(len(steps))]
    geometric = [(s, g) for s, g in zip(steps, generators, strict=True) if isinstance(s, GEOMETRIC_STEPS)]
    label_array = label.numpy()
    ignored = len(mirror_sets) - 1
    warp = draw_warp(tuple(image.shape[1:]), label_array[0], geometric, ignored_set=ignored)
    if not warp.is_identity:
        image, label = _resample(image, label, warp, outside_set)
    values, classes = image.numpy(), label.numpy()
    if warp.mirrored:
        classes = np.asarray(mirror_sets).astype(classes.dtype)[classes]
    for step, random in zip(steps, generators, strict=True):
        if isinstance(step, GEOMETRIC_STEPS) or random.random() >= step.probability:
            continue
        if isinstance(step, Border):
            values, classes = cover_border(values, classes, step, random, outside_set=outside_set)
        else:
            values = change_values(values, step, random)
    return torch.from_numpy(np.ascontiguousarray(values)), torch.from_numpy(np.ascontiguousarray(classes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """`augment` with everything but the sample and the seed fixed; can be sent to a worker process."""

    steps: tuple[AugmentStep, ...]
    mirror_sets: NDArray[np.int64]
    outside_set: int

    def __call__(self, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Random variant number `seed` of one sample."""
        return augment(
            image, label, self.steps, seed=seed, mirror_sets=self.mirror_sets, outside_set=self.outside_set
        )


def compile_augment(
    steps: Sequence[AugmentStep], mirror_sets: NDArray[Any], outside_set: int = 0
) -> Augmentation:
    """The callable ``(image, label, seed) -> (image, label)`` that a loader takes."""
    return Augmentation(
        steps=tuple(steps), mirror_sets=np.asarray(mirror_sets, dtype=np.int64), outside_set=outside_set
    )


def _resample(image: Tensor, label: Tensor, warp: Warp, outside_set: int) -> tuple[Tensor, Tensor]:
    """Image and label at the places that `warp` names."""
    if warp.moves_whole_voxels:
        move = GridMap(source_shape=warp.source_shape, target_shape=warp.shape, matrix=warp.matrix)
        values, classes = regrid(image.numpy(), move), label_to_grid(label.numpy(), move, fill=outside_set)
        return torch.from_numpy(np.ascontiguousarray(values)), torch.from_numpy(classes)
    coordinates = warp.coordinates()
    # grid_sample wants -1 and 1 at the outer edges of the rim voxels, the last axis first.
    unit = [(2 * c + 1) / n - 1 for c, n in zip(coordinates, warp.source_shape, strict=True)]
    grid = np.stack([np.broadcast_to(u, warp.shape) for u in reversed(unit)], axis=-1)
    places = torch.from_numpy(grid)[None]
    # Zero padding of values above each channel's minimum pads with the minimum.
    floor = image.amin(dim=tuple(range(1, image.ndim)), keepdim=True)
    padding = "border" if warp.repeat_border else "zeros"
    moved = grid_sample(
        (image - floor)[None], places, mode="bilinear", padding_mode=padding, align_corners=False
    )
    sets = (label - outside_set).to(torch.float32)
    found = grid_sample(sets[None], places, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved[0] + floor, found[0].to(label.dtype) + outside_set
