"""Result folders of nnU-Net v2 as bundles, with folders written by hand."""

from __future__ import annotations

import copy
import json

import nnunet_model as made
import numpy as np
import pytest
import torch

from medseg.errors import BundleError, ConfigError, StorageError
from medseg.interop.nnunet import ImportOptions, find_folds, import_nnunet, label_table
from medseg.interop.nnunet_plans import read_labels, read_plans
from medseg.interop.nnunet_steps import normalisation_steps
from medseg.models.network import as_channels_last, as_contiguous
from medseg.models.nnunet import nnunet_network, nnunet_state
from medseg.models.options import UNetOptions
from medseg.models.registry import build_network
from medseg.pipeline.import_model import ImportRequest, import_model
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.model_source import read_model
from medseg.volume import Volume

KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
PATCH, SPACING = (8, 16, 24), (2.0, 1.0, 0.8)


def settings(**more):
    return made.configuration(patch=PATCH, spacing=SPACING, kernels=KERNELS, strides=STRIDES, **more)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    made.write_folder(path, settings(), mirror=(0, 1, 2))
    return path


@pytest.mark.parametrize("flat", [False, True])
def test_plain_networks_give_the_logits_that_functions_of_torch_give(flat):
    kwargs = made.arguments(made.PLAIN, KERNELS, STRIDES)
    if flat:
        kwargs = made.arguments(made.PLAIN, [[3, 3]] * 3, [[1, 1], [2, 2], [2, 1]])
    state = made.weights(made.PLAIN, kwargs, in_channels=2, outputs=3, seed=1)
    network = nnunet_network(
        {"architecture": {"network_class_name": "a.b.PlainConvUNet", "arch_kwargs": kwargs}}
    )
    ours = build_network(network.options, spatial_dims=3, in_channels=2, class_count=3, seed=0).eval()
    ours.load_state_dict(nnunet_state(state, network), strict=True)
    image = torch.randn(1, 2, 8, 16, 24, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found = ours(image)
        if flat:
            wanted = torch.stack([made.plain_forward(state, kwargs, image[:, :, k]) for k in range(8)], dim=2)
            # One slice at a time: an instance norm looks at all that it is shown.
            found = torch.cat([ours(image[:, :, k : k + 1]) for k in range(8)], dim=2)
        else:
            wanted = made.plain_forward(state, kwargs, image)
    assert wanted.abs().max() > 1
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_a_contiguous_network_keeps_the_variance_of_a_large_mean():
    options = UNetOptions(channels=(32, 32), norm="instance")
    network = build_network(options, spatial_dims=3, in_channels=2, class_count=2, seed=0).eval()
    image = torch.randn(1, 2, 32, 48, 64, generator=torch.Generator().manual_seed(0)) + 20
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()(image.double()).float()
        off = [(form(network)(image) - exact).abs().max() for form in (as_channels_last, as_contiguous)]
    assert off[1] < 1e-4
    assert off[1] < off[0] / 2


def test_a_folder_becomes_a_bundle(folder, tmp_path):
    bundle = import_nnunet(folder, tmp_path / "bundle")
    assert bundle.name == "dataset999_made-3d_fullres"
    assert bundle.table.names == ("background", "first", "second")
    assert [step["use"] for step in bundle.preprocess] == ["transpose", "crop", "standardise", "resample"]
    assert bundle.preprocess[0]["axes"] == [2, 1, 0]
    assert bundle.inference["window"] == list(PATCH)
    assert bundle.inference["flip_axes"] == [0, 1, 2]
    assert bundle.record.training.epochs == 1000
    assert bundle.member_count == 1
    again = import_nnunet(folder, tmp_path / "again")
    assert again.weights_sha256 == bundle.weights_sha256


def test_plans_of_both_generations_give_the_same_bundle(tmp_path):
    new, old = settings(name=made.RESIDUAL), made.older(settings(name=made.RESIDUAL))
    made.write_folder(tmp_path / "new", new)
    made.write_folder(tmp_path / "old", old)
    bundles = [import_nnunet(tmp_path / name, tmp_path / f"{name}_bundle") for name in ("new", "old")]
    assert bundles[0].network == bundles[1].network
    assert bundles[0].network.use == "residual_unet"
    assert bundles[0].weights_sha256 == bundles[1].weights_sha256


def test_configurations_inherit(folder):
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["small"] = {"inherits_from": "3d_fullres", "patch_size": [8, 16, 16]}
    plans["configurations"]["smaller"] = {"inherits_from": "small", "spacing": [3.0, 2.0, 2.0]}
    plans["configurations"]["round"] = {"inherits_from": "round"}
    (folder / "plans.json").write_text(json.dumps(plans))
    found = read_plans(folder, "smaller")
    assert (found.patch_size, found.spacing_mm) == ((8, 16, 16), (3.0, 2.0, 2.0))
    with pytest.raises(BundleError, match=r"round inherits from itself"):
        read_plans(folder, "round")
    with pytest.raises(
        BundleError, match=r"no configuration '2d'; plans.json has 3d_fullres, small, smaller"
    ):
        read_plans(folder, "2d")


def test_several_folds_become_an_ensemble(tmp_path):
    made.write_folder(tmp_path / "results", settings(), folds=(0, 3))
    bundle = import_nnunet(tmp_path / "results", tmp_path / "bundle")
    assert [member.fold for member in bundle.members] == [0, 3]
    one = import_nnunet(tmp_path / "results", tmp_path / "one", ImportOptions(folds=("3",)))
    assert one.weights_sha256 == bundle.record.files["model-3.safetensors"]
    with pytest.raises(BundleError, match=r"no fold_1/checkpoint_final.pth; complete folds: 0, 3"):
        find_folds(tmp_path / "results", ImportOptions(folds=("1",)))
    with pytest.raises(BundleError, match=r"no fold_\*/checkpoint_best.pth; complete folds: none"):
        find_folds(tmp_path / "results", ImportOptions(checkpoint="checkpoint_best.pth"))


def test_fold_all_counts_where_it_is_alone_or_asked_for(tmp_path):
    made.write_folder(tmp_path / "results", settings(), folds=(0, "all"))
    assert find_folds(tmp_path / "results", ImportOptions()) == ("0",)
    assert find_folds(tmp_path / "results", ImportOptions(folds=("all",))) == ("all",)
    with pytest.raises(BundleError, match=r"take it alone"):
        find_folds(tmp_path / "results", ImportOptions(folds=("all", "0")))


def test_regions_are_written_one_over_the_other(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4}
    made.write_folder(tmp_path / "results", settings(), labels=labels, order=[1, 2, 3])
    bundle = import_nnunet(tmp_path / "results", tmp_path / "bundle")
    assert bundle.table.names == ("background", "whole_only", "core_only", "enhancing")
    assert dict(bundle.table.regions) == {
        "whole": ("whole_only", "core_only", "enhancing"),
        "core": ("core_only", "enhancing"),
    }
    assert bundle.record.regions == (1, 2, 3)
    assert bundle.load_network().class_count == 3
    image = np.random.default_rng(0).normal(size=(1, 30, 20, 9)).astype(np.float32)
    found = LoadedModel(bundle).predictor.predict(Volume(array=image, spacing_mm=(0.8, 1.0, 2.0)))
    assert set(np.unique(found.label_map)) <= {0, 1, 2, 3}
    assert len(np.unique(found.label_map)) > 1


def test_labels_are_checked():
    assert read_labels({"labels": {"background": 0, "b": 2, "a": 1, "ignore": 3}}) == (
        {"b": (2,), "a": (1,)},
        (),
    )
    for labels, match in (
        ({"a": 1}, "background being 0"),
        ({"background": 0, "a": 2}, r"without gaps, found \[0, 2\]"),
        ({"background": 0, "a": "1"}, "'a' is '1', expected a whole number"),
        (
            {"background": 0, "a": [1, 2], "b": 2},
            "regions_class_order is None, expected a value above 0 for each of 2",
        ),
    ):
        with pytest.raises(BundleError, match=match):
            read_labels({"labels": labels})


def test_normalisations_become_steps(tmp_path):
    numbers = {"mean": 40.0, "std": 20.0, "percentile_00_5": -100.0, "percentile_99_5": 200.0, "median": 1.0}
    schemes = ["CTNormalization", "ZScoreNormalization", "ZScoreNormalization", "NoNormalization"]
    made.write_folder(
        tmp_path,
        settings(schemes=schemes, masked=[False, True, True, False]),
        channels=("CT", "T1", "T2", "map"),
        intensities={str(n): numbers for n in range(4)},
    )
    steps = normalisation_steps(read_plans(tmp_path, "3d_fullres").channels)
    assert steps == [
        {"use": "standardise", "method": "nonzero", "channels": [1, 2]},
        {
            "use": "standardise",
            "method": "given",
            "mean": 40.0,
            "std": 20.0,
            "clip": [-100.0, 200.0],
            "channels": [0],
        },
    ]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade: it needs the masks of 3d_lowres"),
        ({"preprocessor_name": "Mine"}, "preprocessor 'Mine'"),
        (
            {"resampling_fn_data": "resample_torch_fornnunet"},
            "resampling_fn_data is 'resample_torch_fornnunet'",
        ),
        ({"resampling_fn_probabilities_kwargs": {"order": 0}}, "resampling_fn_probabilities is .*'order': 0"),
        ({"normalization_schemes": ["Odd"]}, r"channel 0 \(MRI\) has the normalisation 'Odd'"),
        ({"normalization_schemes": ["CTNormalization"]}, "CTNormalization of channel 0 lacks mean, std"),
        (
            {"normalization_schemes": ["A", "B"]},
            "names 1 channels, plans.json normalises .*plans of another data set",
        ),
        ({"patch_size": [8, 16]}, "do not fit each other"),
        ({"spacing": [1.0, -1.0, 1.0]}, "expected a list of numbers above 0"),
    ],
)
def test_what_medseg_would_do_otherwise_is_refused(tmp_path, change, match):
    made.write_folder(tmp_path / "results", settings() | change)
    with pytest.raises(BundleError, match=match):
        import_nnunet(tmp_path / "results", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_unknown_networks_and_trainers_are_refused_by_name(folder, tmp_path):
    plans = json.loads((folder / "plans.json").read_text())
    path = folder / "fold_0" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)["network_weights"]
    write = {"plans": plans, "about": {}, "configuration": "3d_fullres"}
    made.checkpoint(path, state, trainer="nnUNetTrainerBN", **write)
    with pytest.raises(BundleError, match=r"trained by nnUNetTrainerBN, .* --trainer nnUNetTrainerBN"):
        import_nnunet(folder, tmp_path / "bundle")
    assert (
        import_nnunet(folder, tmp_path / "bundle", ImportOptions(trainer="nnUNetTrainerBN")).member_count == 1
    )
    made.checkpoint(path, state, trainer="nnUNetTrainer_250epochs_NoMirroring", **write)
    assert import_nnunet(folder, tmp_path / "bundle").inference.get("tta", "none") == "none"
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "primus.Primus"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(
        BundleError, match=r"network 'Primus': medseg runs PlainConvUNet and ResidualEncoderUNet"
    ):
        import_nnunet(folder, tmp_path / "other")


