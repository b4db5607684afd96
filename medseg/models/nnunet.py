"""Networks that nnU-Net v2 trained, as networks of medseg: options from the plans, weights by name.

Its plain and its residual-encoder U-Net are the same as `unet` and `residual_unet` here but for two things, neither of
which changes a number beyond rounding: convolutions in front of an instance norm have a bias, which the norm takes away
again; and the decoder joins (upsampled, skip) where ours joins (skip, upsampled), so the input channels change places.
Axes stay those of the array that nnU-Net shows its networks. A 2-D configuration for volumes becomes a 3-D network
whose kernels have one voxel across the slices.

Nothing of the plans is imported or called: names of classes are compared with the few that are known.

References
----------
Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z; format of nnunetv2 2.0 to 2.8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseg.errors import BundleError
from medseg.models.options import ResidualUNetOptions, UNetOptions

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
# Registered twice by nnU-Net's modules, under another name: the same tensors.
_DOUBLES = re.compile(r"(^|\.)all_modules\.|^decoder\.encoder\.")
_NORM_BIAS_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetNetwork:
    """A network of a configuration.

    Parameters
    ----------
    options : UNetOptions or ResidualUNetOptions
    spatial_dims : int
        2 for pictures, 3 for volumes.
    flat : bool
        Whether the configuration is 2-D and the images are volumes; the first axis is across the slices.
    """

    options: UNetOptions | ResidualUNetOptions
    spatial_dims: int
    flat: bool


def by_axis(numbers: Sequence[int], *, flat: bool) -> tuple[int, ...]:
    """Numbers by the axes of a configuration, such as a kernel or a window, by those of the images."""
    return (1, *(int(n) for n in numbers)) if flat else tuple(int(n) for n in numbers)


def nnunet_network(configuration: Mapping[str, Any], *, spatial_dims: int = 3) -> NnunetNetwork:
    """The network that a configuration of plans.json describes.

    Parameters
    ----------
    configuration : mapping
        With what it inherits filled in.
    spatial_dims : int, optional
        Axes of the images, 2 for pictures.

    Raises
    ------
    BundleError
        Another network, or one that `unet` and `residual_unet` cannot be; names what is not known.
    """
    name, arguments = _architecture(configuration)
    if name not in (PLAIN, RESIDUAL):
        raise BundleError(
            f"nnU-Net network {name!r}: medseg runs {PLAIN} and {RESIDUAL}; others need nnU-Net itself"
        )
    stages = int(arguments["n_stages"])
    kernels, strides = _lists(arguments["kernel_sizes"], stages), _lists(arguments["strides"], stages)
    flat = len(kernels[0]) < spatial_dims
    _check(name, arguments, strides)
    shape: dict[str, Any] = {
        "channels": tuple(_numbers(arguments["features_per_stage"], stages)),
        "kernels": tuple(by_axis(kernel, flat=flat) for kernel in kernels),
        "strides": tuple(by_axis(stride, flat=flat) for stride in strides[1:]),
        "norm": "instance",
        "activation": "leaky_relu",
    }
    decoder = set(_numbers(arguments["n_conv_per_stage_decoder"], stages - 1))
    if name == PLAIN:
        counts = set(_numbers(arguments["n_conv_per_stage"], stages)) | decoder
        if len(counts) != 1:
            raise BundleError(
                f"nnU-Net network with {sorted(counts)} convolutions in its levels: expected one number"
            )
        options: UNetOptions | ResidualUNetOptions = UNetOptions(**shape, convolutions=counts.pop())
    else:
        if decoder != {1}:
            raise BundleError(
                f"nnU-Net residual network with {sorted(decoder)} convolutions in its decoder: expected 1"
            )
        options = ResidualUNetOptions(
            **shape, blocks=tuple(_numbers(arguments["n_blocks_per_stage"], stages))
        )
    return NnunetNetwork(options=options, spatial_dims=spatial_dims, flat=flat)


def nnunet_state(weights: Mapping[str, Tensor], network: NnunetNetwork) -> dict[str, Tensor]:
    """Weights under medseg's names, kernels by the axes of the images.

    Parameters
    ----------
    weights : mapping of str to tensor
        `network_weights` of a checkpoint.
    network : NnunetNetwork

    Raises
    ------
    BundleError
        A weight whose name is not that of the network.
    """
    levels = len(network.options.channels)
    state: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
        if _DOUBLES.search(name):
            continue
        target = _renamed(name, levels, residual=isinstance(network.options, ResidualUNetOptions))
        if target == "":
            continue
        kernel = value.float().unsqueeze(2) if network.flat and value.ndim == 4 else value.float()
        state[target] = _joined(target, kernel, network.options.channels)
    return state


def _architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class name without its module, and arguments; plans before 2.3 have other keys."""
    if "architecture" in configuration:
        found = configuration["architecture"]
        return str(found["network_class_name"]).rpartition(".")[2], dict(found["arch_kwargs"])
    name = str(configuration.get("UNet_class_name", ""))
    convolutions = list(configuration.get("n_conv_per_stage_encoder", ()))
    base, most = (
        configuration.get("UNet_base_num_features", 32),
        configuration.get("unet_max_num_features", 320),
    )
    blocks = "n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage"
    return name, {
        "n_stages": len(convolutions),
        "features_per_stage": [min(base * 2**level, most) for level in range(len(convolutions))],
        "kernel_sizes": configuration.get("conv_kernel_sizes"),
        "strides": configuration.get("pool_op_kernel_sizes"),
        blocks: convolutions,
        "n_conv_per_stage_decoder": configuration.get("n_conv_per_stage_decoder"),
    }


