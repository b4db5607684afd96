"""Bundles of several networks: written and read back, one member at a time, and old bundles beside them."""

import hashlib
import json

import pytest
import torch

from medseg.errors import BundleError
from medseg.models.bundle import read_bundle
from medseg.models.bundle_writer import update_bundle
from medseg.models.ensemble_writer import _widest, write_ensemble
from medseg.models.transfer import load_matching

FOLDS = (0, 1, 2)


@pytest.fixture
def members(tmp_path, write, table_of, network_of):
    """Three bundles that differ in their weights."""
    table = table_of("right", "left")
    return {
        fold: write(tmp_path / str(fold), table=table, network=network_of(table, seed=fold)) for fold in FOLDS
    }


def ensemble(folder, members):
    return write_ensemble(folder, members, cases=18, patients=9, settings_sha256="1" * 64)


def test_every_member_comes_back_and_the_card_lists_them(tmp_path, members):
    bundle = ensemble(tmp_path / "all", members)
    assert bundle.member_count == 3
    assert bundle.record.format_version == 2
    for position, fold in enumerate(FOLDS):
        own = members[fold].load_state()
        for name, value in bundle.load_state(position).items():
            torch.testing.assert_close(value, own[name], rtol=0, atol=0)
        chosen = bundle.member(fold)
        assert chosen.member_count == 1
        assert chosen.weights_sha256 == bundle.record.files[f"model-{fold}.safetensors"]
        torch.testing.assert_close(chosen.load_state()["stem.0.weight"], own["stem.0.weight"])
    assert bundle.record.training.cases == 18
    assert bundle.record.training.seconds == 270
    assert "ensemble of 3 networks" in bundle.card
    assert bundle.card.count("safetensors") == 6
    assert bundle.describe()["members"] == 3


def test_the_training_ranges_are_the_widest_of_what_all_members_tell():
    first, second = {"side": (1.0, 2.0), "spacing": (0.0, 9.0)}, {"side": (0.5, 1.5)}
    assert _widest([first, second]) == {"side": (0.5, 2.0)}


def test_a_training_starts_from_the_first_member_and_says_so(tmp_path, members, network_of):
    bundle = ensemble(tmp_path / "all", members)
    network = network_of(bundle.table, seed=9)
    report = load_matching(network, bundle, table=bundle.table)
    assert report.text.endswith(f"tensors taken from {bundle.name}, member of fold 0")
    own = members[0].load_state()["stem.0.weight"]
    torch.testing.assert_close(network.state_dict()["stem.0.weight"], own)


def test_the_gate_is_that_of_the_first_member(tmp_path, members):
    bundle = ensemble(tmp_path / "all", members)
    assert set(bundle.load_gate()) == {"mean", "whitening"}
    assert set(bundle.member(0).load_gate()) == {"mean", "whitening"}
    assert bundle.member(2).load_gate() == {}
    assert bundle.member(2).record.gate.limits == bundle.record.gate.limits


def test_the_same_members_give_the_same_hash_in_any_order(tmp_path, members):
    first = ensemble(tmp_path / "a", members)
    second = ensemble(tmp_path / "b", dict(reversed(members.items())))
    assert first.weights_sha256 == second.weights_sha256
    hashes = [first.record.files[f"model-{fold}.safetensors"] for fold in FOLDS]
    text = json.dumps(hashes, separators=(",", ":"))
    assert first.weights_sha256 == hashlib.sha256(text.encode()).hexdigest()
    other = ensemble(tmp_path / "c", {fold: members[fold] for fold in (0, 1)})
    assert other.weights_sha256 != first.weights_sha256


def test_weights_of_half_precision_are_stored_as_the_members_have_them(
    tmp_path, members, write, table_of, network_of
):
    table = table_of("right", "left")
    halves = {
        fold: write(
            tmp_path / f"half{fold}",
            weights_precision="fp16",
            table=table,
            network=network_of(table, seed=fold),
        )
        for fold in FOLDS
    }
    half, full = ensemble(tmp_path / "half", halves), ensemble(tmp_path / "full", members)
    sizes = [sum(p.stat().st_size for p in b.folder.glob("*.safetensors")) for b in (half, full)]
    assert sizes[0] < 0.62 * sizes[1]
    for name, value in half.load_state(2).items():
        torch.testing.assert_close(value, halves[2].load_state()[name], rtol=0, atol=0)
    with pytest.raises(BundleError, match="folds 0 and 1 differ in weights_precision"):
        ensemble(tmp_path / "mixed", {0: members[0], 1: halves[1]})


def test_members_that_differ_are_refused(tmp_path, members, write, table_of):
    members[1] = write(tmp_path / "other", preprocess=[{"use": "gray"}])
    with pytest.raises(BundleError, match=r"folds 0 and 1 differ in preprocess"):
        ensemble(tmp_path / "all", members)
    assert not (tmp_path / "all").exists()
    with pytest.raises(BundleError, match="one member or more"):
        ensemble(tmp_path / "all", {})


def test_a_member_that_is_not_there_is_named(tmp_path, members):
    with pytest.raises(BundleError, match="no member of fold 7; it has the folds 0, 1, 2"):
        ensemble(tmp_path / "all", members).member(7)
    with pytest.raises(BundleError, match="single network"):
        members[0].member(0)


def test_a_damaged_member_is_named(tmp_path, members):
    bundle = ensemble(tmp_path / "all", members)
    path = bundle.folder / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    bundle.load_network(0)
    with pytest.raises(BundleError, match=r"model-1.safetensors has SHA-256"):
        bundle.load_network(1)


def test_a_bundle_of_one_stays_as_older_versions_read_it(write):
    value = json.loads((write().folder / "bundle.json").read_text())
    assert value["format_version"] == 1
    assert "members" not in value
    assert set(value["files"]) == {"model.safetensors"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v.update(format_version=1), "format_version 1 does not go with 3 members"),
        (lambda v: v["members"].pop(), "files must name model-0.safetensors, model-1.safetensors"),
        (lambda v: v["members"][1].update(fold=0), "members must have a fold and a file each"),
        (lambda v: v["members"][1].update(file="../model-1.safetensors"), "members.1.file"),
    ],
)
def test_a_record_that_is_not_consistent_is_refused(tmp_path, members, change, text):
    bundle = ensemble(tmp_path / "all", members)
    path = bundle.folder / "bundle.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(BundleError, match=text):
        read_bundle(bundle.folder)


def test_an_update_changes_the_record_and_not_the_weights(tmp_path, members):
    for bundle in (ensemble(tmp_path / "all", members), members[0]):
        before = {p.name: p.read_bytes() for p in bundle.folder.glob("*.safetensors")}
        steps = [{"use": "keep_largest", "labels": ["right"], "count": 1}]
        changed = update_bundle(bundle, postprocess=steps)
        assert changed.postprocess == tuple(steps)
        assert changed.metrics == bundle.metrics
        assert changed.weights_sha256 == bundle.weights_sha256
        assert {p.name: p.read_bytes() for p in changed.folder.glob("*.safetensors")} == before