def test_files_of_another_training_are_refused(folder, tmp_path):
    plans = json.loads((folder / "plans.json").read_text())
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "plans.json").write_text(json.dumps(plans | {"dataset_name": "Dataset007_Other"}))
    with pytest.raises(
        BundleError, match=r"trained on Dataset999_Made, plans.json is that of Dataset007_Other"
    ):
        import_nnunet(folder, tmp_path / "bundle")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(about | {"labels": {"background": 0, "one": 1}}))
    with pytest.raises(
        BundleError, match=r"does not fit .* 2 outputs\): heads.0.* expected \(2, .*another data set"
    ):
        import_nnunet(folder, tmp_path / "bundle")
    (folder / "dataset.json").unlink()
    with pytest.raises(BundleError, match=r"has no dataset.json; give the folder that nnU-Net trained into"):
        import_nnunet(folder, tmp_path / "bundle")


def test_predict_takes_the_folder_and_converts_it_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "cache"))
    first = read_model(folder)
    assert first.folder.is_relative_to(tmp_path / "cache")
    before = (first.folder / "bundle.json").stat().st_mtime_ns
    assert read_model(folder).folder == first.folder
    assert (first.folder / "bundle.json").stat().st_mtime_ns == before
    made.write_folder(folder, settings(), seed=5)
    assert read_model(folder).weights_sha256 != first.weights_sha256


def test_the_command_says_what_it_made(folder, tmp_path):
    asked = ImportRequest(folds="0", mirroring=False, name="mine", licence="CC-BY-4.0")
    result = import_model(folder, tmp_path / "bundle", asked)
    assert result.path == tmp_path / "bundle"
    assert result.facts["bundle"]["name"] == "mine"
    assert result.facts["bundle"]["licence"] == "CC-BY-4.0"
    assert "first, second" in result.lines[0]
    assert result.lines[1].startswith("1 network")
    with pytest.raises(StorageError, match=r"is not a folder"):
        import_model(tmp_path / "absent", tmp_path / "bundle", asked)
    with pytest.raises(ConfigError, match=r"--weights says nothing about a result folder of nnU-Net"):
        import_model(folder, tmp_path / "other", ImportRequest(weights=folder / "plans.json"))


def test_labels_of_odd_names_stay_apart(tmp_path):
    made.write_folder(tmp_path, settings(), labels={"background": 0, "left\nlung": 1, "a/b": 2})
    table, written = label_table(read_plans(tmp_path, "3d_fullres"))
    assert table.names == ("background", "left_lung", "a_b")
    assert len({label.colour for label in table.labels}) == 2
    assert written == ()
