"""Result folders of nnU-Net v2 with random weights, written from its naming alone, and its plain network by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"


def arguments(
    name: str, kernels: Sequence[Sequence[int]], strides: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """`arch_kwargs` of a small network with 8, 16, ... channels."""
    stages = len(kernels)
    blocks = [2] * stages if name == PLAIN else [1, 3, 2, 2][:stages]
    return {
        "n_stages": stages,
        "features_per_stage": [8 * 2**level for level in range(stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{len(kernels[0])}d",
        "kernel_sizes": [list(row) for row in kernels],
        "strides": [list(row) for row in strides],
        ("n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage"): blocks,
        "n_conv_per_stage_decoder": [2 if name == PLAIN else 1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{len(kernels[0])}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def weights(
    name: str, kwargs: Mapping[str, Any], *, in_channels: int, outputs: int, seed: int
) -> dict[str, Tensor]:
    """Random weights under nnU-Net's names, with the copies under other names that its modules register."""
    random, found = torch.Generator().manual_seed(seed), {}

    def draw(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=random) * scale + shift

    def conv_norm(place: str, before: int, after: int, kernel: Sequence[int], *, bias: bool = True) -> None:
        fan = before * int(torch.tensor(list(kernel)).prod())
        parts = {"conv.weight": draw(after, before, *kernel, scale=(2 / fan) ** 0.5)}
        if bias:
            parts["conv.bias"] = draw(after, scale=0.3)
        parts |= {"norm.weight": draw(after, scale=0.2, shift=1.0), "norm.bias": draw(after, scale=0.3)}
        for key, value in parts.items():
            found[f"{place}.{key}"] = value
            found[f"{place}.{key.replace('conv.', 'all_modules.0.').replace('norm.', 'all_modules.1.')}"] = (
                value
            )

    features, kernels, strides = (kwargs[key] for key in ("features_per_stage", "kernel_sizes", "strides"))
    if name == RESIDUAL:
        conv_norm("encoder.stem.convs.0", in_channels, features[0], kernels[0])
    before = features[0] if name == RESIDUAL else in_channels
    for stage, (after, kernel) in enumerate(zip(features, kernels, strict=True)):
        if name == PLAIN:
            for number in range(kwargs["n_conv_per_stage"][stage]):
                conv_norm(
                    f"encoder.stages.{stage}.0.convs.{number}",
                    before if number == 0 else after,
                    after,
                    kernel,
                )
        else:
            for block in range(kwargs["n_blocks_per_stage"][stage]):
                place, first = f"encoder.stages.{stage}.blocks.{block}", before if block == 0 else after
                conv_norm(f"{place}.conv1", first, after, kernel)
                conv_norm(f"{place}.conv2", after, after, kernel)
                if first != after:
                    number = int(block == 0 and max(strides[stage]) > 1)
                    conv_norm(f"{place}.skip.{number}", first, after, [1] * len(kernel), bias=False)
        before = after
    for key, value in list(found.items()):
        found[f"decoder.{key}"] = value
    for stage, (coarse, fine) in enumerate(pairwise(reversed(features))):
        level = len(features) - 2 - stage
        stride = strides[level + 1]
        found[f"decoder.transpconvs.{stage}.weight"] = draw(coarse, fine, *stride, scale=coarse**-0.5)
        found[f"decoder.transpconvs.{stage}.bias"] = draw(fine, scale=0.3)
        for number in range(kwargs["n_conv_per_stage_decoder"][stage]):
            place = f"decoder.stages.{stage}.convs.{number}"
            conv_norm(place, 2 * fine if number == 0 else fine, fine, kernels[level])
        found[f"decoder.seg_layers.{stage}.weight"] = draw(
            outputs, fine, *[1] * len(stride), scale=2 * fine**-0.5
        )
        found[f"decoder.seg_layers.{stage}.bias"] = draw(outputs, scale=0.1)
    return found


