"""Networks in the form that a CPU runs fastest, and in the form that is exported.

Instance norm is the reason. torch's own copies channels-last feature maps to and fro; spelled as group norm it keeps
the layout, but that kernel takes the variance in one pass and loses it where the mean is large. Here the convolution in
front takes a value near the mean away with its bias, which the norm would take away anyhow, so that the one pass is
safe and nothing is read or written a second time.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.blocks import ConvNorm, Pointwise3d
from medseg.models.cells import MeanPool

# Voxels of a feature map that are looked at for its mean, along each axis.
_LATTICE = 16


def for_inference(network: nn.Module) -> nn.Module:
    """A network that gives the same answers on a CPU, faster and safe for feature maps with a large mean.

    Parameters
    ----------
    network : nn.Module
        Not changed. Its weights are shared, so that a change of them, in place, is one of both.

    Returns
    -------
    nn.Module
        In evaluation mode; weights of convolutions lie channels last. It differs from `network` by rounding, and by
        what one-pass group norm gets wrong.
    """
    found = _swapped(_sharing_copy(network), _inference_layer).eval()
    for module in found.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            _lay_channels_last(module)
    return found


def for_export(network: nn.Module) -> nn.Module:
    """The same network of plain layers, as graph compilers know them: instance norm, mean pooling, convolution.

    Parameters
    ----------
    network : nn.Module
        Not changed.

    Returns
    -------
    nn.Module
        In evaluation mode, with contiguous weights: exporters make them so, and one of them then reads memory that
        was given back.
    """
    found = _swapped(_sharing_copy(network), _export_layer).eval()
    for module in found.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.is_contiguous():
                setattr(module, name, nn.Parameter(parameter.detach().contiguous(), requires_grad=False))
    return found


class CentredConvNorm(nn.Module):
    """Convolution, group norm, activation; the convolution's bias brings its output near a mean of zero.

    A constant in all channels of a group is what group norm takes away, so the result does not change.

    Parameters
    ----------
    layer : ConvNorm
        Whose convolution has one group, and whose norm is a group norm.
    """

    reach: Tensor

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        convolution, norm = layer[0], layer[1]
        if not isinstance(convolution, nn.Conv2d | nn.Conv3d) or not isinstance(norm, nn.GroupNorm):
            raise TypeError(
                f"{type(convolution).__name__} and {type(norm).__name__} are not what is centred here"
            )
        self.convolution: nn.Conv2d | nn.Conv3d = convolution
        self.norm: nn.GroupNorm = norm
        self.activation = layer[2]
        weight = convolution.weight.detach()
        # What a constant input becomes, border aside.
        self.register_buffer("reach", weight.sum(dim=tuple(range(2, weight.ndim))), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> (B, C', *sp / stride)."""
        bias, norm = self.convolution.bias, self.norm
        constant = self.reach @ lattice_mean(x).mean(dim=0)
        constant = constant if bias is None else constant + bias
        centre = _group_means(constant[None], norm.num_groups)[0]
        shifted = -centre if bias is None else bias - centre
        out = F.group_norm(
            _convolved(self.convolution, x, shifted), norm.num_groups, norm.weight, norm.bias, norm.eps
        )
        activated: Tensor = self.activation(out)
        return activated


