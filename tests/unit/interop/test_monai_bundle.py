"""A MONAI bundle becomes a medseg bundle that gives MONAI's masks; nothing in it is executed."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from medseg.errors import BundleError, StorageError
from medseg.inference.options import InferenceOptions
from medseg.interop.monai_bundle import MonaiImport, import_monai_bundle, is_monai_bundle, read_monai_bundle
from medseg.interop.monai_weights import read_weights
from medseg.labels import Label, LabelTable
from medseg.models.bundle import read_bundle
from medseg.pipeline.import_model import ImportRequest, import_model
from medseg.pipeline.model import LoadedModel
from medseg.volume import Volume


def imported(folder, tmp_path, **decided):
    return import_monai_bundle(read_monai_bundle(folder, MonaiImport(**decided)), tmp_path / "bundle")


def test_a_bundle_is_taken_over(write, config, network, tmp_path):
    folder = write(config)
    assert is_monai_bundle(folder)
    result = import_model(folder, tmp_path / "bundle", ImportRequest(licence="Apache-2.0"))
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.name, bundle.version, bundle.licence) == ("tiny-bundle", "0.2.0", "Apache-2.0")
    assert bundle.table.names == ("background", "left_kidney", "right_kidney")
    assert [(label.side, label.pair) for label in bundle.table.labels] == [
        ("left", "right_kidney"),
        ("right", "left_kidney"),
    ]
    assert [step["use"] for step in bundle.preprocess] == ["orient", "resample", "normalise", "pad"]
    options = InferenceOptions.model_validate(bundle.inference)
    assert (options.window, options.overlap, options.blend, options.batch_size) == (
        (16, 16, 8),
        0.5,
        "constant",
        2,
    )
    assert any(line.startswith("Spacingd: resample") for line in result.lines)
    x = torch.randn(2, 1, 16, 24, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(bundle.load_network()(x), network(x), atol=1e-6, rtol=1e-6)


def test_masks_are_those_of_monai(write, config, network, tmp_path):
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import NormalizeIntensity, ScaleIntensityRange

    config["preprocessing"]["transforms"] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": -2,
            "a_max": 2,
            "b_min": -1,
            "b_max": 1,
            "clip": True,
        },
        {"_target_": "NormalizeIntensityd", "keys": "image"},
    ]
    image = np.random.default_rng(0).normal(size=(1, 32, 16, 6)).astype(np.float32)
    shown = NormalizeIntensity()(ScaleIntensityRange(-2, 2, -1, 1, clip=True)(image))
    inferer = SlidingWindowInferer(roi_size=(16, 16, 8), sw_batch_size=2, overlap=0.5)
    with torch.no_grad():
        expected = inferer(torch.as_tensor(np.asarray(shown))[None], network)[0].argmax(0).numpy()
    model = LoadedModel(imported(write(config), tmp_path))
    found = model.answer(
        Volume(array=image, affine=np.diag([1.5, 1.5, 3.0, 1.0]), spacing_mm=(1.5, 1.5, 3.0))
    )
    assert np.mean(found.label_map == expected) > 0.9999
    assert len(np.unique(expected)) > 1


def test_expressions_are_refused_until_their_values_are_given(write, config, tmp_path):
    config["network_def"]["out_channels"] = "$1 + 2"
    config["preprocessing"]["transforms"][3]["pixdim"] = "@pixdim"
    config["pixdim"] = "$[2.0, 2.0, 3.0]"
    folder = write(config)
    with pytest.raises(BundleError, match=r"--set network_def::out_channels=VALUE"):
        imported(folder, tmp_path)
    request = ImportRequest(values=("network_def::out_channels=3", "pixdim=[2.0, 2.0, 3.0]"))
    import_model(folder, tmp_path / "bundle", request)
    assert read_bundle(tmp_path / "bundle").preprocess[1]["spacing_mm"] == [2.0, 2.0, 3.0]


def test_settings_replace_what_cannot_be_followed(write, config, tmp_path):
    config["preprocessing"]["transforms"].append(
        {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"}
    )
    del config["inferer"]
    folder = write(config, metadata={})
    with pytest.raises(BundleError, match="channel_def: expected the names of 3 channels"):
        import_model(folder, tmp_path / "bundle", ImportRequest())
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "labels: {liver: {value: 1}, spleen: {value: 2}}\n"
        "preprocess: [{use: standardise, method: zscore}]\n"
        "inference: {window: [16, 16, 8], blend: constant}\n"
        "postprocess: [{use: keep_largest, labels: [liver]}]\n"
    )
    import_model(folder, tmp_path / "bundle", ImportRequest(settings=settings, name="mine"))
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.name, bundle.table.names[1:]) == ("mine", ("liver", "spleen"))
    assert [step["use"] for step in (*bundle.preprocess, *bundle.postprocess)] == [
        "standardise",
        "keep_largest",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inferer": {"_target_": "monai.apps.Other"}}, "expected SlidingWindowInferer"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, -1, 8]}}, "3 whole numbers"),
        (
            {
                "inferer": {
                    "_target_": "SlidingWindowInferer",
                    "roi_size": [16, 16, 8],
                    "overlap": [0.5, 0.25, 0.5],
                }
            },
            "one number",
        ),
    ],
)
def test_other_inferers_are_refused(change, said, write, config, tmp_path):
    with pytest.raises(BundleError, match=said):
        imported(write(config | change), tmp_path)


def test_labels_of_another_number_are_refused(write, config, tmp_path):
    table = LabelTable(labels=(Label(name="liver", value=1, colour="#56b4e9"),))
    with pytest.raises(BundleError, match="gives 3 classes, the label table names 2"):
        imported(write(config), tmp_path, table=table)
    metadata = {
        "network_data_format": {
            "outputs": {"pred": {"channel_def": {"0": "tumour", "1": "edema", "2": "core"}}}
        }
    }
    with pytest.raises(BundleError, match="channel 0 is tumour"):
        imported(write(config, metadata=metadata), tmp_path)


class Evil:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_weights_that_would_run_code_are_refused(write, config, tmp_path):
    trace = tmp_path / "trace"
    folder = write(config)
    (folder / "models" / "model.pt").write_bytes(pickle.dumps({"state_dict": Evil(trace)}))
    with pytest.raises(BundleError, match=r"never does|torch\.save"):
        imported(folder, tmp_path)
    torch.save({"state_dict": Evil(trace)}, folder / "models" / "model.pt")
    with pytest.raises(BundleError, match="executed, which medseg never does"):
        imported(folder, tmp_path)
    assert not trace.exists()
    assert not (tmp_path / "bundle").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_by_name(write, config, tmp_path):
    folder = write(config)
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(BundleError, match="is missing"):
        imported(folder, tmp_path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "models" / "model.ts"))
    with pytest.raises(BundleError, match="TorchScript"):
        imported(folder, tmp_path)


def test_weights_of_another_network_are_refused(write, config, network, tmp_path):
    state = dict(network.state_dict())
    first = next(iter(state))
    del state[first]
    with pytest.raises(BundleError, match=f"1 of .* first body.{first}"):
        imported(write(config, weights={"model": state}), tmp_path)


def test_states_are_found_where_checkpoints_keep_them(tmp_path):
    state = {"a.weight": torch.ones(2)}
    for value in (state, {"state_dict": state, "epoch": 3}, {"model": {"network": state}}):
        torch.save(value, tmp_path / "w.pt")
        assert torch.equal(read_weights(tmp_path / "w.pt")["a.weight"], torch.ones(2))
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(BundleError, match="no state of a network"):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(BundleError, match=r"damaged|never does"):
        read_weights(tmp_path / "w.pt")


def test_a_folder_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"none of the folders that medseg can import: .*MONAI bundle"):
        import_model(tmp_path, tmp_path / "bundle", ImportRequest())
    with pytest.raises(StorageError, match="is not a folder"):
        import_model(tmp_path / "nowhere", tmp_path / "bundle", ImportRequest())


def test_the_command_prints_what_became_of_each_part(write, config, tmp_path):
    from typer.testing import CliRunner

    from medseg.cli import app

    folder = write(config)
    found = CliRunner().invoke(app, ["import-model", str(folder), "-o", str(tmp_path / "bundle"), "--json"])
    assert found.exit_code == 0
    said = json.loads(found.stdout)
    assert said["kind"] == "MONAI bundle"
    assert any("ScaleIntensityRanged: normalise" in line for line in said["report"])
