"""Engines behind one call: the same logits as the network, whatever runs it; what is missing is said."""

import contextlib

import numpy as np
import pytest
import torch

from medseg.errors import MissingPackageError
from medseg.inference import engine_packages
from medseg.inference.engine_packages import engine_versions, lacking, require_engine
from medseg.inference.engines import Batched, EngineSpec, open_engine
from medseg.models.options import SmallUNetOptions, UNetOptions
from medseg.models.registry import build_network

# The sizes are no multiples of the networks' strides.
NETWORKS = {
    "3-D": (UNetOptions(channels=(8, 12)), (9, 7, 6)),
    "2-D": (SmallUNetOptions(channels=(8, 8, 16), norm="group", groups=8, context=True), (21, 26)),
}


def network_of(name):
    options, window = NETWORKS[name]
    return build_network(options, spatial_dims=len(window), in_channels=2, class_count=3, seed=3).eval()


def windows_of(name, *, count=3):
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, 2, *NETWORKS[name][1]), generator=generator)


def spec_of(name, **changes):
    return EngineSpec(**{"window": NETWORKS[name][1], "in_channels": 2, "threads": 1} | changes)


def loader(network):
    @contextlib.contextmanager
    def load():
        yield network

    return load


def plain(name, windows):
    with torch.inference_mode():
        return network_of(name)(windows)


def found(engine, windows):
    with torch.inference_mode():
        return engine(windows)


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_gives_the_answer_of_the_network_whatever_else_is_in_the_batch(name):
    windows = windows_of(name)
    engine = open_engine("torch", loader(network_of(name)), spec_of(name))
    answer = found(engine, windows)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, plain(name, windows), rtol=1e-3, atol=1e-3)
    assert torch.equal(found(engine, windows[1:2]), answer[1:2])


def test_a_batch_is_filled_up_and_cut_back():
    shown = []

    def run(part):
        shown.append(part.clone())
        return part * 2

    windows = torch.arange(5.0).reshape(5, 1, 1, 1)
    assert torch.equal(Batched(run, 2, fills_up=True)(windows), windows * 2)
    assert [part.flatten().tolist() for part in shown] == [[0, 1], [2, 3], [4, 4]]
    shown.clear()
    Batched(run, 2)(windows)
    assert [len(part) for part in shown] == [2, 2, 1]


@pytest.mark.parametrize(
    ("name", "extra"), [("openvino", "openvino"), ("openvino_int8", "openvino"), ("onnxruntime", "onnx")]
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, extra):
    monkeypatch.setattr(engine_packages.util, "find_spec", lambda package: None)
    with pytest.raises(
        MissingPackageError, match=rf"engine {name} is not installed; pip install 'medseg\[{extra}\]'"
    ):
        require_engine(name)


def test_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "needs a C++ compiler" in lacking("compile")
    assert lacking("torch") is None


def test_versions_are_those_of_the_packages():
    assert set(engine_versions("torch")) == {"torch"}


def test_an_example_divides_by_no_zero():
    example = spec_of("3-D", batch_size=2).example()
    assert example.shape == (2, 2, 9, 7, 6)
    assert float(example.std()) > 0.1


def test_ranges_hold_zero():
    from medseg.inference.quantise import activation_range, calibration_digest

    assert activation_range(0.0, 5.0) == (0.0, 5.0)
    assert activation_range(-0.2, 5.08) == pytest.approx((-5.12, 5.08))
    assert activation_range(-3.0, 1.0) == pytest.approx((-3 * 128 / 127, 3.0))
    assert activation_range(0.0, 0.0)[1] > 0
    a, b = np.zeros((1, 2, 3), np.float32), np.zeros((1, 3, 2), np.float32)
    assert calibration_digest([a]) != calibration_digest([b]) != calibration_digest([])
