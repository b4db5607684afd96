"""`network_def` becomes options of the registry, or is refused by name."""

from __future__ import annotations

import pytest

from medseg.errors import BundleError
from medseg.interop.monai_networks import monai_model
from medseg.models.monai_arguments import monai_arguments

UNET = {"_target_": "UNet", "channels": [4, 8], "strides": [2]}


def test_names_of_the_zoo_are_understood():
    found = monai_model(
        {
            "_target_": "monai.networks.nets.unet.UNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 4,
            "channels": [16, 32, 64],
            "strides": [2, 2, 2],
            "num_res_units": 2,
            "norm": ["GROUP", {"num_groups": 4}],
            "act": ["LeakyReLU", {"negative_slope": 0.1, "inplace": True}],
            "dropout": 0.15,
        }
    )
    assert (found.spatial_dims, found.in_channels, found.class_count) == (2, 1, 4)
    options = found.options
    assert options.use == "monai_unet"
    assert options.strides == (2, 2)
    assert (options.norm.kind, options.norm.groups) == ("group", 4)
    assert (options.activation.kind, options.activation.slope) == ("leaky_relu", 0.1)
    assert (options.residual_units, options.dropout) == (2, 0.15)


@pytest.mark.parametrize(
    "definition",
    [
        {**UNET, "spatial_dims": 3, "num_res_units": 1, "act": "swish", "bias": False},
        {"_target_": "BasicUNet", "spatial_dims": 2, "features": [4, 4, 8, 8, 8, 4]},
        {"_target_": "AttentionUnet", "spatial_dims": 3, "channels": [4, 8], "strides": [2]},
        {
            "_target_": "SegResNet",
            "init_filters": 16,
            "blocks_down": [1, 2],
            "blocks_up": [1],
            "dropout_prob": 0.2,
        },
        {
            "_target_": "DynUNet",
            "kernel_size": [[3, 3, 1], 3, 3],
            "strides": [1, [2, 2, 1], 2],
            "upsample_kernel_size": [[2, 2, 1], 2],
            "filters": [4, 8, 8],
            "deep_supervision": True,
            "deep_supr_num": 1,
        },
        {"_target_": "SwinUNETR", "img_size": 96, "feature_size": 24, "use_checkpoint": False},
    ],
)
def test_arguments_come_back_as_they_went(definition):
    found = monai_model(definition)
    if found.options.use == "swin_unetr":
        assert found.options.width == 24
        return
    shape = {
        "spatial_dims": found.spatial_dims,
        "in_channels": found.in_channels,
        "class_count": found.class_count,
    }
    again = monai_model({"_target_": definition["_target_"], **monai_arguments(found.options, **shape)})
    assert again == found


def test_dynunet_without_filters_has_those_of_nnunet():
    kernels, strides = [[3, 3]] * 8, [1, 2, 2, 2, 2, 2, 2, 2]
    flat = {"_target_": "DynUNet", "spatial_dims": 2, "kernel_size": kernels, "strides": strides}
    assert monai_model({**flat, "upsample_kernel_size": strides[1:]}).options.channels == (
        *(32, 64, 128, 256, 512, 512, 512, 512),
    )
    deep = {"_target_": "DynUNet", "kernel_size": [3] * 6, "strides": [1, 2, 2, 2, 2, 2]}
    assert monai_model({**deep, "upsample_kernel_size": [2] * 5}).options.channels == (
        32,
        64,
        128,
        256,
        320,
        320,
    )


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ({"_target_": "scripts.networks.UNet", "channels": [4, 8], "strides": [2]}, "never imported"),
        ({"_target_": "os.system", "command": "true"}, "never imported"),
        ("UNet", "none that medseg can build"),
        ({**UNET, "wings": 2}, "does not know the arguments wings of UNet"),
        ({**UNET, "norm": ["LAYER", {}]}, "normalisation .*LAYER"),
        ({**UNET, "act": ["elu", {"alpha": 2.0}]}, "activation"),
        ({**UNET, "spatial_dims": 1}, "spatial_dims 2 or 3"),
        ({**UNET, "out_channels": "three"}, "whole numbers"),
        ({**UNET, "kernel_size": 4}, "cannot be monai_unet here: kernel"),
        ({"_target_": "UNet", "channels": [4, 8]}, "needs the argument strides"),
        ({"_target_": "SegResNet", "use_conv_final": False}, "use_conv_final False"),
        ({"_target_": "SwinUNETR", "num_heads": [6, 12, 24, 48]}, "num_heads"),
        ({"_target_": "DynUNet", "kernel_size": [3, 3, 3], "strides": [2, 2, 2]}, "smaller than the image"),
    ],
)
def test_what_has_no_counterpart_is_refused(definition, said):
    with pytest.raises(BundleError, match=said):
        monai_model(definition)
