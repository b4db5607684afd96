"""A trained network through every engine that is installed: its masks, or a refusal with the figure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from medseg.data.phantoms import make_chest_phantom
from medseg.errors import EngineError
from medseg.inference.engine_packages import lacking
from medseg.inference.parity import LEAST_AGREEMENT, parity
from medseg.pipeline.predict_folder import predict_folder

pytestmark = pytest.mark.slow
# The compiler of torch says what is deprecated within torch.
warnings_of_others = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def films(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "films"
    folder.mkdir()
    for seed in (5, 6):
        film = np.round(255 * make_chest_phantom(seed).image.T).astype(np.uint8)
        Image.fromarray(film).save(folder / f"film{seed}.png")
    return folder


def masks(films, engine):
    output = films.parent / engine
    predict_folder([films], model="chest-xray-lungs", output=output, formats="png", engine=engine)
    found = [np.asarray(Image.open(path)).astype(np.int16) for path in sorted(output.glob("*/mask.png"))]
    (path, *_) = sorted(output.glob("*/measurements.json"))
    return found, json.loads(path.read_text())["engine"]["choices"][0]


@warnings_of_others
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "compile"])
def test_masks_of_a_trained_network_are_those_of_torch(films, engine):
    if lacking(engine) is not None:
        pytest.skip(lacking(engine))
    expected, _ = masks(films, "torch")
    found, choice = masks(films, engine)
    assert choice["engine"] == engine
    assert choice["tried"][0]["parity"]["agreement"] >= 0.9999
    assert parity(expected, found).agreement >= 0.9999


@warnings_of_others
def test_eight_bits_agree_or_are_refused_with_the_figure(films):
    if lacking("openvino_int8") is not None:
        pytest.skip(lacking("openvino_int8"))
    expected, _ = masks(films, "torch")
    found, refused = expected, ""
    try:
        found, _ = masks(films, "openvino_int8")
    except EngineError as err:
        refused = str(err)
    if refused:
        assert "foreground voxels agree with float32 torch" in refused
    else:
        assert parity(expected, found).agreement >= LEAST_AGREEMENT - 0.002
