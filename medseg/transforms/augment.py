"""Random training steps: one sample in, one sample out, a pure function of the sample and a seed.

The patch and the geometric steps are fused into one map and act first, with one bilinear (trilinear)
interpolation of the image and one vote of the neighbours for the label; the other steps follow in the
order of the YAML. Each step draws from a generator of its own, seeded by (seed, position in the list), and
no sum depends on the number of threads: the same seed gives the same bits in any worker.

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

from medseg.data.patches import View
from medseg.geometry import GridMap
from medseg.transforms.options import AugmentStep, Border
from medseg.transforms.random_geometry import GEOMETRIC_STEPS, Warp, draw_warp
from medseg.transforms.random_intensity import change_values, cover_border
from medseg.transforms.regrid import label_to_grid, minima, regrid
from medseg.transforms.warped import warp_image_and_label


def augment(
    image: Tensor,
    label: Tensor,
    steps: Sequence[AugmentStep],
    *,
    seed: int,
    mirror_sets: NDArray[Any],
    outside_set: int = 0,
    view: View | None = None,
) -> tuple[Tensor, Tensor]:
    """A random variant of one training sample, or of the part of it that `view` shows.

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
    view : View, optional
        The patch that is shown; geometric steps turn and scale about its middle. The whole image unless
        given. Of a patch no more is read than it needs.

    Returns
    -------
    (Tensor, Tensor)
        (C, *shape) float32 and (1, *shape) int16; `shape` is `spatial` unless there is a patch or a crop.

    Raises
    ------
    ConfigError
        A step that does not fit the number of axes.
    """
    generators = [np.random.default_rng([seed, position]) for position in range(len(steps))]
    geometric = [(s, g) for s, g in zip(steps, generators, strict=True) if isinstance(s, GEOMETRIC_STEPS)]
    values, classes = image.numpy(), label.numpy()
    view = view or View()
    warp = draw_warp(values.shape[1:], classes[0], geometric, ignored_set=len(mirror_sets) - 1, view=view)
    if not warp.is_identity:
        least = minima(values) if view.minima is None else np.array(view.minima, dtype=np.float32)
        values, classes = _resample(values, classes, warp, least, outside_set)
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

    def __call__(
        self, image: Tensor, label: Tensor, seed: int, view: View | None = None
    ) -> tuple[Tensor, Tensor]:
        """Random variant number `seed` of what `view` shows of one case."""
        return augment(
            image,
            label,
            self.steps,
            seed=seed,
            mirror_sets=self.mirror_sets,
            outside_set=self.outside_set,
            view=view,
        )


def compile_augment(
    steps: Sequence[AugmentStep], mirror_sets: NDArray[Any], outside_set: int = 0
) -> Augmentation:
    """The callable ``(image, label, seed, view) -> (image, label)`` that a loader takes."""
    return Augmentation(
        steps=tuple(steps), mirror_sets=np.asarray(mirror_sets, dtype=np.int64), outside_set=outside_set
    )


def _resample(
    image: NDArray[np.float32],
    label: NDArray[np.int16],
    warp: Warp,
    minima: NDArray[np.float32],
    outside_set: int,
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Image and label at the places that `warp` names."""
    if not warp.moves_whole_voxels:
        return warp_image_and_label(image, label, warp, minima=minima, outside_set=outside_set)
    move = GridMap(source_shape=warp.source_shape, target_shape=warp.shape, matrix=warp.matrix)
    # A flipped view would have steps backwards in memory, which PyTorch does not take.
    values = np.ascontiguousarray(regrid(image, move, outside=minima))
    return values, label_to_grid(label, move, fill=outside_set)
