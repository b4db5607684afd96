"""Engines of a predictor: tried before use, refused with the figures, measured once."""

import gc
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import ConfigError, EngineError, MissingPackageError
from medseg.inference import engine_members, engine_settle, engine_trial
from medseg.inference.engine_files import read_answer
from medseg.inference.engine_settle import Engines
from medseg.inference.engines import EngineFailure, open_engine
from medseg.inference.members import LoadedMembers, SingleNetwork
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.sliding_window import Sweep
from medseg.labels import Label, LabelTable
from medseg.models.options import SmallUNetOptions
from medseg.models.registry import build_network
from medseg.transforms.image_view import ArrayView
from medseg.transforms.options import Normalise
from medseg.volume import Volume

CPU = torch.device("cpu")
WINDOW = (8, 6, 5)
SIZE = (24, 15, 12)
TABLE = LabelTable(
    labels=tuple(Label(name=name, value=n, colour="#3aa0ff") for n, name in enumerate("ab", start=1))
)


class Threshold(nn.Module):
    """Bright is class 1."""

    def forward(self, x):
        return torch.cat([0.5 - x, x - 0.5], dim=1)


@pytest.fixture
def image():
    array = np.zeros((1, *SIZE), np.float32)
    array[0, 4:20, 3:12, 2:10] = 1
    return array


class Shelf:
    """Engines that are not torch, for tests: what they answer and how long they take."""

    def __init__(self, monkeypatch):
        self.opened, self.now = [], 0.0
        for module in (engine_trial, engine_settle):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))
        self.seconds = {"torch": 0.02, "openvino": 0.001, "onnxruntime": 0.002, "openvino_int8": 0.001}
        self.wrong = {}
        self.only = ""
        self.fails = ()
        self.installed = {"openvino", "onnxruntime", "openvino_int8"}
        monkeypatch.setattr(engine_members, "open_engine", self.open)
        monkeypatch.setattr(engine_settle, "lacking", self.lacking)
        monkeypatch.setattr(engine_settle, "engine_versions", lambda name: {name: "1"})
        monkeypatch.setattr(engine_settle, "require_engine", self.require)
        monkeypatch.setattr(
            engine_settle, "_FIRST_START_S", {"openvino": 0.0, "onnxruntime": 0.0, "compile": 1e9}
        )

    def lacking(self, name):
        return None if name in self.installed or name == "torch" else f"engine {name} is not installed"

    def require(self, name):
        if self.lacking(name):
            raise MissingPackageError(self.lacking(name))

    def open(self, name, load, spec):
        self.opened.append(name)
        if name in self.fails:
            raise EngineFailure("it cannot")
        real = open_engine("torch", load, spec)

        def run(windows):
            self.now += self.seconds[name] * len(windows)
            logits = real(windows).clone()
            if spec.weights.endswith(self.only):
                logits[:, 1, : self.wrong.get(name, 0)] = -9
            return logits

        return run


@pytest.fixture
def shelf(monkeypatch):
    return Shelf(monkeypatch)


def engines(setting="auto", *, members=None, **options):
    members = members or SingleNetwork(Threshold(), CPU)
    return Engines(members, setting=setting, weights="digest", in_channels=1, threads=1, **options)


def settled(engines, image, **options):
    sweep = Sweep.over(image.shape[1:], WINDOW, overlap=0.5)
    engines.settle(ArrayView(image), sweep, **options)
    return engines.used(WINDOW)


def test_torch_as_set_is_not_tried(shelf, image):
    assert settled(engines("torch"), image) == "torch"
    assert shelf.opened == []


def test_auto_takes_the_fastest_whose_masks_are_right(shelf, image):
    shelf.seconds |= {"openvino": 0.008, "onnxruntime": 0.002}
    chosen = engines()
    assert settled(chosen, image) == "onnxruntime"
    record = chosen.to_json()
    assert record["asked"] == "auto"
    tried = {t["engine"]: t for t in record["choices"][0]["tried"]}
    assert set(tried) == {"torch", "openvino", "onnxruntime"}
    assert tried["openvino"]["parity"]["agreement"] == 1.0
    assert tried["openvino"]["seconds"] == pytest.approx(0.008)
    assert tried["torch"]["seconds"] == pytest.approx(0.02)
    assert chosen.notes(WINDOW) == ()


