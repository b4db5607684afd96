"""Our settings of a network of MONAI -> the arguments of its class there, plain values only. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medseg.models.monai_options import (
    MonaiActivation,
    MonaiAttentionUNetOptions,
    MonaiBasicUNetOptions,
    MonaiDynUNetOptions,
    MonaiNorm,
    MonaiSegResNetOptions,
    MonaiUNetOptions,
)
from medseg.models.options import NetworkOptions

ACTIVATIONS = {
    "relu": "RELU",
    "leaky_relu": "LEAKYRELU",
    "prelu": "PRELU",
    "elu": "ELU",
    "selu": "SELU",
    "gelu": "GELU",
    "swish": "SWISH",
    "mish": "MISH",
}
"""Our name of an activation -> MONAI's."""

CLASS_NAMES = {
    "monai_unet": "UNet",
    "monai_attention_unet": "AttentionUnet",
    "monai_basic_unet": "BasicUNet",
    "monai_segresnet": "SegResNet",
    "monai_dynunet": "DynUNet",
}
"""`use` of our options -> name of the class below `monai.networks.nets`."""


def monai_arguments(
    options: NetworkOptions, *, spatial_dims: int, in_channels: int, class_count: int
) -> dict[str, Any]:
    """Arguments of the class that `CLASS_NAMES` names; lists, numbers and names, as JSON has them.

    Raises
    ------
    KeyError
        Options of a network that is not MONAI's.
    """
    shape = {"spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": class_count}
    return shape | _ARGUMENTS[type(options)](options)


def _unet(options: MonaiUNetOptions) -> dict[str, Any]:
    return {
        "channels": list(options.channels),
        "strides": [_plain(stride) for stride in options.strides],
        "kernel_size": _plain(options.kernel),
        "up_kernel_size": _plain(options.up_kernel),
        "num_res_units": options.residual_units,
        "act": _activation(options.activation),
        "norm": _norm(options.norm),
        "dropout": options.dropout,
        "bias": options.bias,
        "adn_ordering": options.ordering,
    }


def _attention_unet(options: MonaiAttentionUNetOptions) -> dict[str, Any]:
    return {
        "channels": list(options.channels),
        "strides": [_plain(stride) for stride in options.strides],
        "kernel_size": _plain(options.kernel),
        "up_kernel_size": _plain(options.up_kernel),
        "dropout": options.dropout,
    }


def _basic_unet(options: MonaiBasicUNetOptions) -> dict[str, Any]:
    return {
        "features": [*options.channels, options.last],
        "act": _activation(options.activation),
        "norm": _norm(options.norm),
        "bias": options.bias,
        "dropout": options.dropout,
        "upsample": options.upsampling,
    }


def _segresnet(options: MonaiSegResNetOptions) -> dict[str, Any]:
    return {
        "init_filters": options.width,
        "blocks_down": list(options.blocks),
        "blocks_up": list(options.up_blocks),
        "dropout_prob": options.dropout or None,
        "act": _activation(options.activation),
        "norm": _norm(options.norm),
        "upsample_mode": options.upsampling,
    }


def _dynunet(options: MonaiDynUNetOptions) -> dict[str, Any]:
    strides = [_plain(stride) for stride in options.strides]
    return {
        "kernel_size": [_plain(kernel) for kernel in options.kernels],
        "strides": [1, *strides],
        "upsample_kernel_size": strides
        if options.up_kernels is None
        else [_plain(k) for k in options.up_kernels],
        "filters": list(options.channels),
        "dropout": options.dropout or None,
        "norm_name": _norm(options.norm),
        "act_name": _activation(options.activation),
        "res_block": options.residual,
        "trans_bias": options.up_bias,
    }


_ARGUMENTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    MonaiUNetOptions: _unet,
    MonaiAttentionUNetOptions: _attention_unet,
    MonaiBasicUNetOptions: _basic_unet,
    MonaiSegResNetOptions: _segresnet,
    MonaiDynUNetOptions: _dynunet,
}


def _norm(norm: MonaiNorm) -> list[Any]:
    arguments: dict[str, Any] = {"affine": norm.learns, "eps": norm.eps}
    return [norm.kind, {**({"num_groups": norm.groups} if norm.kind == "group" else {}), **arguments}]


def _activation(activation: MonaiActivation) -> list[Any]:
    arguments: dict[str, Any] = {}
    if activation.kind == "leaky_relu":
        arguments["negative_slope"] = activation.slope
    if activation.kind in ("relu", "leaky_relu"):
        arguments["inplace"] = True
    return [ACTIVATIONS[activation.kind], arguments]


def _plain(number: int | tuple[int, ...]) -> int | list[int]:
    return number if isinstance(number, int) else list(number)
