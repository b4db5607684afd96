"""`network_def` of a MONAI bundle -> networks of the registry, and its weights under our names. Imports no torch.

An argument that changes numbers and has no counterpart is refused by name; one that only says how the class trains
or saves memory is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from medseg.errors import BundleError
from medseg.interop.monai_config import class_name, is_monai
from medseg.models.monai_arguments import ACTIVATIONS, CLASS_NAMES
from medseg.models.options import NETWORK_OPTIONS, NetworkOptions

if TYPE_CHECKING:
    from torch import Tensor

NETS = "monai.networks.nets"
_OUR_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {
    "MEMSWISH": "swish",
    "SILU": "swish",
}
_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiModel:
    """A network that a bundle describes.

    Parameters
    ----------
    options : NetworkOptions
    spatial_dims : {2, 3}
    in_channels, class_count : int
        C and L.
    """

    options: NetworkOptions
    spatial_dims: Literal[2, 3]
    in_channels: int
    class_count: int


class _Arguments:
    """Arguments of a network, taken one by one; what is left in the end is not understood."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self.values = {key: value for key, value in values.items() if not key.startswith("_")}
        self.name = name
        self.dims = 3

    def take(self, key: str, default: Any = _MISSING) -> Any:
        if key in self.values:
            return self.values.pop(key)
        if default is _MISSING:
            raise BundleError(f"network_def: {self.name} needs the argument {key}, which is not there")
        return default

    def ignore(self, *keys: str) -> None:
        for key in keys:
            self.values.pop(key, None)

    def only(self, key: str, *allowed: Any) -> None:
        """An argument that we have in one form alone."""
        found = self.values.pop(key, allowed[0])
        if found not in allowed:
            raise BundleError(
                f"network_def: {self.name} with {key} {found!r}; medseg has it with {key} {allowed[0]!r} alone"
            )

    def dropout(self, key: str) -> float:
        value = self.values.pop(key, None)
        return float(value) if isinstance(value, int | float) else 0.0

    def finish(self) -> None:
        if self.values:
            raise BundleError(
                f"network_def: medseg does not know the arguments {', '.join(sorted(self.values))} of {self.name}"
            )


def monai_model(definition: Any) -> MonaiModel:
    """The network of `network_def`, references already followed.

    Raises
    ------
    BundleError
        A class that is not on the list, or arguments that our networks do not have.
    """
    name = class_name(definition)
    ours = next((key for key, names in _CLASSES.items() if name in names), None)
    if ours is None or not is_monai(definition, NETS):
        found = definition.get("_target_") if isinstance(definition, Mapping) else definition
        known = ", ".join(names[0] for names in _CLASSES.values())
        raise BundleError(
            f"network_def: the network {found!r} is none that medseg can build ({known} of {NETS}); "
            "classes that a bundle "
            "brings along as code are never imported"
        )
    arguments = _Arguments(definition, name)
    dims, channels = arguments.take("spatial_dims", 3), arguments.take("in_channels", 1)
    classes = arguments.take("out_channels", 2)
    if dims not in (2, 3) or not all(isinstance(n, int) and n > 0 for n in (channels, classes)):
        raise BundleError(
            f"network_def: expected spatial_dims 2 or 3 and whole numbers of channels, found {dims!r}, "
            f"{channels!r} in, "
            f"{classes!r} out"
        )
    arguments.dims = dims
    value = _READERS[ours](arguments)
    arguments.finish()
    try:
        options = NETWORK_OPTIONS.validate_python({"use": ours, **value})
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise BundleError(f"network_def: {name} cannot be {ours} here: {where}: {first['msg']}") from err
    return MonaiModel(options=options, spatial_dims=dims, in_channels=channels, class_count=classes)


def monai_state(weights: Mapping[str, Tensor], options: NetworkOptions) -> dict[str, Tensor]:
    """Weights of a bundle under the names of our network.

    Parameters
    ----------
    weights : mapping of str to tensor
        State of the class of MONAI.
    options : NetworkOptions
        What `monai_model` made of it.
    """
    state = {}
    for name, value in weights.items():
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
        # DynUNet registers each layer twice, and heads that only training uses.
        if name.startswith(("skip_layers.", "deep_supervision_heads.")):
            continue
        state[_our_name(name, options.use)] = value
    return state


