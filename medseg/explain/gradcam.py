"""Seg-Grad-CAM: which places of a feature map speak for the voxels of a structure.

With logits y, the structure's voxels M and feature maps A^k of one level, alpha_k is the mean over the level of
the gradient of sum_{v in M} y_v with respect to A^k, and the map is ReLU(sum_k alpha_k A^k), interpolated
linearly to the image. It says where the level holds what raises the score, at the resolution of the level.

References
----------
Vinogradova et al., Towards interpretable semantic segmentation via gradient-weighted class activation mapping, AAAI
2020, doi:10.1609/aaai.v34i10.7244; Selvaraju et al., Grad-CAM, ICCV 2017, doi:10.1109/ICCV.2017.74.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.errors import ConfigError
from medseg.explain.target import Box, Target
from medseg.models.network import SegmentationNetwork
from medseg.transforms.image_view import ImageView


def level_of(network: SegmentationNetwork, view: ImageView, window: Sequence[int] | None, level: int) -> int:
    """The position of a feature level, counted from the finest; negative ones count from the coarsest.

    Raises
    ------
    ConfigError
        The network has no such level.
    """
    box = tuple(slice(0, min(n, w)) for n, w in zip(view.shape, window or view.shape, strict=True))
    with torch.inference_mode():
        count = len(network.scored_maps(_tensor(view, box, network)).maps)
    if not -count <= level < count:
        raise ConfigError(
            f"--level {level}: the network has {count} feature levels, 0 (finest) to {count - 1} (coarsest)"
        )
    return level % count


def seg_grad_cam(
    network: SegmentationNetwork,
    view: ImageView,
    target: Target,
    *,
    level: int = -1,
    window: Sequence[int] | None = None,
    overlap: float = 0.5,
) -> NDArray[np.float32]:
    """Seg-Grad-CAM of one network; one window in memory at a time.

    Parameters
    ----------
    network : SegmentationNetwork
        In evaluation mode; its weights gather no gradient.
    view : ImageView
        (C, *sp) prepared image.
    target : Target
    level : int, optional
        Position in `SegmentationNetwork.encode`'s maps; -1 is the coarsest, as in the paper.
    window : sequence of int, optional
        What the network is shown at a time; the whole image unless given. Maps of windows that show any of the
        structure are averaged where they overlap.
    overlap : float, optional
        Share of a window that the next one shows, too.

    Returns
    -------
    (*sp) float32 array
        0 or more, in the unit of logit times feature; 0 where no window shows the structure.
    """
    total = np.zeros(view.shape, dtype=np.float32)
    count = np.zeros(view.shape, dtype=np.float32)
    for box in target.windows(window, overlap=overlap):
        total[box] += _window_map(network, _tensor(view, box, network), target, box, level)
        count[box] += 1
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


def _window_map(
    network: SegmentationNetwork, image: Tensor, target: Target, box: Box, level: int
) -> NDArray[np.float32]:
    with torch.enable_grad():
        found = network.scored_maps(image.requires_grad_(True))
        features = found.maps[level]
        (gradient,) = torch.autograd.grad(target.scores(found.logits, box).sum(), features)
    space = tuple(range(2, features.ndim))
    with torch.no_grad():
        weighted = (gradient.mean(dim=space, keepdim=True) * features).sum(dim=1, keepdim=True).relu()
        mode = "bilinear" if len(space) == 2 else "trilinear"
        whole = interpolate(weighted, size=found.fitted, mode=mode, align_corners=False)
    place: tuple[Any, ...] = (0, 0, *(slice(0, s.stop - s.start) for s in box))
    return np.asarray(whole[place].cpu().numpy(), dtype=np.float32)


def _tensor(view: ImageView, box: Box, network: SegmentationNetwork) -> Tensor:
    device = next(network.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(view.read(box)))[None].to(device)