class CentredGroupNorm(nn.Module):
    """Group norm that is safe for a large mean, in the layout of its input.

    Parameters
    ----------
    groups : int
        As many as channels: instance norm.
    weight, bias : tensor or None
    eps : float
    """

    def __init__(
        self, groups: int, *, weight: nn.Parameter | None, bias: nn.Parameter | None, eps: float
    ) -> None:
        super().__init__()
        self.num_groups, self.eps = groups, eps
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> the same shape."""
        centre = _group_means(lattice_mean(x), self.num_groups)
        centred = x - centre.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        return F.group_norm(centred, self.num_groups, self.weight, self.bias, self.eps)


def lattice_mean(x: Tensor) -> Tensor:
    """(B, C, *sp) -> (B, C): mean over voxels on a lattice, near the mean of all and at hardly a cost."""
    steps = [max(1, n // _LATTICE) for n in x.shape[2:]]
    lattice = x[(slice(None), slice(None), *(slice(step // 2, None, step) for step in steps))]
    return lattice.flatten(2).mean(dim=2)


def _group_means(values: Tensor, groups: int) -> Tensor:
    """(B, C) -> (B, C): the mean over the channels of each group."""
    count, channels = values.shape
    means = values.reshape(count, groups, -1).mean(dim=2, keepdim=True)
    return means.expand(count, groups, channels // groups).reshape(count, channels)


def _convolved(layer: nn.Conv2d | nn.Conv3d, x: Tensor, bias: Tensor) -> Tensor:
    """What a convolution gives with another bias."""
    if isinstance(layer, Pointwise3d) and x.is_contiguous(memory_format=torch.channels_last_3d):
        return F.linear(x.movedim(1, -1), layer.weight.flatten(1), bias).movedim(-1, 1)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, layer.weight, bias, layer.stride, layer.padding, layer.dilation)
    return _convolved_3d(layer, x, bias)


def _convolved_3d(layer: nn.Conv3d, x: Tensor, bias: Tensor) -> Tensor:
    """By oneDNN in channels-last layout.

    torch itself takes another way for one image of few channels or voxels, without that layout and half as fast
    (torch 2.13, CPU, one channel in).
    """
    padding = layer.padding
    if isinstance(padding, str) or not torch._C._has_mkldnn:
        return F.conv3d(x, layer.weight, bias, layer.stride, padding, layer.dilation)
    return torch.mkldnn_convolution(
        _with_strides_last(x), layer.weight, bias, padding, layer.stride, layer.dilation, layer.groups
    )


def _sharing_copy(network: nn.Module) -> nn.Module:
    """Modules copied, parameters and buffers shared."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _swapped(module: nn.Module, swap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A module with each part replaced by what `swap` makes of it."""
    found = swap(module)
    if found is module:
        for name, child in module.named_children():
            module.add_module(name, _swapped(child, swap))
    return found


def _inference_layer(module: nn.Module) -> nn.Module:
    if isinstance(module, ConvNorm) and isinstance(module[1], nn.GroupNorm) and module[0].groups == 1:
        return CentredConvNorm(module)
    if isinstance(module, nn.GroupNorm):
        return CentredGroupNorm(module.num_groups, weight=module.weight, bias=module.bias, eps=module.eps)
    if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d) and not module.track_running_stats:
        return CentredGroupNorm(module.num_features, weight=module.weight, bias=module.bias, eps=module.eps)
    return module


class _InstanceNorm(nn.Module):
    """Instance norm by its own name, for the weights of a group norm with one group per channel."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> the same shape."""
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class _GroupNorm(nn.Module):
    """Group norm as instance norm of what the channels of a group hold together; OpenVINO 2026.4 dies of its own."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.weight, self.bias, self.eps = norm.num_groups, norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sp) -> the same shape."""
        normed = F.instance_norm(x.reshape(x.shape[0], self.groups, -1), eps=self.eps).reshape(x.shape)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return normed * self.weight.reshape(shape) + self.bias.reshape(shape)


def _export_layer(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.GroupNorm):
        return (_InstanceNorm if module.num_groups == module.num_channels else _GroupNorm)(module)
    if isinstance(module, MeanPool) and len(module.cell) == 3:
        # The image was filled up to a multiple of all strides, so that the cells fill every level.
        return nn.AvgPool3d(module.cell, module.cell)
    if isinstance(module, Pointwise3d):
        plain = nn.Conv3d(
            module.in_channels, module.out_channels, 1, bias=module.bias is not None, device="meta"
        )
        plain.weight, plain.bias = module.weight, module.bias
        return plain
    return module


def _lay_channels_last(layer: nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
    weight = layer.weight.detach()
    laid = _with_strides_last(weight)
    if weight.stride() != laid.stride():
        layer.weight = nn.Parameter(laid, requires_grad=False)


def _with_strides_last(x: Tensor) -> Tensor:
    """Channels last, also by the strides: with one channel, torch would take it for contiguous."""
    laid = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    strides, step = [1] * laid.ndim, laid.shape[1]
    for axis in reversed(range(2, laid.ndim)):
        strides[axis], step = step, step * laid.shape[axis]
    strides[0] = step
    return laid.as_strided(laid.shape, strides)