def plain_forward(state: Mapping[str, Tensor], kwargs: Mapping[str, Any], x: Tensor) -> Tensor:
    """Logits of the plain network, spelled out with functions of torch."""
    flat = x.ndim == 4
    conv, up = (F.conv2d, F.conv_transpose2d) if flat else (F.conv3d, F.conv_transpose3d)

    def layer(place: str, x: Tensor, stride: Sequence[int]) -> Tensor:
        kernel = state[f"{place}.conv.weight"]
        x = conv(
            x,
            kernel,
            state[f"{place}.conv.bias"],
            stride=list(stride),
            padding=[k // 2 for k in kernel.shape[2:]],
        )
        x = F.instance_norm(
            x, weight=state[f"{place}.norm.weight"], bias=state[f"{place}.norm.bias"], eps=1e-5
        )
        return F.leaky_relu(x, 0.01)

    maps, strides = [], kwargs["strides"]
    for stage, count in enumerate(kwargs["n_conv_per_stage"]):
        for number in range(count):
            x = layer(
                f"encoder.stages.{stage}.0.convs.{number}",
                x,
                strides[stage] if number == 0 else [1] * len(strides[0]),
            )
        maps.append(x)
    for stage, count in enumerate(kwargs["n_conv_per_stage_decoder"]):
        level = len(maps) - 2 - stage
        place = f"decoder.transpconvs.{stage}"
        x = up(x, state[f"{place}.weight"], state[f"{place}.bias"], stride=list(strides[level + 1]))
        x = torch.cat([x, maps[level]], dim=1)
        for number in range(count):
            x = layer(f"decoder.stages.{stage}.convs.{number}", x, [1] * len(strides[0]))
    last = f"decoder.seg_layers.{len(maps) - 2}"
    return conv(x, state[f"{last}.weight"], state[f"{last}.bias"])


def configuration(
    *,
    patch: Sequence[int],
    spacing: Sequence[float],
    name: str = PLAIN,
    kernels: Sequence[Sequence[int]] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
    schemes: Sequence[str] = ("ZScoreNormalization",),
    masked: Sequence[bool] = (False,),
) -> dict[str, Any]:
    """A configuration as nnU-Net 2.3 and later plan it."""
    dims = len(patch)
    kernels = kernels or [[3] * dims] * 3
    strides = strides or [[1] * dims, [2] * dims, [2] * dims]
    spline = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "plans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(n) for n in patch],
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(masked),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**spline, "order": 3},
        "resampling_fn_seg_kwargs": {**spline, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**spline, "order": 1},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": arguments(name, kernels, strides),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }


def older(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration as nnU-Net before 2.3 wrote it, without `architecture`."""
    found = {key: value for key, value in settings.items() if key != "architecture"}
    architecture = settings["architecture"]
    kwargs = architecture["arch_kwargs"]
    return found | {
        "UNet_class_name": architecture["network_class_name"].rpartition(".")[2],
        "UNet_base_num_features": 8,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": kwargs.get("n_conv_per_stage", kwargs.get("n_blocks_per_stage")),
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [2] * len(settings["patch_size"]),
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
    }


def write_folder(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    name: str = "3d_fullres",
    channels: Sequence[str] = ("MRI",),
    labels: Mapping[str, Any] | None = None,
    order: Sequence[int] | None = None,
    transpose: Sequence[int] = (0, 1, 2),
    folds: Sequence[int | str] = (0,),
    mirror: Sequence[int] | None = None,
    reader: str = "NibabelIO",
    intensities: Mapping[str, Mapping[str, float]] | None = None,
    ending: str = ".nii.gz",
    seed: int = 0,
) -> dict[str, Any]:
    """Write a result folder whose networks have random weights; its plans.

    `settings` is a configuration, in either form, or `configuration`'s for a network of the old form.
    """
    labels = labels or {"background": 0, "first": 1, "second": 2}
    about = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        "labels": dict(labels),
        "numTraining": 7,
        "file_ending": ending,
    }
    if order is not None:
        about["regions_class_order"] = list(order)
    inverse = [list(transpose).index(axis) for axis in range(3)]
    plans = {
        "dataset_name": "Dataset999_Made",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [20, 30, 40],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": inverse,
        "configurations": {name: dict(settings)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(number): {"median": 1.0} for number in range(len(channels))
        }
        | dict(intensities or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "dataset_fingerprint.json").write_text("{}", encoding="utf-8")
    architecture = settings.get("architecture")
    if architecture is None:
        network = settings["UNet_class_name"]
        kwargs = arguments(network, settings["conv_kernel_sizes"], settings["pool_op_kernel_sizes"])
    else:
        network, kwargs = architecture["network_class_name"].rpartition(".")[2], architecture["arch_kwargs"]
    outputs = len(order) if order is not None else len([n for n in labels if n != "ignore"])
    for position, fold in enumerate(folds):
        checkpoint(
            folder / f"fold_{fold}" / "checkpoint_final.pth",
            weights(network, kwargs, in_channels=len(channels), outputs=outputs, seed=seed + position),
            plans=plans,
            about=about,
            configuration=name,
            fold=fold,
            mirror=mirror,
        )
    return plans


def checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    plans: Mapping[str, Any],
    about: Mapping[str, Any],
    configuration: str,
    fold: int | str = 0,
    mirror: Sequence[int] | None = None,
    trainer: str = "nnUNetTrainer",
    **more: Any,
) -> None:
    """Write a checkpoint with the keys of `nnUNetTrainer.save_checkpoint`; its scores are NumPy scalars."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "network_weights": dict(state),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.25)]]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "plans": dict(plans),
            "configuration": configuration,
            "fold": fold,
            "dataset_json": dict(about),
            "device": torch.device("cpu"),
        },
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": None if mirror is None else tuple(mirror),
    }
    torch.save(value | more, path)
