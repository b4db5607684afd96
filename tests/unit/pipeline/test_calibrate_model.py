"""What `medseg calibrate` refuses before it reads an image."""

from __future__ import annotations

import pytest

from medseg.errors import ConfigError, ManifestError
from medseg.models.bundle import read_bundle
from medseg.models.bundle_record import BundleRecord
from medseg.models.card import model_card
from medseg.pipeline.calibrate_model import CalibrateRequest, calibrate_model


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("case_id,patient_id,image,label,split\na,p,a.png,m.png,test\n")
    return path


def test_requests_that_make_no_sense_are_refused(manifest, tmp_path):
    def tried(model="chest-xray-lungs", **changes):
        return calibrate_model(model, tmp_path / "out", CalibrateRequest(manifest=manifest, **changes))

    with pytest.raises(ManifestError, match="no case of split 'validation' has a mask; name another"):
        tried()
    with pytest.raises(ConfigError, match="--out-of-fold needs an ensemble; chest-xray-lungs is a single"):
        tried(split="all", out_of_fold=True)
    with pytest.raises(ManifestError, match="1 of 1 cases have no fold, which --out-of-fold needs"):
        tried("mr-hippocampus", split="test", out_of_fold=True)
    with pytest.raises(ConfigError, match=r"--level 1\.5: expected 0\.5 or more"):
        tried(level=1.5)
    with pytest.raises(ManifestError, match=r"none of the cases .* could be read with its mask; first: a: "):
        tried(split="test")
    assert not (tmp_path / "out").exists()


def test_shipped_calibrations_are_used_on_what_they_were_fitted_on():
    lungs, hippocampus = read_bundle("chest-xray-lungs").record, read_bundle("mr-hippocampus")
    assert lungs.temperature == lungs.calibration.temperature.value > 1
    known = hippocampus.record.calibration
    assert (known.of, hippocampus.record.temperature) == ("members", 1.0)
    assert hippocampus.member(0).record.temperature == known.temperature.value
    assert "It is not used on the mean of the ensemble." in model_card(hippocampus.record)


def test_records_without_calibration_stay_as_they_were_and_unknown_names_are_refused():
    value = read_bundle("chest-xray-lungs").record.to_json()
    plain = {name: item for name, item in value.items() if name != "calibration"}
    assert "calibration" not in BundleRecord.model_validate(plain).to_json()
    sizes = value["calibration"]["sizes"]
    value["calibration"]["sizes"] = {"heart": sizes["lung"]}
    with pytest.raises(ValueError, match=r"calibration.sizes names \['heart'\]"):
        BundleRecord.model_validate(value)
    value["calibration"]["sizes"] = {"lung": sizes["lung"] | {"quantile": None}}
    with pytest.raises(ValueError, match="give a quantile, or the reason why there is none"):
        BundleRecord.model_validate(value)
