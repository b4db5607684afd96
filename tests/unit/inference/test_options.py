import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from medseg.inference.options import InferenceOptions, PostprocessStep

STEPS = TypeAdapter(list[PostprocessStep])


def test_yaml_values_are_taken():
    options = InferenceOptions.model_validate({"window": [256, 256], "overlap": 0.25, "tta": "none"})
    assert options.window == (256, 256)
    assert options.tta_names == ()
    assert InferenceOptions(tta="flip").tta_names == ("flip",)
    listed = InferenceOptions.model_validate({"tta": ["flip", "gamma"], "refine": {"margin": 0.1}})
    assert listed.tta_names == ("flip", "gamma")
    assert listed.refine is not None
    assert InferenceOptions.model_validate_json(listed.model_dump_json()) == listed


@pytest.mark.parametrize(
    "value",
    [
        {"overlap": 0.95},
        {"window": [256]},
        {"window": [0, 4]},
        {"tta": "rotate"},
        {"tta": ["flip", "flip"]},
        {"tta": ["none"]},
        {"flip_axes": [0, 0]},
        {"refine": {"margins": 0.1}},
        {"batch_size": 0},
    ],
)
def test_bad_values_are_refused(value):
    with pytest.raises(ValidationError):
        InferenceOptions.model_validate(value)


def test_steps_are_told_apart_by_use():
    steps = STEPS.validate_python(
        [
            {"use": "keep_largest", "labels": ["lung_left"]},
            {"use": "drop_small", "min_mm2": 20},
            {"use": "fill_holes", "labels": "all"},
        ]
    )
    assert [step.use for step in steps] == ["keep_largest", "drop_small", "fill_holes"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"use": "drop_small"}, "exactly one of min_mm2, min_ml, min_pixels, found none"),
        ({"use": "drop_small", "min_mm2": 1, "min_pixels": 3}, "exactly one"),
        ({"use": "fill_holes", "max_mm2": 1, "max_ml": 3}, "at most one"),
        ({"use": "keep_largest", "labels": []}, "at least 1"),
        ({"use": "open", "labels": "all"}, "open"),
    ],
)
def test_bad_steps_are_refused(step, message):
    with pytest.raises(ValidationError, match=message):
        STEPS.validate_python([step])


def test_options_import_no_heavy_package():
    code = (
        "import sys, medseg.inference.options, medseg.export.options; "
        "heavy = {'torch', 'monai', 'scipy', 'numpy', 'SimpleITK', 'nibabel', 'highdicom', 'PIL'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
