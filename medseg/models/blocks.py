"""Building blocks of the networks, for two and three dimensions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.options import NormName

Activation = Literal["relu", "leaky_relu", "none"]


def convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = False,
) -> nn.Module:
    """Convolution with as much padding as keeps the size at stride 1; kernel is odd or equals stride."""
    layer = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    padding = kernel // 2 if kernel % 2 else 0
    return layer(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=bias)


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


def _activation(name: Activation) -> nn.Module:
    if name == "relu":
        return nn.ReLU(inplace=True)
    return nn.LeakyReLU(0.01, inplace=True) if name == "leaky_relu" else nn.Identity()


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
        kernel: int = 3,
        stride: int = 1,
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__(
            convolution(spatial_dims, in_channels, out_channels, kernel=kernel, stride=stride),
            normalisation(spatial_dims, out_channels, norm=norm, groups=groups),
            _activation(activation),
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
        stride: int = 1,
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        self.first = ConvNorm(
            spatial_dims,
            in_channels,
            out_channels,
            norm=norm,
            groups=groups,
            stride=stride,
            activation=activation,
        )
        self.second = ConvNorm(
            spatial_dims, out_channels, out_channels, norm=norm, groups=groups, activation="none"
        )
        self.shortcut = nn.Sequential()
        if stride != 1:
            # The 3-wide stride-2 convolution centres on even voxels and makes ceil(n / 2) of them.
            pool = nn.AvgPool2d if spatial_dims == 2 else nn.AvgPool3d
            self.shortcut.append(pool(stride, stride, ceil_mode=True))
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
        self.activation = _activation(activation)

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

    def __init__(self, spatial_dims: int, skip_channels: int, coarse_channels: int) -> None:
        super().__init__()
        inner = max(skip_channels // 2, 1)
        self.of_skip = convolution(spatial_dims, skip_channels, inner, kernel=2, stride=2)
        self.of_coarse = convolution(spatial_dims, coarse_channels, inner, kernel=1, bias=True)
        self.score = convolution(spatial_dims, inner, 1, kernel=1, bias=True)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, *sp) and (B, C', *sp / 2) -> (B, C, *sp)."""
        score = torch.sigmoid(self.score(F.relu(self.of_skip(skip) + self.of_coarse(coarse))))
        passed: Tensor = skip * resize(score, tuple(skip.shape[2:]))
        return passed


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, *sp) -> (B, C, *size), linear, outer edges of the grids coincide."""
    return F.interpolate(x, size=size, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def space_to_depth(x: Tensor) -> Tensor:
    """(B, C, *sp), even sizes -> (B, C * 2^d, *sp / 2): each 2 x 2 (x 2) cell becomes channels."""
    if x.ndim == 4:
        return F.pixel_unshuffle(x, 2)
    batch, channels, i, j, k = x.shape
    cells = x.reshape(batch, channels, i // 2, 2, j // 2, 2, k // 2, 2)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * 8, i // 2, j // 2, k // 2)


def depth_to_space(x: Tensor) -> Tensor:
    """(B, C * 2^d, *sp) -> (B, C, 2 * sp); undoes `space_to_depth`."""
    if x.ndim == 4:
        shuffled: Tensor = F.pixel_shuffle(x, 2)
        return shuffled
    batch, channels, i, j, k = x.shape
    cells = x.reshape(batch, channels // 8, 2, 2, 2, i, j, k)
    return cells.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels // 8, 2 * i, 2 * j, 2 * k)


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