def test_auto_passes_over_wrong_masks_and_says_so(shelf, image):
    shelf.wrong = {"openvino": 3, "onnxruntime": 3}
    chosen = engines()
    assert settled(chosen, image) == "torch"
    assert len(chosen.notes(WINDOW)) == 2
    assert "foreground voxels agree with float32 torch (at least 99.9 %)" in chosen.notes(WINDOW)[0]


def test_an_engine_by_name_with_wrong_masks_ends_the_run_with_the_figure(shelf, image):
    shelf.wrong = {"openvino": 3}
    with pytest.raises(
        EngineError, match=r"engine openvino is not used: \d+\.\d+ % of \d+ foreground .* use engine"
    ):
        settled(engines("openvino"), image)
    shelf.fails = ("openvino",)
    with pytest.raises(EngineError, match="engine openvino is not used: it cannot"):
        settled(engines("openvino"), image)


def test_an_engine_by_name_is_used_once_it_was_tried(shelf, image):
    chosen = engines("openvino")
    assert settled(chosen, image) == "openvino"
    assert "as set; 100.000 %" in chosen.to_json()["choices"][0]["because"]
    with chosen.engine(0, WINDOW) as engine:
        assert engine(torch.zeros(2, 1, *WINDOW)).shape == (2, 2, *WINDOW)
    count = len(shelf.opened)
    settled(chosen, image)
    assert len(shelf.opened) == count, "the engine stays open and the choice stands"


def test_an_engine_that_is_not_installed_is_refused_at_once(shelf):
    shelf.installed = set()
    with pytest.raises(MissingPackageError, match="onnxruntime is not installed"):
        engines("onnxruntime")


def test_without_other_engines_auto_is_torch(shelf, image):
    shelf.installed = set()
    chosen = engines()
    assert settled(chosen, image) == "torch"
    assert "no other engine" in chosen.to_json()["choices"][0]["because"]
    assert shelf.opened == []


def test_auto_does_not_measure_for_short_work(shelf, image):
    chosen = engines()
    chosen.settle(ArrayView(image), Sweep.over(SIZE, None), runs=1)
    assert (chosen.used(SIZE), shelf.opened) == ("torch", [])
    assert "too short" in chosen.to_json()["choices"][0]["because"]
    many = engines(images=500)
    many.settle(ArrayView(image), Sweep.over(SIZE, None), runs=1)
    assert many.used(SIZE) == "openvino"


def test_auto_never_takes_eight_bits(shelf, image):
    shelf.seconds["openvino_int8"] = 0.0
    settled(engines(), image)
    assert "openvino_int8" not in shelf.opened


def test_what_was_measured_is_kept_for_the_next_process(shelf, image, tmp_path):
    assert settled(engines(folder=tmp_path), image) == "openvino"
    shelf.opened.clear()
    assert settled(engines(folder=tmp_path), image) == "openvino"
    assert shelf.opened == []
    assert settled(engines("onnxruntime", folder=tmp_path), image) == "onnxruntime"
    assert shelf.opened == [], "its masks were found right before"
    other = Engines(
        SingleNetwork(Threshold(), CPU),
        setting="auto",
        weights="others",
        in_channels=1,
        threads=1,
        folder=tmp_path,
    )
    settled(other, image)
    assert "torch" in shelf.opened, "other weights are measured by themselves"


def test_eight_bits_are_tried_in_every_process(shelf, image, tmp_path):
    for _ in range(2):
        shelf.opened.clear()
        assert settled(engines("openvino_int8", folder=tmp_path), image) == "openvino_int8"
        assert "openvino_int8" in shelf.opened


def test_a_damaged_answer_is_measured_again(shelf, image, tmp_path):
    settled(engines(folder=tmp_path), image)
    (path,) = (tmp_path / "answers").iterdir()
    path.write_text(path.read_text().replace('"start_s"', '"start"'))
    shelf.opened.clear()
    assert settled(engines(folder=tmp_path), image) == "openvino"
    assert "torch" in shelf.opened


