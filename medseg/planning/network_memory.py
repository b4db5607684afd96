"""Memory of a training, from the network's own account of what it keeps; nothing is computed for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medseg.models.options import NetworkOptions
from medseg.planning.network_plan import Sampling

# Measured with torch 2.13 on a CPU (small_unet, unet and residual_unet, 3 and 30 classes, batches of 0.2 to
# 0.5 M voxels; peak beyond the program itself within 30 %): what the backward pass keeps and about as much
# again for gradients and work space, six maps of logits in the loss, weights with gradient, two moments and
# moving average.
_KEPT_COPIES = 2.0
_LOGIT_COPIES = 6.0
_WEIGHT_COPIES = 5.0
# Probabilities, their sum and their arrays while an image is predicted whole.
_PROBABILITY_COPIES = 3.0
# The program with torch and the image libraries; the context of CUDA.
PROGRAM_BYTES = 520 * 10**6
_CUDA_BYTES = 600 * 10**6
_HALF_PRECISION = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMemory:
    """What a network takes.

    Parameters
    ----------
    parameters : int
    kept_bytes : float
        Kept for the backward pass, per voxel of a sample, float32.
    class_count, in_channels : int
    """

    parameters: int
    kept_bytes: float
    class_count: int
    in_channels: int

    def training_bytes(self, sampling: Sampling, *, largest_voxels: int, device: str) -> int:
        """Peak of a training on `device`.

        Parameters
        ----------
        sampling : Sampling
        largest_voxels : int
            Of the largest prepared image, which is predicted for the validation.
        device : "cpu" or "cuda"
        """
        per_voxel = _KEPT_COPIES * self.kept_bytes * (_HALF_PRECISION if device == "cuda" else 1.0)
        per_voxel += 4 * self.class_count * _LOGIT_COPIES
        step = sampling.voxels * per_voxel
        whole = largest_voxels * (4 * self.class_count * _PROBABILITY_COPIES + 8 + 8 * self.in_channels)
        program = _CUDA_BYTES if device == "cuda" else PROGRAM_BYTES
        return round(program + 4 * self.parameters * _WEIGHT_COPIES + max(step, whole))


def weigh_network(
    options: NetworkOptions, *, spatial_dims: int, in_channels: int, class_count: int
) -> NetworkMemory:
    """Count what a network keeps for its backward pass, on a small image.

    Raises
    ------
    ConfigError
        A network that cannot be built.
    """
    import torch

    from medseg.models.registry import build_network

    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    network = build_network(
        options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count, seed=0
    )
    # The smallest that needs no padding. Torch's "meta" device would need none at all, but loads 150 MB of code.
    window = tuple(2 * stride for stride in options.total_stride(spatial_dims))
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # Named, so that what it refers to lives until the count is made.
        logits = network(torch.zeros((1, in_channels, *window)))
    total = sum(size for storage, size in kept.items() if storage not in weights)
    del logits
    return NetworkMemory(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        kept_bytes=total / math.prod(window),
        class_count=class_count,
        in_channels=in_channels,
    )
