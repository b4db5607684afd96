"""Engines that need an optional package: the answer of the network, what is kept on disk, what is refused."""

import contextlib
import os
import subprocess
import sys

import pytest
import torch

from medseg.inference.engine_packages import lacking
from medseg.inference.engines import EngineFailure, EngineSpec, open_engine
from medseg.models.options import SmallUNetOptions, UNetOptions
from medseg.models.registry import build_network

pytestmark = pytest.mark.slow
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


@contextlib.contextmanager
def never():
    raise AssertionError("the network is not needed")
    yield


def plain(name, windows):
    with torch.inference_mode():
        return network_of(name)(windows)


def found(engine, windows):
    with torch.inference_mode():
        return engine(windows)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
class TestOptional:
    @pytest.fixture(autouse=True)
    def _installed(self, engine):
        if lacking(engine) is not None:
            pytest.skip(lacking(engine))

    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_answer_is_that_of_the_network(self, engine, name):
        windows = windows_of(name)
        opened = open_engine(engine, loader(network_of(name)), spec_of(name))
        answer = found(opened, windows)
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer, plain(name, windows), rtol=1e-3, atol=1e-3)
        assert torch.equal(found(opened, windows), answer)

    def test_an_image_with_a_large_mean_is_normalised_right(self, engine):
        """The reference is float64, the same network in one pass would be off by tenths."""
        network = network_of("3-D")
        windows = 50 + 0.5 * windows_of("3-D")
        with torch.inference_mode():
            exact = build_double(network)(windows.double())
        answer = found(open_engine(engine, loader(network), spec_of("3-D")), windows)
        assert float((answer - exact).abs().max()) < 2e-2

    def test_what_was_compiled_is_taken_from_disk_without_the_network(self, engine, tmp_path):
        spec = spec_of("3-D", folder=tmp_path, weights="digest")
        windows = windows_of("3-D", count=1)
        first = found(open_engine(engine, loader(network_of("3-D")), spec), windows)
        assert torch.equal(found(open_engine(engine, never, spec), windows), first)

    def test_a_damaged_file_is_made_again(self, engine, tmp_path):
        spec = spec_of("3-D", folder=tmp_path, weights="digest")
        windows = windows_of("3-D", count=1)
        first = found(open_engine(engine, loader(network_of("3-D")), spec), windows)
        for path in tmp_path.rglob("model.*"):
            path.write_bytes(path.read_bytes()[:-40] + bytes(40))
        again = found(open_engine(engine, loader(network_of("3-D")), spec), windows)
        assert torch.equal(again, first)

    def test_a_network_that_cannot_be_exported_is_a_failure(self, engine):
        class Odd(torch.nn.Module):
            def forward(self, x):
                return x if float(x.sum()) > 0 else -x

        with pytest.raises(EngineFailure, match="cannot run it"):
            open_engine(engine, loader(Odd().eval()), spec_of("3-D"))


def build_double(network):
    double = build_network(network.options, spatial_dims=3, in_channels=2, class_count=3, seed=0).double()
    double.load_state_dict({name: value.double() for name, value in network.state_dict().items()})
    return double.eval()


def test_openvino_is_imported_without_its_reports():
    pytest.importorskip("openvino")
    from medseg.inference.engine_openvino import load_openvino

    load_openvino()
    loaded = sys.modules.get("openvino.tools.ovc.telemetry_utils")
    assert loaded is not None
    assert loaded.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


SESSION = """
import medseg, onnxruntime
from onnx import TensorProto, helper
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


@pytest.mark.parametrize("opted_out", [True, False])
def test_onnx_runtime_leaves_no_identifier_for_its_reports(tmp_path, opted_out):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    script = SESSION if opted_out else SESSION.replace("import medseg, ", "import ")
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment | {"HOME": str(tmp_path)}, check=False
    )
    assert done.returncode == 0
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "onnxruntime" in str(path)]
    if not opted_out and not left:
        pytest.skip("this version of ONNX Runtime sends no reports, so nothing can be told")
    assert bool(left) is not opted_out


class TestEightBits:
    @pytest.fixture(autouse=True)
    def _installed(self):
        if lacking("openvino_int8") is not None:
            pytest.skip(lacking("openvino_int8"))

    def test_masks_are_near_and_numbers_are_not_the_same(self):
        windows = windows_of("2-D")
        spec = spec_of("2-D", calibration=tuple(w.numpy() for w in windows))
        answer = found(open_engine("openvino_int8", loader(network_of("2-D")), spec), windows)
        expected = plain("2-D", windows)
        assert 1e-4 < float((answer - expected).abs().mean() / expected.std()) < 0.2
        assert float((answer.argmax(1) == expected.argmax(1)).float().mean()) > 0.9

    def test_without_windows_it_is_a_failure(self):
        with pytest.raises(EngineFailure, match="no window to take the ranges from"):
            open_engine("openvino_int8", loader(network_of("3-D")), spec_of("3-D"))

    def test_it_runs_eight_bit_convolutions(self):
        from medseg.inference import engine_openvino as module

        windows = windows_of("3-D")
        spec = spec_of("3-D", calibration=tuple(w.numpy() for w in windows))
        ov = module.load_openvino()
        model, weights = module._model(ov, loader(network_of("3-D")), spec, eight_bits=True)
        runtime = module._compiled(ov.Core(), model, spec).get_runtime_model()
        kinds = [
            node.get_rt_info()["runtimePrecision"].astype(str)
            for node in runtime.get_ordered_ops()
            if node.get_rt_info()["layerType"].astype(str) == "Convolution"
        ]
        assert weights is not None
        assert sum(kind in ("i8", "u8") for kind in kinds) >= 2, kinds
