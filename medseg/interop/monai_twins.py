"""Our networks as classes of MONAI, where one gives the same numbers: its arguments and its weights.

`unet` with two convolutions per level is DynUNet; its decoder joins (upsampled, skip) where ours joins (skip,
upsampled), so the channels change places. `swin_unetr` and the `monai_*` networks are MONAI's own. Others have no
class there: they are named as medseg's, which a MONAI user can run with medseg installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseg.interop.monai_networks import NETS, their_name
from medseg.models.monai_arguments import CLASS_NAMES, monai_arguments
from medseg.models.network import SegmentationNetwork
from medseg.models.options import NetworkOptions, SwinUNETROptions, UNetOptions

BUILDER = "medseg.interop.monai_module.build"
"""What `_target_` names for a network that MONAI does not have."""
_ACTIVATIONS: dict[str, list[Any]] = {
    "relu": ["RELU", {"inplace": True}],
    "leaky_relu": ["LEAKYRELU", {"inplace": True, "negative_slope": 0.01}],
    "silu": ["SWISH", {}],
    "gelu": ["GELU", {}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A network as `network_def` of a MONAI bundle.

    Parameters
    ----------
    definition : dict
        `_target_` and plain arguments.
    state : mapping of str to tensor
        Weights under the names of that class.
    needs_medseg : bool
        Whether the class is medseg's.
    """

    definition: dict[str, Any]
    state: Mapping[str, Tensor]
    needs_medseg: bool


def twin(network: SegmentationNetwork) -> Twin:
    """The class of MONAI that gives the same numbers, or our own."""
    options, state = network.options, network.state_dict()
    shape = {
        "spatial_dims": network.spatial_dims,
        "in_channels": network.in_channels,
        "out_channels": network.class_count,
    }
    if options.use in CLASS_NAMES:
        arguments = monai_arguments(
            options,
            spatial_dims=network.spatial_dims,
            in_channels=network.in_channels,
            class_count=network.class_count,
        )
        named = {their_name(name, options.use): value for name, value in state.items()}
        return _of(CLASS_NAMES[options.use], arguments, named)
    if isinstance(options, SwinUNETROptions):
        named = {their_name(n, options.use): v for n, v in state.items() if not re.match(r"heads\.[1-9]", n)}
        return _of("SwinUNETR", shape | _swin(options), named)
    if isinstance(options, UNetOptions) and _is_dynunet(options):
        return _of("DynUNet", shape | _dynunet(options, network.spatial_dims), _dynunet_state(state, options))
    value = options.model_dump(mode="json", exclude={"start_from"})
    counts = {k: v for k, v in shape.items() if k != "out_channels"} | {"class_count": network.class_count}
    return Twin(
        definition={"_target_": BUILDER, "options": value, **counts}, state=dict(state), needs_medseg=True
    )


def _of(name: str, arguments: dict[str, Any], state: Mapping[str, Tensor]) -> Twin:
    return Twin(definition={"_target_": f"{NETS}.{name}", **arguments}, state=state, needs_medseg=False)


def _swin(options: SwinUNETROptions) -> dict[str, Any]:
    return {
        "feature_size": options.width,
        "depths": list(options.blocks),
        "window_size": options.attention_window,
        "use_v2": options.residual_stages,
    }


def _is_dynunet(options: UNetOptions) -> bool:
    # Its decoder has the kernels of the level below, ours those of its own.
    same_kernels = len(set(options.kernels or ())) <= 1
    return options.convolutions == 2 and len(options.channels) >= 3 and same_kernels


def _dynunet(options: UNetOptions, dims: int) -> dict[str, Any]:
    steps = [list(step) for step in options.steps(dims)]
    groups = {"instance": None, "batch": None, "group": options.groups}[options.norm]
    norm: list[Any] = [options.norm, {"affine": True}]
    if groups is not None:
        norm = ["group", {"num_groups": groups}]
    return {
        "kernel_size": [list(options.kernel(level, dims)) for level in range(options.levels)],
        "strides": steps,
        "upsample_kernel_size": steps[1:],
        "filters": list(options.channels),
        "norm_name": norm,
        "act_name": _ACTIVATIONS[options.activation],
        "trans_bias": True,
    }


def _dynunet_state(state: Mapping[str, Tensor], options: UNetOptions) -> dict[str, Tensor]:
    last, found = options.levels - 1, {}
    for name, value in state.items():
        theirs = _dynunet_name(name, last)
        if theirs is None:
            continue
        if match := re.fullmatch(r"upsamples\.(\d+)\.conv_block\.conv1\.conv\.weight", theirs):
            fine = options.channels[last - 1 - int(match[1])]
            value = torch.cat([value[:, fine:], value[:, :fine]], dim=1)
        found[theirs] = value
    # MONAI's class registers its layers a second time, level within level.
    return found | {second: found[first] for first, second in _doubles(found, last)}


def _dynunet_name(name: str, last: int) -> str | None:
    """None for heads that training alone uses."""
    if match := re.fullmatch(r"(encoder|decoder)\.(\d+)\.(\d)\.(\d)\.(\w+)", name):
        side, level, number, part, what = match.groups()
        layer = f"conv{int(number) + 1}.conv" if part == "0" else f"norm{int(number) + 1}"
        if side == "decoder":
            return f"upsamples.{last - 1 - int(level)}.conv_block.{layer}.{what}"
        return f"{_encoder_place(int(level), last)}.{layer}.{what}"
    if match := re.fullmatch(r"up\.(\d+)\.(\w+)", name):
        return f"upsamples.{last - 1 - int(match[1])}.transp_conv.conv.{match[2]}"
    if match := re.fullmatch(r"heads\.(\d+)\.(\w+)", name):
        return f"output_block.conv.conv.{match[2]}" if match[1] == "0" else None
    raise ValueError(f"unet has no weight {name}")


def _encoder_place(level: int, last: int) -> str:
    if level == 0:
        return "input_block"
    return "bottleneck" if level == last else f"downsamples.{level - 1}"


def _doubles(found: Mapping[str, Tensor], last: int) -> list[tuple[str, str]]:
    """(name, the same below skip_layers)."""
    pairs = []
    for name in found:
        for level in range(last + 1):
            inside = f"skip_layers{'.next_layer' * level}"
            encoder = _encoder_place(level, last)
            if name.startswith(f"{encoder}."):
                place = inside if level == last else f"{inside}.downsample"
                pairs.append((name, f"{place}.{name.removeprefix(f'{encoder}.')}"))
            up = f"upsamples.{last - 1 - level}."
            if level < last and name.startswith(up):
                pairs.append((name, f"{inside}.upsample.{name.removeprefix(up)}"))
    return pairs


def supports(options: NetworkOptions) -> bool:
    """Whether MONAI has a class that gives the numbers of these options."""
    own = options.use in CLASS_NAMES or isinstance(options, SwinUNETROptions)
    return own or (isinstance(options, UNetOptions) and _is_dynunet(options))