def their_name(name: str, use: str) -> str:
    """The name that MONAI's class gives to a weight of ours; the inverse of `monai_state`."""
    if use == "swin_unetr" and name.startswith("heads.0."):
        return f"out.conv.conv.{name.removeprefix('heads.0.')}"
    return name.removeprefix("body.")


def _our_name(name: str, use: str) -> str:
    if use != "swin_unetr":
        return f"body.{name}"
    if name.startswith("out.conv.conv."):
        return f"heads.0.{name.removeprefix('out.conv.conv.')}"
    # Weights from before MONAI 0.9 call the two layers of a perceptron as their paper does.
    return f"body.{name.replace('.mlp.fc1.', '.mlp.linear1.').replace('.mlp.fc2.', '.mlp.linear2.')}"


def _unet(given: _Arguments) -> dict[str, Any]:
    channels = given.take("channels")
    return {
        "channels": channels,
        # More than it needs are allowed there, and not looked at.
        "strides": given.take("strides")[: len(channels) - 1],
        "kernel": given.take("kernel_size", 3),
        "up_kernel": given.take("up_kernel_size", 3),
        "residual_units": given.take("num_res_units", 0),
        "activation": _activation(given.take("act", "PRELU"), given.name),
        "norm": _norm(given.take("norm", "INSTANCE"), given.name),
        "dropout": given.dropout("dropout"),
        "bias": given.take("bias", True),
        "ordering": given.take("adn_ordering", "NDA"),
    }


def _attention_unet(given: _Arguments) -> dict[str, Any]:
    channels = given.take("channels")
    return {
        "channels": channels,
        "strides": given.take("strides")[: len(channels) - 1],
        "kernel": given.take("kernel_size", 3),
        "up_kernel": given.take("up_kernel_size", 3),
        "dropout": given.dropout("dropout"),
    }


def _basic_unet(given: _Arguments) -> dict[str, Any]:
    features = given.take("features", [32, 32, 64, 128, 256, 32])
    return {
        "channels": features[:-1],
        "last": features[-1],
        "activation": _activation(given.take("act", ["LEAKYRELU", {"negative_slope": 0.1}]), given.name),
        "norm": _norm(given.take("norm", ["instance", {"affine": True}]), given.name),
        "bias": given.take("bias", True),
        "dropout": given.dropout("dropout"),
        "upsampling": given.take("upsample", "deconv"),
    }


def _segresnet(given: _Arguments) -> dict[str, Any]:
    given.only("use_conv_final", True)
    named = given.take("norm_name", "")
    groups = given.take("num_groups", 8)
    norm = given.take("norm", ["GROUP", {"num_groups": 8}])
    return {
        "width": given.take("init_filters", 8),
        "blocks": given.take("blocks_down", [1, 2, 2, 4]),
        "up_blocks": given.take("blocks_up", [1, 1, 1]),
        "dropout": given.dropout("dropout_prob"),
        "activation": _activation(given.take("act", "RELU"), given.name),
        "norm": _norm([named, {"num_groups": groups}] if named else norm, given.name),
        "upsampling": given.take("upsample_mode", "nontrainable"),
    }


def _dynunet(given: _Arguments) -> dict[str, Any]:
    given.ignore("deep_supervision", "deep_supr_num")
    strides, kernels = given.take("strides"), given.take("kernel_size")
    if max(strides[0] if isinstance(strides[0], list) else [strides[0]]) > 1:
        raise BundleError(
            f"network_def: {given.name} whose first stride is {strides[0]}: its masks are smaller than the image"
        )
    most = 320 if given.dims == 3 else 512
    filters = given.take("filters", None) or [min(32 << level, most) for level in range(len(strides))]
    return {
        "channels": filters[: len(strides)],
        "kernels": kernels,
        "strides": strides[1:],
        "up_kernels": given.take("upsample_kernel_size"),
        "dropout": given.dropout("dropout"),
        "norm": _norm(given.take("norm_name", ["INSTANCE", {"affine": True}]), given.name),
        "activation": _activation(
            given.take("act_name", ["leakyrelu", {"negative_slope": 0.01}]), given.name
        ),
        "residual": given.take("res_block", False),
        "up_bias": given.take("trans_bias", False),
    }