def _check(name: str, arguments: Mapping[str, Any], strides: Sequence[Sequence[int]]) -> None:
    """Refuse what changes the numbers and is not known."""
    if max(strides[0]) > 1:
        raise BundleError(f"nnU-Net network whose first level has the stride {list(strides[0])}: expected 1")
    norm, activation = (
        str(arguments.get("norm_op", "InstanceNorm3d")),
        str(arguments.get("nonlin", "LeakyReLU")),
    )
    slope = (arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    eps = (arguments.get("norm_op_kwargs") or {}).get("eps", _NORM_BIAS_EPS)
    known = (
        "InstanceNorm" in norm
        and activation.endswith("LeakyReLU")
        and slope == 0.01
        and eps == _NORM_BIAS_EPS
    )
    if not known:
        raise BundleError(
            f"nnU-Net network with {norm.rpartition('.')[2]} and {activation.rpartition('.')[2]} (slope {slope}, eps "
            f"{eps}): expected InstanceNorm (eps 1e-5) and LeakyReLU (slope 0.01)"
        )
    for key in ("nonlin_first", "squeeze_excitation", "bottleneck_channels", "stochastic_depth_p"):
        if arguments.get(key):
            raise BundleError(
                f"nnU-Net network {name} with {key} {arguments[key]!r}: medseg has none like it"
            )


def _lists(value: Any, stages: int) -> list[list[int]]:
    if not isinstance(value, list | tuple) or len(value) != stages:
        raise BundleError(
            f"plans.json is damaged: expected {stages} lists of kernels and strides, found {value!r}"
        )
    return [[int(n) for n in row] for row in value]


def _numbers(value: Any, count: int) -> list[int]:
    numbers = [value] * count if isinstance(value, int) else list(value)
    if len(numbers) != count:
        raise BundleError(f"plans.json is damaged: expected {count} numbers, found {value!r}")
    return [int(n) for n in numbers]


def _renamed(name: str, levels: int, *, residual: bool) -> str:
    """Our name of a weight; "" where ours has none, because it changes nothing."""
    part = r"(conv|norm)\.(weight|bias)"
    if found := re.fullmatch(rf"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.{part}", name):
        level, number, kind, what = found.groups()
        return _convolution(f"encoder.{level}.{number}", kind, what)
    if residual and (found := re.fullmatch(rf"encoder\.stem\.convs\.(\d+)\.{part}", name)):
        number, kind, what = found.groups()
        return _convolution(f"encoder.0.0.{number}", kind, what)
    if residual and (
        found := re.fullmatch(rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.(conv1|conv2)\.{part}", name)
    ):
        level, block, which, kind, what = found.groups()
        place = int(block) + (1 if level == "0" else 0)
        side = "first" if which == "conv1" else "second"
        return _convolution(f"encoder.{level}.{place}.{side}", kind, what)
    if residual and (
        found := re.fullmatch(rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.(\d+)\.{part}", name)
    ):
        level, block, position, kind, what = found.groups()
        place = int(block) + (1 if level == "0" else 0)
        return _convolution(f"encoder.{level}.{place}.shortcut.{position}", kind, what)
    if found := re.fullmatch(rf"decoder\.stages\.(\d+)\.convs\.(\d+)\.{part}", name):
        stage, number, kind, what = found.groups()
        return _convolution(f"decoder.{levels - 2 - int(stage)}.{number}", kind, what)
    if found := re.fullmatch(r"decoder\.transpconvs\.(\d+)\.(weight|bias)", name):
        return f"up.{levels - 2 - int(found[1])}.{found[2]}"
    if found := re.fullmatch(r"decoder\.seg_layers\.(\d+)\.(weight|bias)", name):
        level = levels - 2 - int(found[1])
        return f"heads.0.{found[2]}" if level == 0 else ""
    raise BundleError(f"the checkpoint holds the weight {name}, which this nnU-Net network does not have")


def _convolution(place: str, kind: str, what: str) -> str:
    if kind == "norm":
        return f"{place}.1.{what}"
    # The norm behind it takes the mean away, and the bias with it.
    return f"{place}.0.weight" if what == "weight" else ""


def _joined(name: str, value: Tensor, channels: Sequence[int]) -> Tensor:
    """First convolution of a decoder level: the skip's channels come first."""
    found = re.fullmatch(r"decoder\.(\d+)\.0\.0\.weight", name)
    if found is None:
        return value
    fine = channels[int(found[1])]
    return torch.cat([value[:, fine:], value[:, :fine]], dim=1)
