"""Network options refuse what cannot be built, in words, before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from medseg.errors import ConfigError
from medseg.models.options import NETWORK_OPTIONS, SmallUNetOptions, UNetOptions, check_window, minimum_window

NAMES = ("unet", "residual_unet", "attention_unet", "fcn", "small_unet", "mednext", "swin_unetr")


@pytest.mark.parametrize("use", NAMES)
def test_every_network_has_defaults_and_is_described(use):
    options = NETWORK_OPTIONS.validate_python({"use": use})
    assert options.use == use
    assert options.start_from is None
    assert all(field.description for name, field in type(options).model_fields.items() if name != "use")


def test_options_survive_json():
    options = SmallUNetOptions(channels=(16, 32), deep_supervision=True, start_from="chest-xray-lungs")
    assert NETWORK_OPTIONS.validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"use": "unet", "depth": 4}, "depth"),
        ({"use": "resnet"}, "does not match any of the expected tags"),
        ({"use": "unet", "channels": [32]}, "at least 2 items"),
        ({"use": "small_unet", "channels": [12, 24]}, r"channels \[12\] are not multiples of groups 8"),
        ({"use": "residual_unet", "channels": [8, 16], "blocks": [1]}, "2 channels need 2 entries in blocks"),
        (
            {"use": "fcn", "channels": [8, 16], "score_levels": 3},
            "score_levels is 3, but there are only 2 levels",
        ),
        (
            {"use": "unet", "channels": [8, 16, 24], "strides": [[2, 2, 1]]},
            "3 channels need 2 entries in strides, found 1",
        ),
        (
            {"use": "unet", "channels": [8, 16], "kernels": [[3, 3, 1]]},
            "2 channels need 2 entries in kernels, found 1",
        ),
        ({"use": "fcn", "channels": [8, 16], "strides": [[1, 1, 1]], "score_levels": 1}, "a number above 1"),
        ({"use": "unet", "channels": [8, 16], "kernels": [[3, 3, 2]] * 2}, r"kernels.0.2"),
        (
            {"use": "unet", "channels": [8, 16], "strides": [[2, 2]], "kernels": [[3, 3, 1]] * 2},
            "different numbers of axes: strides 2 and kernels 3",
        ),
        (
            {"use": "small_unet", "channels": [8, 16], "cell": [2, 2], "strides": [[2, 2, 2]]},
            "different numbers of axes: cell 2 and strides 3",
        ),
        (
            {"use": "small_unet", "channels": [8, 16, 24], "blocks": [0, 0, 1]},
            r"above 0 but for the first, found \[0, 0, 1\]",
        ),
        ({"use": "small_unet", "refine": 12}, "refine 12 is not a multiple of groups 8"),
        ({"use": "mednext", "blocks": [1, 1], "expansion": [2]}, "2 blocks need 2 entries in expansion"),
        ({"use": "swin_unetr", "width": 20}, "multiple of 12"),
        ({"use": "unet", "dropout": 1.0}, "less than or equal to 0.9"),
        ({"use": "unet", "start_from": ""}, "at least 1 character"),
    ],
)
def test_wrong_arguments_are_named(given, message):
    with pytest.raises(ValidationError, match=message):
        NETWORK_OPTIONS.validate_python(given)


def test_a_window_too_small_for_the_levels_is_refused():
    assert minimum_window(UNetOptions(channels=(8, 16, 32)), 3) == (8, 8, 8)
    assert minimum_window(SmallUNetOptions(), 2) == (64, 64)
    check_window(SmallUNetOptions(), (64, 96))
    with pytest.raises(ConfigError, match=r"at least 64 voxels, found window \[256, 40\].*at most 4 entries"):
        check_window(SmallUNetOptions(), (256, 40))


def test_strides_by_axis_say_what_fits():
    options = NETWORK_OPTIONS.validate_python(
        {"use": "unet", "channels": [8, 16, 32], "strides": [[2, 2, 1], [2, 2, 1]]}
    )
    assert options.scales(3) == ((1, 1, 1), (2, 2, 1), (4, 4, 1))
    assert minimum_window(options, 3) == (8, 8, 1)
    check_window(options, (8, 9, 1))
    with pytest.raises(
        ConfigError,
        match=r"shrinks the window 4 x 4 x 1 times and needs edges of at least 8 x 8 x 1 voxels, found window "
        r"\[8, 4, 1\].*at most 2 entries",
    ):
        check_window(options, (8, 4, 1))
    with pytest.raises(
        ConfigError, match=r"model.strides gives numbers for 3 axes, the images have 2; give 2 each"
    ):
        check_window(options, (32, 32))


def test_cells_count_as_the_first_stride():
    options = SmallUNetOptions(channels=(8, 16), cell=(2, 2, 1), strides=((2, 2, 2),))
    assert options.scales(3) == ((2, 2, 1), (4, 4, 2))
    assert options.total_stride(3) == (4, 4, 2)
    assert SmallUNetOptions().total_stride(2) == (32, 32)
    with pytest.raises(ConfigError, match=r"model.cell gives numbers for 3 axes, the images have 2"):
        SmallUNetOptions(cell=(2, 2, 1)).scales(2)


def test_networks_without_channels_in_their_settings_tell_them():
    mednext = NETWORK_OPTIONS.validate_python({"use": "mednext", "width": 16, "blocks": [1, 1, 1]})
    assert (mednext.levels, mednext.channels, mednext.total_stride(3)) == (3, (16, 32, 64), (4, 4, 4))
    swin = NETWORK_OPTIONS.validate_python({"use": "swin_unetr"})
    assert (swin.levels, swin.total_stride(2)) == (6, (32, 32))
    with pytest.raises(ConfigError, match=r"at least 64 voxels.*choose a network with fewer levels"):
        check_window(swin, (40, 56, 40))


def test_reading_options_and_bundles_imports_no_heavy_package():
    code = (
        "import sys; import medseg.models.bundle, medseg.models.card, medseg.training.loss_options; "
        "medseg.models.bundle.list_bundles(); "
        "print([m for m in ('torch', 'monai', 'scipy', 'safetensors') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
