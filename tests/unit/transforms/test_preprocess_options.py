import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from medseg.transforms.options import AugmentStep, PreprocessStep

PREPROCESS = TypeAdapter(list[PreprocessStep])
AUGMENT = TypeAdapter(list[AugmentStep])

ONE_OF_EACH = [
    {"use": "orient", "to": "LF"},
    {"use": "crop", "method": "box", "start": [1, 2], "size": [10, 20]},
    {"use": "crop", "method": "foreground", "margin": 3},
    {"use": "crop", "method": "border"},
    {"use": "gray"},
    {"use": "binarise", "method": "fixed", "threshold": 0.5},
    {"use": "normalise", "method": "window", "low": -1000, "high": 400, "to": [-1, 1]},
    {"use": "standardise", "method": "dataset"},
    {"use": "equalise", "method": "clahe", "tiles": 4},
    {"use": "denoise", "method": "nlm", "search": 3},
    {"use": "resample", "spacing_mm": [0.5, 0.5]},
    {"use": "resize", "size": [256, 256]},
    {"use": "pad", "multiple": 16},
]


def test_every_step_survives_json_as_bundles_store_it():
    steps = PREPROCESS.validate_python(ONE_OF_EACH)
    assert PREPROCESS.validate_json(PREPROCESS.dump_json(steps)) == steps


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"use": "orient", "to": "LR"}, "each body axis once"),
        ({"use": "orient", "to": "XY"}, "each body axis once"),
        ({"use": "orient", "to": "L"}, "two or three letters"),
        ({"use": "crop", "method": "border", "start": [1, 2]}, "start belongs to method box"),
        ({"use": "crop", "method": "box", "start": [1, 2]}, "needs start and size"),
        ({"use": "crop", "method": "box", "start": [1, 2, 3], "size": [4, 4]}, "same number of axes"),
        ({"use": "normalise", "low": 99, "high": 1}, "must ascend"),
        ({"use": "normalise", "low": -1}, "between 0 and 100"),
        ({"use": "normalise", "method": "window", "low": 3}, "needs low and high"),
        ({"use": "normalise", "method": "range", "low": 3}, "belongs to method percentile or window"),
        ({"use": "normalise", "to": [1, 0]}, "must ascend"),
        ({"use": "binarise", "method": "fixed"}, "needs threshold"),
        ({"use": "pad"}, "either size or multiple"),
        ({"use": "pad", "size": [4, 4], "multiple": 2}, "either size or multiple"),
        ({"use": "resize", "size": [0, 4]}, "greater than or equal to 1"),
        ({"use": "resample", "spacing_mm": [0, 1]}, "greater than 0"),
        ({"use": "denoise", "method": "median", "sigma": 2}, "sigma belongs to method gaussian or bilateral"),
        ({"use": "sharpen_edges"}, "does not match any of the expected tags"),
    ],
)
def test_bad_preprocessing_is_refused(step, message):
    with pytest.raises(ValidationError, match=message):
        PREPROCESS.validate_python([step])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"use": "scale", "low": 1.2, "high": 0.8}, "low must not exceed high"),
        ({"use": "rotate", "probability": 1.5}, "less than or equal to 1"),
        ({"use": "elastic", "sigma": 5, "magnitude": 4}, "folds over itself"),
        ({"use": "rotate", "degres": 5}, "Extra inputs are not permitted"),
        ({"use": "low_resolution", "low": 0.5}, "greater than or equal to 1"),
    ],
)
def test_bad_augmentation_is_refused(step, message):
    with pytest.raises(ValidationError, match=message):
        AUGMENT.validate_python([step])


def test_options_import_no_heavy_package():
    code = (
        "import sys, medseg.transforms.options; "
        "print([m for m in ('torch', 'monai', 'scipy', 'SimpleITK', 'nibabel') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("union", [PREPROCESS, AUGMENT])
def test_every_field_says_what_it_means(union):
    definitions = union.json_schema()["$defs"].values()
    bare = [
        (d["title"], name)
        for d in definitions
        for name, field in d["properties"].items()
        if name != "use" and "description" not in field
    ]
    assert bare == []
