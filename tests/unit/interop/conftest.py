"""A small MONAI bundle, written as the model zoo writes them."""

from __future__ import annotations

import copy
import json

import pytest
import torch

CONFIG = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "image_key": "image",
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [4, 8, 8],
        "strides": [2, 2],
        "num_res_units": 1,
        "norm": "batch",
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
            {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [2.0, 2.0, 3.0], "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "@image_key",
                "a_min": -57,
                "a_max": 164,
                "b_min": 0.0,
                "b_max": 1.0,
                "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "@image_key", "device": "@device"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [16, 16, 8],
        "sw_batch_size": 2,
        "overlap": 0.5,
        "device": "@device",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "@image_key"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"},
        ],
    },
    "initialize": ["$monai.utils.set_determinism(seed=123)"],
    "run": ["$@evaluator.run()"],
}
METADATA = {
    "version": "0.2.0",
    "task": "Spleen and liver",
    "description": "A tiny network.",
    "authors": "Nobody",
    "copyright": "Copyright (c) Nobody",
    "intended_use": "Tests.",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "channel_def": {"0": "image"}}},
        "outputs": {
            "pred": {
                "num_channels": 3,
                "channel_def": {"0": "background", "1": "Left Kidney", "2": "right kidney"},
            }
        },
    },
}


@pytest.fixture
def config():
    """The configuration, to be changed."""
    return copy.deepcopy(CONFIG)


@pytest.fixture
def network():
    """The network of the configuration, as MONAI builds it."""
    from monai.networks.nets import UNet

    arguments = {key: value for key, value in CONFIG["network_def"].items() if key != "_target_"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        built = UNet(**arguments)
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return built.eval()


@pytest.fixture
def write(tmp_path, network):
    """Write a bundle: write(config, metadata=, weights=) -> folder."""

    def written(config, *, metadata=METADATA, weights=None):
        folder = tmp_path / "Tiny Bundle"
        for part in ("configs", "models"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "configs" / "inference.json").write_text(json.dumps(config))
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
        torch.save(network.state_dict() if weights is None else weights, folder / "models" / "model.pt")
        return folder

    return written