def test_an_image_without_structures_leaves_it_to_the_next(shelf, image):
    empty = np.zeros_like(image)
    for setting in ("auto", "openvino"):
        chosen = engines(setting)
        assert settled(chosen, empty) == "torch"
        assert "nothing to compare by" in chosen.to_json()["choices"][0]["because"]
        assert settled(chosen, image) == "openvino"


def test_auto_gives_up_after_some_empty_images(shelf, image):
    chosen = engines(images=10)
    for _ in range(3):
        settled(chosen, np.zeros_like(image))
    shelf.opened.clear()
    assert settled(chosen, image) == "torch"
    assert shelf.opened == []


def test_below_a_ceiling_an_engine_without_room_is_not_opened(shelf, image):
    chosen = engines(max_bytes=1000)
    assert settled(chosen, image) == "torch"
    assert "openvino" not in shelf.opened
    with pytest.raises(
        ConfigError, match=r"engine openvino needs about .* max_ram is [0-9]+ kB; raise it, or use"
    ):
        settled(engines("openvino", max_bytes=1000), image)


def test_every_member_is_tried(shelf, image):
    networks = [Threshold(), Threshold()]
    members = LoadedMembers([partial(networks.__getitem__, n) for n in range(2)], device=CPU, keep=True)
    shelf.installed = {"openvino"}
    assert settled(engines("openvino", members=members), image) == "openvino"
    assert shelf.opened.count("openvino") == 4, "twice for each member"
    assert shelf.opened.count("torch") == 2
    shelf.wrong, shelf.only = {"openvino": 3}, ":1"
    with pytest.raises(EngineError, match="foreground voxels agree"):
        settled(engines("openvino", members=members), image)


def network(seed):
    options = SmallUNetOptions(channels=(8, 8))
    return build_network(options, spatial_dims=3, in_channels=1, class_count=3, seed=seed).eval()


def predictor(members, engines=None, *, window=WINDOW):
    return Predictor(
        members,
        steps=(Normalise(method="range"),),
        table=TABLE,
        options=InferenceOptions(window=window, overlap=0.5),
        engines=engines,
    )


def volume(image):
    return Volume(array=image, affine=np.eye(4), spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("setting", ["torch", "auto", "openvino"])
def test_a_predictor_gives_the_same_mask_through_engines(shelf, setting):
    noise = np.random.default_rng(3).normal(size=(1, *SIZE)).astype(np.float32)
    members = SingleNetwork(network(1), CPU)
    plain = predictor(members).predict(volume(noise))
    chosen = engines(setting, members=members)
    found = predictor(members, chosen).predict(volume(noise))
    assert np.mean(found.label_map == plain.label_map) > 0.9999
    assert chosen.used(WINDOW) == ("torch" if setting == "torch" else "openvino")
    np.testing.assert_array_equal(found.features, plain.features)


def test_refused_engines_are_noted_with_the_result(shelf, image):
    shelf.wrong = {"openvino": 3}
    shelf.installed = {"openvino"}
    members = SingleNetwork(network(1), CPU)
    noise = np.random.default_rng(3).normal(size=(1, *SIZE)).astype(np.float32)
    found = predictor(members, engines("auto", members=members)).predict(volume(noise))
    assert any("Engine openvino is not used" in note for note in found.notes)


@pytest.mark.parametrize("setting", ["torch", "openvino"])
def test_one_member_is_in_memory_at_a_time(shelf, setting):
    weights, most = [], []

    def alive():
        gc.collect()
        return sum(reference() is not None for reference in weights)

    def load(seed):
        made = network(seed)
        weights.append(weakref.ref(next(made.parameters())))
        most.append(alive())
        return made

    members = LoadedMembers([partial(load, seed) for seed in (1, 2, 3)], device=CPU)
    noise = np.random.default_rng(3).normal(size=(1, *SIZE)).astype(np.float32)
    predictor(members, engines(setting, members=members), window=(16, 15, 12)).predict(volume(noise))
    assert max(most) == 1
    assert alive() == 0


def test_kept_answers_are_json(shelf, image, tmp_path):
    chosen = engines(folder=tmp_path)
    settled(chosen, image)
    assert [t["engine"] for t in read_answer(tmp_path, chosen._key(WINDOW))] == [
        "torch",
        "openvino",
        "onnxruntime",
    ]
