"""`medseg predict --engine`: what is refused, what the records say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medseg.config.schema import PredictOptions
from medseg.data.phantoms import make_chest_phantom
from medseg.errors import ConfigError, EngineError, MissingPackageError
from medseg.inference import engine_members, engine_packages, engine_settle
from medseg.inference.engines import open_engine
from medseg.models.bundle import read_bundle
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.predict_folder import predict_folder

MODEL = "chest-xray-lungs"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "films").mkdir()
    film = np.round(255 * make_chest_phantom(5).image.T).astype(np.uint8)
    Image.fromarray(film).save(tmp_path / "films" / "film.png")
    return tmp_path / "films"


@pytest.fixture
def openvino(monkeypatch):
    """An engine of that name which is torch, unless `wrong` is filled."""
    wrong = []

    def open_(name, load, spec):
        engine = open_engine("torch", load, spec)
        return (lambda windows: engine(windows).roll(9, dims=-1)) if wrong and name != "torch" else engine

    monkeypatch.setattr(engine_members, "open_engine", open_)
    monkeypatch.setattr(engine_settle, "lacking", lambda name: None)
    monkeypatch.setattr(engine_settle, "require_engine", lambda name: None)
    monkeypatch.setattr(engine_settle, "engine_versions", lambda name: {})
    return wrong


def predict(folder, engine, **options):
    return predict_folder(
        [folder], model=MODEL, output=folder.parent / "out", formats="nifti", engine=engine, **options
    )


def record(folder):
    return json.loads((folder.parent / "out" / "film" / "measurements.json").read_text())


def test_the_records_say_what_ran_and_why(folder):
    result = predict(folder, "auto")
    found = result.facts["engine"]
    assert found["asked"] == "auto"
    assert found["threads"] == torch.get_num_threads()
    assert found["choices"][0]["engine"] == "torch"
    assert record(folder)["engine"] == json.loads(json.dumps(found))
    assert any(line.startswith("engine torch: ") for line in result.lines)
    assert not (folder.parent / "cache").exists(), "nothing was measured for one film"


def test_figures_of_an_engine_by_name_are_in_the_records(folder, openvino):
    predict(folder, "openvino")
    (choice,) = record(folder)["engine"]["choices"]
    assert choice["engine"] == "openvino"
    assert choice["tried"][0]["parity"] == {
        "foreground": choice["tried"][0]["parity"]["foreground"],
        "agreement": 1.0,
        "dice_change": 0.0,
    }
    assert choice["tried"][0]["parity"]["foreground"] > 1000


def test_a_refused_engine_ends_the_run(folder, openvino):
    openvino.append(True)
    with pytest.raises(
        EngineError, match=r"engine openvino is not used: \d.* % of \d+ foreground voxels"
    ) as caught:
        predict(folder, "openvino")
    assert caught.value.exit_code == 4
    assert not (folder.parent / "out" / "film").exists()


def test_another_engine_does_the_cases_again(folder, openvino):
    assert predict(folder, "torch").exit_code == 0
    before = record(folder)["key"]
    assert predict(folder, "openvino").exit_code == 0
    assert record(folder)["key"] != before


def test_wrong_names_and_missing_packages_are_one_sentence(folder, monkeypatch):
    with pytest.raises(
        ConfigError, match="--engine 'tensorrt': expected one of auto, torch, compile, openvino"
    ):
        predict(folder, "tensorrt")
    real = engine_packages.util.find_spec
    monkeypatch.setattr(
        engine_packages.util, "find_spec", lambda name: None if "openvino" in name else real(name)
    )
    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[openvino\]'"):
        predict(folder, "openvino")


def test_engines_are_for_a_cpu():
    with pytest.raises(ConfigError, match="engine openvino runs on a CPU, the device is meta"):
        LoadedModel(read_bundle(MODEL), device="meta", engine="openvino")


def test_the_setting_has_the_reproducible_default():
    assert PredictOptions().engine == "torch"
    assert PredictOptions.model_validate({"engine": "auto"}).engine == "auto"
    with pytest.raises(ValueError, match="engine"):
        PredictOptions.model_validate({"engine": "cuda"})
