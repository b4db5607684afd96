"""SegmentationNetwork: what every network of the registry can do, whatever its shape inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import ConfigError
from medseg.models.blocks import initialise
from medseg.models.options import NetworkOptions, minimum_window


class ScoredMaps(NamedTuple):
    """Feature maps, the logits made of them, and the size of the image that the maps cover."""

    maps: list[Tensor]
    logits: Tensor
    fitted: tuple[int, ...]


class SegmentationNetwork(nn.Module, ABC):
    """Image in, one score map per class out, on the same grid.

    A subclass says how to `encode` and `decode`; this class pads what does not fit the strides,
    cuts the result back, and reads the features for the input gate.

    Parameters
    ----------
    options : NetworkOptions
        Kept as `options`, so that a bundle can say how the network was built.
    spatial_dims : int
        2 or 3.
    in_channels, class_count : int
        C of the image and L of the logits, background included.
    """

    def __init__(
        self, options: NetworkOptions, *, spatial_dims: int, in_channels: int, class_count: int
    ) -> None:
        super().__init__()
        self.options = options
        self.stride = options.total_stride(spatial_dims)
        self.least = minimum_window(options, spatial_dims)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.class_count = class_count
        self.layout = memory_format(spatial_dims)

    @property
    @abstractmethod
    def feature_count(self) -> int:
        """F, the length of a feature vector."""

    @property
    @abstractmethod
    def head_names(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are classes, for transfer to another label table."""

    @property
    def input_cells(self) -> dict[str, tuple[int, ...]]:
        """Convolutions that read the image -> edges of the cells of voxels that reach them as channels."""
        first = next(
            name for name, module in self.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d)
        )
        return {first: (1,) * self.spatial_dims}

    @property
    def head_cells(self) -> dict[str, tuple[int, ...]]:
        """Heads -> edges of the cells of voxels that they give as channels (class slowest)."""
        return dict.fromkeys(self.head_names, (1,) * self.spatial_dims)

    def initialise(self) -> None:
        """Fresh weights for every convolution, drawn from torch's random state."""
        initialise(self)

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *sp), sizes that fit the stride -> feature maps, finest first, coarsest last."""

    @abstractmethod
    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps -> logits, finest first; more than one only in training with deep supervision."""

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of an image.

        Parameters
        ----------
        x : (B, C, *sp) float tensor
            Any size; it is continued by its border to a multiple of the stride and the result cut
            back, so the logits lie exactly on the grid of `x`.

        Returns
        -------
        (B, L, *sp) tensor, or list of tensors
            In training mode with deep supervision a list, finest first; a coarser entry has the size
            of `x` divided by the stride of its level along each axis, rounded up.

        Raises
        ------
        ConfigError
            The number of axes or channels is not that of the network.
        """
        size = self._checked_size(x)
        fitted = self._fit(x)
        logits = self.decode(self.encode(fitted))
        if self.training and len(logits) > 1:
            whole = tuple(fitted.shape[2:])
            return [_cut(part, _divided(size, _scale(whole, part))) for part in logits]
        return _cut(logits[0], size)

    def scored_maps(self, x: Tensor) -> ScoredMaps:
        """Logits together with the feature maps that they are made of, for gradients between the two.

        Parameters
        ----------
        x : (B, C, *sp) float tensor

        Returns
        -------
        ScoredMaps
            Maps as `encode` gives them, finest first; (B, L, *sp) logits; the size of `x` once it was continued to
            a multiple of the stride, which is what the maps cover.
        """
        size = self._checked_size(x)
        fitted = self._fit(x)
        maps = self.encode(fitted)
        return ScoredMaps(maps, _cut(self.decode(maps)[0], size), tuple(int(n) for n in fitted.shape[2:]))

    def features(self, x: Tensor) -> Tensor:
        """What the input gate looks at: the coarsest feature maps, averaged over the window.

        Parameters
        ----------
        x : (B, C, *sp) float tensor
            Preprocessed as for prediction.

        Returns
        -------
        (B, F) tensor
            One vector per image; F is `feature_count`. Its gradient is kept unless the caller turns it off.
        """
        self._checked_size(x)
        return self.encode(self._fit(x))[-1].flatten(2).mean(dim=2)

    def _checked_size(self, x: Tensor) -> tuple[int, ...]:
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"model {self.options.use} expects (batch, {self.in_channels}, "
                f"{', '.join('IJK'[: self.spatial_dims])}), found an array of shape {tuple(x.shape)}"
            )
        return tuple(int(n) for n in x.shape[2:])

    def _fit(self, x: Tensor) -> Tensor:
        missing = [
            max(-(-n // stride) * stride, least) - n
            for n, stride, least in zip(x.shape[2:], self.stride, self.least, strict=True)
        ]
        if any(missing):
            # Padding at the end keeps voxel 0 of every level over voxel 0 of the image.
            x = F.pad(x, [part for n in reversed(missing) for part in (0, n)], mode="replicate")
        return x.contiguous(memory_format=self.layout)


def memory_format(spatial_dims: int) -> torch.memory_format:
    """Channels-last layout for 2 or 3 axes: a quarter faster on CPUs with these networks."""
    return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d


def as_channels_last(network: SegmentationNetwork) -> SegmentationNetwork:
    """The same network; its convolution weights now lie channels last."""
    axes = network.spatial_dims + 2
    for parameter in network.parameters():
        if parameter.ndim == axes:
            parameter.data = parameter.data.contiguous(memory_format=memory_format(network.spatial_dims))
    return network


def as_contiguous(network: SegmentationNetwork) -> SegmentationNetwork:
    """The same network; feature maps and weights lie channel after channel.

    Slower with these networks, but instance norm takes the variance in two passes then: logits of a trained
    network were within 2e-5 of those in float64, where channels-last ones were off by 6e-4 (torch 2.13, CPU).
    """
    network.layout = torch.contiguous_format
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network


def _cut(x: Tensor, size: Sequence[int]) -> Tensor:
    return x[(slice(None), slice(None), *(slice(0, n) for n in size))]


def _scale(whole: Sequence[int], part: Tensor) -> tuple[int, ...]:
    return tuple(n // m for n, m in zip(whole, part.shape[2:], strict=True))


def _divided(size: Sequence[int], scale: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-n // s) for n, s in zip(size, scale, strict=True))
