"""`medseg predict --fit-windows`: what it changes, and what it does not go with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medseg.errors import ConfigError
from medseg.models.bundle import read_bundle
from medseg.pipeline.cohort_settings import CohortSettings, with_fitted_windows
from medseg.pipeline.predict_folder import predict_folder

MODEL = "chest-xray-lungs"


@pytest.mark.parametrize(("fits", "windows"), [(True, "fitted"), (False, "set")])
def test_the_model_is_loaded_with_fitted_windows_where_asked(fits, windows, tmp_path):
    settings = CohortSettings(model=MODEL, output=tmp_path, kinds=("nifti",), fit_windows=fits)
    options = settings.load(read_bundle(MODEL)).predictor.options
    assert options.windows == windows
    assert (
        options.model_copy(update={"windows": "set"})
        == CohortSettings(model=MODEL, output=tmp_path, kinds=("nifti",))
        .load(read_bundle(MODEL))
        .predictor.options
    )


def test_windows_of_nnunet_stay_as_they_are():
    with pytest.raises(ConfigError, match="--fit-windows does not go with a model of nnU-Net"):
        with_fitted_windows(SimpleNamespace(inference={"window": [16, 16, 16], "sums": "float16"}))


def test_a_ceiling_of_memory_is_not_promised_with_it(tmp_path):
    with pytest.raises(ConfigError, match="--fit-windows takes memory that --max-ram may not hold"):
        predict_folder([tmp_path], model=MODEL, output=tmp_path / "out", fit_windows=True, max_ram="4GB")
    assert not (tmp_path / "out").exists()
