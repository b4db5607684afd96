"""Building blocks of the networks, for two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.cells import MeanPool
from medseg.models.option_fields import Activation, ByAxisOptions, NormName

Axes = int | Sequence[int]


def convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel: Axes = 3,
    stride: Axes = 1,
    bias: bool = False,
) -> nn.Module:
    """Convolution with as much padding as keeps the size at stride 1; a kernel is odd or equals the stride."""
    kernels, strides = by_axis(kernel, spatial_dims), by_axis(stride, spatial_dims)
    padding = tuple(k // 2 if k % 2 else 0 for k in kernels)
    layer = convolution_layer(spatial_dims)
    if kernels == strides == (1, 1, 1):
        layer = Pointwise3d
    return layer(in_channels, out_channels, kernels, stride=strides, padding=padding, bias=bias)


def convolution_layer(spatial_dims: int, *, transposed: bool = False) -> Callable[..., nn.Module]:
    """The class of torch for convolutions over so many axes."""
    if transposed:
        return nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
    return nn.Conv2d if spatial_dims == 2 else nn.Conv3d


class Pointwise3d(nn.Conv3d):
    """Convolution of one voxel, as a matrix product over the channels where they lie last.

    The convolution of torch gives up the channels-last layout here (torch 2.13, CPU), so that every layer
    around it copies; the product is twice as fast by itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> (B, C', *sp)."""
        if not x.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(x)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def by_axis(numbers: Axes, spatial_dims: int) -> tuple[int, ...]:
    """A number for each axis, from one for all or from those themselves."""
    return (numbers,) * spatial_dims if isinstance(numbers, int) else tuple(numbers)


def normalisation(spatial_dims: int, channels: int, *, norm: NormName, groups: int) -> nn.Module:
    """Normalisation layer; all kinds accept a batch of one image.

    Instance norm is spelled as group norm with one group per channel: the same numbers, but
    torch keeps the channels-last layout, where its own instance norm copies to and fro. That kernel takes
    the variance in one pass: with |mean| over standard deviation of 10 its result is off by 0.001, of 100
    by 0.1 (torch 2.13, CPU), so images must be normalised before they get here.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels) if spatial_dims == 2 else nn.BatchNorm3d(channels)
    return nn.GroupNorm(channels if norm == "instance" else groups, channels)


def activation_layer(name: Activation | Literal["none"]) -> nn.Module:
    """Activation that works in place where torch can."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(0.01, inplace=True)
        case "silu":
            # In place it would take away what its own gradient needs.
            return nn.SiLU()
        case "gelu":
            return nn.GELU()
        case "none":
            return nn.Identity()


class ConvNorm(nn.Sequential):
    """Convolution, normalisation, activation."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        norm: NormName,
        groups: int,
        kernel: Axes = 3,
        stride: Axes = 1,
        activation: Activation | Literal["none"] = "leaky_relu",
    ) -> None:
        super().__init__(
            convolution(spatial_dims, in_channels, out_channels, kernel=kernel, stride=stride),
            normalisation(spatial_dims, out_channels, norm=norm, groups=groups),
            activation_layer(activation),
        )


def convolution_stack(
    options: ByAxisOptions,
    spatial_dims: int,
    level: int,
    *,
    channels: tuple[int, int],
    count: int,
    stride: Axes = 1,
) -> nn.Sequential:
    """`count` convolutions in a row as the options have them at a level; the first has the stride."""
    before, after = channels
    return nn.Sequential(
        *(
            ConvNorm(
                spatial_dims,
                before if index == 0 else after,
                after,
                norm=options.norm,
                groups=options.groups,
                kernel=options.kernel(level, spatial_dims),
                stride=stride if index == 0 else 1,
                activation=options.activation,
            )
            for index in range(count)
        )
    )


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to the input (He et al., CVPR 2016, doi:10.1109/CVPR.2016.90).

    Where the size or the number of channels changes, the input passes a mean pooling and a
    convolution of one voxel first.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        norm: NormName,
        groups: int,
        kernel: Axes = 3,
        stride: Axes = 1,
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        self.first = ConvNorm(
            spatial_dims,
            in_channels,
            out_channels,
            norm=norm,
            groups=groups,
            kernel=kernel,
            stride=stride,
            activation=activation,
        )
        self.second = ConvNorm(
            spatial_dims,
            out_channels,
            out_channels,
            norm=norm,
            groups=groups,
            kernel=kernel,
            activation="none",
        )
        self.shortcut = nn.Sequential()
        if max(by_axis(stride, spatial_dims)) > 1:
            # The strided convolution centres on the first voxel of each cell and makes as many as the pooling.
            self.shortcut.append(MeanPool(by_axis(stride, spatial_dims)))
        if in_channels != out_channels:
            self.shortcut.append(
                ConvNorm(
                    spatial_dims,
                    in_channels,
                    out_channels,
                    norm=norm,
                    groups=groups,
                    kernel=1,
                    activation="none",
                )
            )
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> (B, C', *sp / stride)."""
        out: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return out


class ContextGate(nn.Module):
    """Scales and shifts each channel by what the average over the whole window says.

    Squeeze and excitation (Hu et al., CVPR 2018, doi:10.1109/CVPR.2018.00745) with a shift beside the gate:
    every voxel learns what the rest of the image looks like, whatever the reach of the convolutions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.gate = nn.Linear(hidden, channels)
        self.shift = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> the same shape."""
        inner = F.relu(self.squeeze(x.flatten(2).mean(dim=2)))
        shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
        gate: Tensor = torch.sigmoid(self.gate(inner)).reshape(shape)
        shift: Tensor = self.shift(inner).reshape(shape)
        return x * gate + shift


class AttentionGate(nn.Module):
    """Lets those voxels of a skip pass that the coarser level asks for.

    Additive attention (Oktay et al., MIDL 2018, arXiv:1804.03999), computed at the coarser size.
    """

    def __init__(
        self, spatial_dims: int, skip_channels: int, coarse_channels: int, *, stride: Axes = 2
    ) -> None:
        super().__init__()
        inner = max(skip_channels // 2, 1)
        cell = by_axis(stride, spatial_dims)
        self.of_skip = convolution_layer(spatial_dims)(skip_channels, inner, cell, stride=cell, bias=False)
        self.of_coarse = convolution(spatial_dims, coarse_channels, inner, kernel=1, bias=True)
        self.score = convolution(spatial_dims, inner, 1, kernel=1, bias=True)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, *sp) and (B, C', *sp / stride) -> (B, C, *sp)."""
        score = torch.sigmoid(self.score(F.relu(self.of_skip(skip) + self.of_coarse(coarse))))
        passed: Tensor = skip * resize(score, tuple(skip.shape[2:]))
        return passed


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, *sp) -> (B, C, *size), linear, outer edges of the grids coincide."""
    return F.interpolate(x, size=size, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def initialise(network: nn.Module) -> None:
    """Fresh weights: convolutions by He et al. (ICCV 2015) for ReLU, biases zero, norms one and zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out" if transposed else "fan_in", nonlinearity="relu"
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
