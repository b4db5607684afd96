"""Network options refuse what cannot be built, in words, before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from medseg.errors import ConfigError
from medseg.models.options import NETWORK_OPTIONS, SmallUNetOptions, UNetOptions, check_window, minimum_window

NAMES = ("unet", "residual_unet", "attention_unet", "fcn", "small_unet")


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
        ({"use": "unet", "dropout": 1.0}, "less than or equal to 0.9"),
        ({"use": "unet", "start_from": ""}, "at least 1 character"),
    ],
)
def test_wrong_arguments_are_named(given, message):
    with pytest.raises(ValidationError, match=message):
        NETWORK_OPTIONS.validate_python(given)


def test_a_window_too_small_for_the_levels_is_refused():
    assert minimum_window(UNetOptions(channels=(8, 16, 32))) == 8
    assert minimum_window(SmallUNetOptions()) == 64
    check_window(SmallUNetOptions(), (64, 96))
    with pytest.raises(ConfigError, match=r"at least 64 voxels, found window \[256, 40\].*at most 4 entries"):
        check_window(SmallUNetOptions(), (256, 40))


def test_reading_options_and_bundles_imports_no_heavy_package():
    code = (
        "import sys; import medseg.models.bundle, medseg.models.card, medseg.training.loss_options; "
        "medseg.models.bundle.list_bundles(); "
        "print([m for m in ('torch', 'monai', 'scipy', 'safetensors') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
