"""Transforms of MONAI bundles become our steps, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import BundleError
from medseg.interop.monai_config import MonaiConfig
from medseg.interop.monai_transforms import postprocessing, preprocessing

LOAD = {"_target_": "LoadImaged", "keys": ["image", "label"]}


def steps_of(*transforms, dims=3):
    config = MonaiConfig(
        Path("inference.json"), {"preprocessing": {"_target_": "Compose", "transforms": [LOAD, *transforms]}}
    )
    return preprocessing(config, spatial_dims=dims)


def one(name, **arguments):
    (step,) = steps_of({"_target_": name, "keys": "image", **arguments}).steps
    return step


@pytest.mark.parametrize(
    ("name", "arguments", "step"),
    [
        ("Orientationd", {"axcodes": "LPS"}, {"use": "orient", "to": "LPS"}),
        ("Orientationd", {"as_closest_canonical": True}, {"use": "orient", "to": "RAS"}),
        ("Spacingd", {"pixdim": [1.5, 1.5, 2]}, {"use": "resample", "spacing_mm": [1.5, 1.5, 2.0]}),
        (
            "Spacingd",
            {"pixdim": 2, "mode": ["bilinear", "nearest"]},
            {"use": "resample", "spacing_mm": [2.0] * 3},
        ),
        (
            "ScaleIntensityRanged",
            {"a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True},
            {"use": "normalise", "method": "window", "low": -57, "high": 164, "to": [0, 1], "clip": True},
        ),
        (
            "ScaleIntensityd",
            {},
            {"use": "normalise", "method": "range", "to": [0.0, 1.0], "channelwise": False},
        ),
        ("NormalizeIntensityd", {}, {"use": "standardise", "method": "zscore", "channelwise": False}),
        (
            "NormalizeIntensityd",
            {"subtrahend": 100.0, "divisor": 50.0},
            {
                "use": "normalise",
                "method": "window",
                "low": 100.0,
                "high": 150.0,
                "to": [0.0, 1.0],
                "clip": False,
            },
        ),
        (
            "CropForegroundd",
            {"source_key": "image"},
            {"use": "crop", "method": "foreground", "threshold": 0.0, "margin": 0},
        ),
        ("SpatialPadd", {"spatial_size": [8, 16, 4]}, {"use": "pad", "size": [8, 16, 4], "value": 0.0}),
        ("DivisiblePadd", {"k": 16}, {"use": "pad", "multiple": 16, "value": 0.0}),
    ],
)
def test_known_transforms(name, arguments, step):
    assert one(name, **arguments) == step


def test_what_reads_or_only_concerns_the_mask_is_passed_over():
    found = steps_of(
        {"_target_": "EnsureTyped", "keys": ["image"], "device": "$torch.device('cpu')"},
        {"_target_": "RandFlipd", "keys": "label"},
        {"_target_": "monai.transforms.ScaleIntensityd", "keys": "image", "_disabled_": True},
        {"_target_": "monai.transforms.Orientationd", "keys": "image", "axcodes": "RAS"},
    )
    assert [step["use"] for step in found.steps] == ["orient"]
    assert found.lines[-1] == "Orientationd: orient (to RAS)"


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"},
            "no step that gives the numbers of Lambdad; give these",
        ),
        ({"_target_": "scripts.mine.Orientationd", "keys": "image"}, "scripts.mine.Orientationd"),
        ({"_target_": "Spacingd", "keys": "image", "pixdim": "$[1, 1, 1]"}, "::1::pixdim: the expression"),
        ({"_target_": "Spacingd", "keys": "image", "pixdim": [1, -1, 1]}, "numbers above 0"),
        ({"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, 1], "mode": "nearest"}, "mode 'nearest'"),
        ({"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}, "nonzero True"),
        ({"_target_": "CropForegroundd", "keys": "image", "select_fn": "$lambda x: x > 1"}, "the expression"),
        ({"_target_": "ScaleIntensityd", "keys": "image", "factor": 2.0}, "factor 2.0"),
        ({"_target_": "ScaleIntensityd", "keys": "image", "wings": 2}, "its arguments wings"),
    ],
)
def test_what_cannot_be_mapped_is_refused(transform, said):
    with pytest.raises(BundleError, match=said):
        steps_of(transform)


def test_all_unknown_transforms_are_named_at_once():
    with pytest.raises(BundleError, match="AsDiscreted, GaussianSmoothd"):
        steps_of(
            *(
                {"_target_": name, "keys": "image"}
                for name in ("AsDiscreted", "GaussianSmoothd", "AsDiscreted")
            )
        )
    with pytest.raises(BundleError, match="preprocessing: is missing"):
        preprocessing(MonaiConfig(Path("x"), {}), spatial_dims=3)


def cleaned(*transforms):
    config = MonaiConfig(Path("inference.json"), {"postprocessing": list(transforms)})
    return postprocessing(config, names=("background", "liver", "spleen")).steps


def test_largest_components_are_kept_by_name():
    (step,) = cleaned(
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [2]},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@x"},
    )
    assert step == {"use": "keep_largest", "labels": ["spleen"], "count": 1}


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        ({"_target_": "Activationsd", "keys": "pred", "sigmoid": True}, "may overlap"),
        ({"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}, "may overlap"),
        ({"_target_": "FillHolesd", "keys": "pred"}, "no clean-up step like FillHolesd"),
        (
            {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [3]},
            "applied_labels",
        ),
        (
            {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "independent": False},
            "independent False",
        ),
    ],
)
def test_clean_up_that_is_not_ours_is_refused(transform, said):
    with pytest.raises(BundleError, match=said):
        cleaned(transform)