def _swin_unetr(given: _Arguments) -> dict[str, Any]:
    given.ignore("img_size", "use_checkpoint", "drop_rate", "attn_drop_rate", "dropout_path_rate")
    given.only("num_heads", [3, 6, 12, 24])
    given.only("norm_name", "instance", "INSTANCE")
    for key, value in (("normalize", True), ("downsample", "merging"), ("patch_size", 2)):
        given.only(key, value)
    for key, standard in (
        ("qkv_bias", True),
        ("mlp_ratio", 4.0),
        ("patch_norm", False),
        ("use_hyena", False),
    ):
        given.only(key, standard)
    window = _row(given.take("window_size", 7))
    if len(set(window)) > 1:
        raise BundleError(
            f"network_def: {given.name} with window_size {window}; medseg has one number for all axes"
        )
    return {
        "width": given.take("feature_size", 24),
        "blocks": given.take("depths", [2, 2, 2, 2]),
        "attention_window": window[0],
        "residual_stages": given.take("use_v2", False),
    }


_READERS: dict[str, Callable[[_Arguments], dict[str, Any]]] = {
    "monai_unet": _unet,
    "monai_attention_unet": _attention_unet,
    "monai_basic_unet": _basic_unet,
    "monai_segresnet": _segresnet,
    "monai_dynunet": _dynunet,
    "swin_unetr": _swin_unetr,
}
_CLASSES: dict[str, tuple[str, ...]] = {
    **{use: (name,) for use, name in CLASS_NAMES.items()},
    "monai_unet": ("UNet", "Unet"),
    "monai_attention_unet": ("AttentionUnet", "AttentionUNet"),
    "monai_basic_unet": ("BasicUNet", "BasicUnet", "basicunet", "Basicunet"),
    "monai_dynunet": ("DynUNet", "DynUnet", "Dynunet"),
    "swin_unetr": ("SwinUNETR",),
}


def _row(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _named(value: Any) -> tuple[str, dict[str, Any]]:
    """`name`, or `[name, {arguments}]`."""
    if isinstance(value, str):
        return value, {}
    if (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], Mapping)
    ):
        return value[0], dict(value[1])
    return str(value), {}


def _norm(value: Any, where: str) -> dict[str, Any]:
    name, arguments = _named(value)
    kind = {"INSTANCE": "instance", "INSTANCE_NVFUSER": "instance", "BATCH": "batch", "GROUP": "group"}.get(
        name.upper()
    )
    found: dict[str, Any] = {"kind": kind}
    for theirs, ours in (("num_groups", "groups"), ("affine", "affine"), ("eps", "eps")):
        if theirs in arguments:
            found[ours] = arguments.pop(theirs)
    found.setdefault("affine", name.upper() != "INSTANCE")
    arguments.pop("num_channels", None)
    if kind is None or arguments:
        raise BundleError(
            f"network_def: {where} with the normalisation {value!r}; medseg knows instance, batch and group"
        )
    return found


def _activation(value: Any, where: str) -> dict[str, Any]:
    name, arguments = _named(value)
    kind = _OUR_ACTIVATIONS.get(name.upper())
    for key in ("inplace", "init"):
        arguments.pop(key, None)
    found: dict[str, Any] = {"kind": kind}
    if kind == "leaky_relu":
        found["slope"] = arguments.pop("negative_slope", 0.01)
    if arguments.get("num_parameters", 1) == 1:
        arguments.pop("num_parameters", None)
    if kind is None or arguments:
        raise BundleError(
            f"network_def: {where} with the activation {value!r}; medseg knows {', '.join(ACTIVATIONS)}"
        )
    return found
