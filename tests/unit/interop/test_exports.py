"""Exports give the numbers of their source, whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medseg.errors import BundleError, ConfigError, StorageError
from medseg.interop.compare import compare, windows
from medseg.interop.export_folder import export_folder
from medseg.interop.monai_config import read_inference_config
from medseg.interop.monai_twins import supports, twin
from medseg.labels import Label, LabelTable
from medseg.models.bundle_record import BundleAbout, TrainingRecord
from medseg.models.bundle_writer import write_bundle
from medseg.models.options import NETWORK_OPTIONS
from medseg.models.registry import build_network
from medseg.pipeline.export_model import ExportRequest, export_model

STEPS = (
    {"use": "orient", "to": "RAS"},
    {
        "use": "normalise",
        "method": "window",
        "low": -2.0,
        "high": 2.0,
        "to": [0.0, 1.0],
        "clip": True,
        "channelwise": True,
    },
)


def network_of(value, *, dims=3, channels=1):
    options = NETWORK_OPTIONS.validate_python(value)
    return build_network(options, spatial_dims=dims, in_channels=channels, class_count=3, seed=2).eval()


def bundle_of(folder, value, *, dims=3, steps=STEPS, inference=None):
    names = ("liver", "spleen")
    table = LabelTable(
        labels=tuple(Label(name=n, value=v, colour="#56b4e9") for v, n in enumerate(names, start=1))
    )
    return write_bundle(
        folder,
        about=BundleAbout(
            name="tiny", version="1.0.0", description="Test.", licence="CC0-1.0", intended_use="Tests."
        ),
        network=network_of(value, dims=dims),
        table=table,
        preprocess=steps,
        inference=inference or {"window": [16, 24, 8], "overlap": 0.5, "blend": "gaussian", "batch_size": 2},
        training=TrainingRecord(data="None.", cases=0, epochs=0, seconds=0.0, settings_sha256="0" * 64),
        window=(16, 24, 8) if dims == 3 else (32, 48),
    )


UNET = {
    "use": "unet",
    "channels": [4, 8, 12],
    "strides": [[2, 2, 1], [2, 2, 2]],
}


@pytest.mark.parametrize(
    ("value", "dims", "name"),
    [
        (UNET, 3, "DynUNet"),
        (
            {"use": "unet", "channels": [8, 8, 16], "norm": "group", "groups": 4, "activation": "relu"},
            2,
            "DynUNet",
        ),
        ({"use": "unet", "channels": [4, 8, 8], "norm": "batch", "deep_supervision": True}, 2, "DynUNet"),
        ({"use": "monai_segresnet", "width": 8, "blocks": [1, 1], "up_blocks": [1]}, 2, "SegResNet"),
        ({"use": "monai_unet", "channels": [4, 8], "strides": [2], "residual_units": 1}, 3, "UNet"),
    ],
)
def test_twins_of_monai_give_the_same_logits(value, dims, name):
    import monai.networks.nets as nets

    network = network_of(value, dims=dims)
    made = twin(network)
    definition = dict(made.definition)
    assert definition.pop("_target_") == f"monai.networks.nets.{name}"
    assert supports(network.options)
    other = getattr(nets, name)(**definition).eval()
    other.load_state_dict(made.state, strict=name != "DynUNet")
    assert not made.needs_medseg
    for what, window in windows((16, 24, 8)[:dims], channels=1):
        with torch.no_grad():
            torch.testing.assert_close(
                network(torch.from_numpy(window)),
                other(torch.from_numpy(window)),
                atol=2e-5,
                rtol=1e-5,
                msg=what,
            )


def test_kernels_that_differ_by_level_are_not_those_of_dynunet():
    kernels = [[3, 3, 1], [3, 3, 3], [3, 3, 3]]
    made = twin(network_of({**UNET, "kernels": kernels}))
    assert made.needs_medseg
    assert made.definition["options"]["kernels"] == kernels
    assert "start_from" not in made.definition["options"]


def test_dynunet_takes_all_of_its_weights():
    import monai.networks.nets as nets

    made = twin(network_of(UNET))
    definition = {key: value for key, value in made.definition.items() if key != "_target_"}
    nets.DynUNet(**definition).load_state_dict(made.state, strict=True)


# MONAI tells of plug-ins that are not installed when it loads its readers.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_monai_bundle_runs_in_monai(tmp_path):
    import nibabel as nib
    from monai.bundle import ConfigParser

    from medseg.io.read import read_image
    from medseg.pipeline.model import LoadedModel

    windows = {"window": [16, 24, 8], "overlap": 0.5, "blend": "constant", "batch_size": 2}
    inference = windows | {"average": "logits", "restore": "probabilities"}
    bundle = bundle_of(tmp_path / "bundle", UNET, inference=inference)
    result = export_model(str(bundle.folder), tmp_path / "out", ExportRequest(to="monai"))
    assert any("largest difference" in line for line in result.lines)
    image = np.random.default_rng(1).normal(size=(32, 48, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([-1.0, 1.5, 2.0, 1.0])), tmp_path / "scan.nii.gz")
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "out" / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(tmp_path / "out" / "models" / "model.pt", weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "scan.nii.gz")})
    with torch.inference_mode():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    mask = parser.get_parsed_content("postprocessing")(data)["pred"][0].numpy()
    ours = LoadedModel(bundle).answer(read_image([tmp_path / "scan.nii.gz"])).label_map
    assert mask.shape == ours.shape
    assert np.mean(mask == ours) > 0.999
    assert len(np.unique(ours)) > 1


def test_no_expression_is_written(tmp_path):
    bundle = bundle_of(tmp_path / "bundle", UNET)
    export_model(str(bundle.folder), tmp_path / "out", ExportRequest(to="monai"))
    assert '"$' not in (tmp_path / "out" / "configs" / "inference.json").read_text()
    config = read_inference_config(tmp_path / "out")
    assert config.plain("inferer")["roi_size"] == [16, 24, 8]


def test_a_network_that_monai_lacks_is_named_as_ours(tmp_path):
    value = {"use": "small_unet", "channels": [8, 16, 24]}
    bundle = bundle_of(tmp_path / "bundle", value, dims=2, steps=(), inference={"window": None})
    result = export_model(str(bundle.folder), tmp_path / "out", ExportRequest(to="monai"))
    assert any("needs medseg beside MONAI" in line for line in result.lines)
    record = json.loads((tmp_path / "out" / "medseg-export.json").read_text())
    assert record["compared"]["models/model.pt"]["largest_difference_logits"] < 1e-5
    metadata = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())
    assert "medseg" in metadata["required_packages_version"]


def test_steps_that_monai_lacks_are_refused_by_name(tmp_path):
    steps = ({"use": "equalise", "method": "clahe", "bins": 256, "clip_limit": 2.0, "tiles": 8},)
    bundle = bundle_of(tmp_path / "bundle", UNET, steps=steps)
    with pytest.raises(BundleError, match="the numbers of equalise clahe; --network-only"):
        export_model(str(bundle.folder), tmp_path / "out", ExportRequest(to="monai"))
    assert not (tmp_path / "out").exists()
    result = export_model(str(bundle.folder), tmp_path / "out", ExportRequest(to="monai", network_only=True))
    assert any(line.startswith("equalise clahe: left out") for line in result.lines)


def test_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected onnx or monai"):
        export_model("chest-xray-lungs", tmp_path / "out", ExportRequest(to="torchscript"))


def test_an_export_that_differs_leaves_nothing(tmp_path, monkeypatch):
    bundle = bundle_of(tmp_path / "bundle", UNET)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(
        "medseg.interop.monai_export.answer_of",
        lambda network: lambda window: np.zeros((len(window), 3, *window.shape[2:]), np.float32),
    )
    with pytest.raises(BundleError, match="differs from its source"):
        export_model(str(bundle.folder), tmp_path / "out", ExportRequest(to="monai"))
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "out"]


def test_somebodys_files_are_not_replaced(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(StorageError, match="is no export of medseg"), export_folder(tmp_path):
        pass
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_difference_beyond_the_limit_is_refused():
    layer = torch.nn.Conv2d(1, 2, 1)
    shown = list(windows((4, 6), channels=1))

    def other(offset):
        with torch.no_grad():
            return lambda window: layer(torch.from_numpy(window)).detach().numpy() + np.float32(offset)

    assert compare(layer, other(0), shown, what="x").logits == 0
    found = compare(layer, other(5e-5), shown, what="x")
    assert found.logits == pytest.approx(5e-5, rel=0.1)
    with pytest.raises(BundleError, match="x: not written"):
        compare(layer, other(1e-2), shown, what="x")
    with pytest.raises(BundleError, match="the source"):
        compare(layer, lambda window: np.zeros((2, 3, 4, 6), np.float32), shown, what="x")


def test_onnx_files_give_the_logits_and_say_what_they_are(tmp_path):
    pytest.importorskip("onnxscript")
    from medseg.interop.onnx_model import OnnxNetwork

    bundle = bundle_of(tmp_path / "bundle", UNET)
    result = export_model(str(bundle.folder), tmp_path / "out", ExportRequest(to="onnx"))
    assert any("multiples of 4 x 4 x 2" in line for line in result.lines)
    session = OnnxNetwork(tmp_path / "out" / "model.onnx")
    assert [label["name"] for label in session.metadata["labels"]["labels"]] == ["liver", "spleen"]
    assert session.metadata["preprocess"][0] == {"use": "orient", "to": "RAS"}
    assert session.metadata["shape"]["window"] == [16, 24, 8]
    x = np.random.default_rng(3).normal(size=(3, 1, 8, 12, 4)).astype(np.float32)
    with torch.no_grad():
        expected = bundle.load_network()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session(x), expected, atol=1e-4)
    assert (tmp_path / "out" / "medseg-export.json").is_file()


def test_onnx_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    import sys

    from medseg.errors import MissingPackageError
    from medseg.interop.onnx_model import require_onnx

    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[onnx\]'"):
        require_onnx()
