"""plans.json and dataset.json of a stock nnU-Net network, so that both tools run one and the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONFIGURATION = "bench"


def plans(
    *,
    patch: Sequence[int],
    features: Sequence[int],
    spacing_mm: Sequence[float],
    convolutions: int = 2,
) -> dict[str, Any]:
    """Plans with one configuration: a PlainConvUNet as the planner of nnU-Net v2 makes them.

    Parameters
    ----------
    patch : sequence of int
        In the axes of nnU-Net's arrays; two or three.
    features : sequence of int
        Channels of each level.
    spacing_mm : sequence of float
        Of the prepared images, by the same axes (three, also for a network of two).
    convolutions : int, optional
        In each level.
    """
    dims, levels = len(patch), len(features)
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"bench_{dims}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch),
        "spacing": list(spacing_mm[-dims:]),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **{
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape"
            for what in ("data", "seg", "probabilities")
        },
        "resampling_fn_data_kwargs": resampling | {"order": 3},
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": _architecture(dims, features, levels, convolutions),
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset999_Bench",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(spacing_mm),
        "original_median_shape_after_transp": list(patch) if dims == 3 else [1, *patch],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": dict.fromkeys(
                ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0
            )
        },
    }


def _architecture(dims: int, features: Sequence[int], levels: int, convolutions: int) -> dict[str, Any]:
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [[3] * dims] * levels,
            "strides": [[1] * dims, *[[2] * dims] * (levels - 1)],
            "n_conv_per_stage": [convolutions] * levels,
            "n_conv_per_stage_decoder": [convolutions] * (levels - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def dataset(class_count: int) -> dict[str, Any]:
    """dataset.json with so many classes, background among them."""
    names = {"background": 0} | {f"structure {n}": n for n in range(1, class_count)}
    return {"channel_names": {"0": "noNorm"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}
