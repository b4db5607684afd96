"""A bundle comes back as it was written, and nothing that is damaged is used."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medseg.errors import BundleError, StorageError
from medseg.models import bundle as bundle_module
from medseg.models.bundle import list_bundles, read_bundle
from medseg.models.bundle_record import BundleAbout
from medseg.models.card import model_card
from medseg.models.options import SmallUNetOptions
from medseg.provenance import sha256_file


def edit(bundle, change, *, rehash=False):
    """Change bundle.json by a function of its value; with `rehash`, let it agree with the weights."""
    path = bundle.folder / "bundle.json"
    value = json.loads(path.read_text())
    if rehash:
        value["files"]["model.safetensors"] = sha256_file(bundle.folder / "model.safetensors")
    change(value)
    path.write_text(json.dumps(value))
    return bundle.folder


def edit_weights(bundle, change):
    path = bundle.folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return edit(bundle, lambda value: None, rehash=True)


def second_version(bundle):
    words = {name: getattr(bundle.record, name) for name in BundleAbout.model_fields}
    return BundleAbout(**words | {"version": "2.0.0"})


def test_round_trip(write, table_of, network_of):
    written = write()
    bundle = read_bundle(written.folder)
    assert bundle.table == table_of("right", "left")
    assert (bundle.spatial_dims, bundle.in_channels, bundle.network) == (
        2,
        1,
        SmallUNetOptions(channels=(8, 16, 24)),
    )
    assert bundle.preprocess[1] == {"use": "resize", "size": [64, 64]}
    assert bundle.inference == {"overlap": 0.25}
    assert bundle.record.gate.limits == {"refuse": 3.5, "quantiles": {"0.5": 1.0}}
    gate = bundle.load_gate()
    np.testing.assert_array_equal(gate["mean"], np.arange(24.0))
    assert gate["mean"].dtype == np.float64
    network, source = bundle.load_network(), network_of(bundle.table).eval()
    assert not network.training
    x = torch.randn(1, 1, 40, 24)
    with torch.no_grad():
        assert torch.equal(network(x), source(x))
    assert bundle.describe()["structures"] == ["right", "left"]
    assert sorted(p.name for p in bundle.folder.iterdir()) == ["CARD.md", "bundle.json", "model.safetensors"]


def test_bytes_are_the_same_each_time(write, tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    for name in ("CARD.md", "bundle.json", "model.safetensors"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_half_precision_halves_the_file_and_loads_as_float32(write, tmp_path):
    full, half = (
        write(tmp_path / "full", gate=None),
        write(tmp_path / "half", gate=None, weights_precision="fp16"),
    )
    sizes = [(b.folder / "model.safetensors").stat().st_size for b in (full, half)]
    assert sizes[1] < 0.7 * sizes[0]
    state = half.load_state()
    assert {t.dtype for t in state.values()} == {torch.float32}
    for name, value in full.load_state().items():
        torch.testing.assert_close(state[name], value, atol=1e-3, rtol=1e-3)


def test_a_given_state_is_stored_instead(write, table_of, network_of):
    table = table_of("right", "left")
    other = network_of(table, seed=9).state_dict()
    stored = write(table=table, state=other).load_state()
    assert all(torch.equal(stored[name], value) for name, value in other.items())


def test_batch_norm_counters_stay_whole(write, table_of, network_of):
    options = SmallUNetOptions(channels=(8, 16, 24), norm="batch")
    table = table_of("right", "left")
    bundle = write(table=table, network=network_of(table, options=options), weights_precision="fp16")
    assert bundle.load_state()["stem.1.num_batches_tracked"].dtype == torch.int64
    bundle.load_network()


def test_the_card_says_what_the_record_says(write):
    bundle = write()
    card = bundle.card
    assert card == model_card(bundle.record) == (bundle.folder / "CARD.md").read_text()
    assert "Lungs on \\| synthetic &lt;films>." in card
    assert "| lung | dice | 0.95 | 0.94 to 0.96 (95 %) | 9 | test |" in card
    assert "an unknown number of patients" in card
    assert "Knows two shapes." in card
    assert bundle.weights_sha256 in card


def test_an_older_bundle_is_replaced_whole_and_other_folders_are_left_alone(write, tmp_path):
    bundle = write()
    again = write(about=second_version(bundle))
    assert read_bundle(again.folder).version == "2.0.0"
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "important.txt").write_text("keep")
    with pytest.raises(StorageError, match="exists and is not a bundle"):
        write(notes)
    assert (notes / "important.txt").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "notes"]


def test_a_failed_write_leaves_the_older_bundle(write, tmp_path, monkeypatch):
    bundle = write()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.models.bundle_writer.write_text", full)
    with pytest.raises(StorageError, match="No space left"):
        write(about=second_version(bundle))
    assert read_bundle(bundle.folder).version == "1.0.0"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(colour="red"), "colour: Extra inputs are not permitted"),
        (lambda v: v["network"].update(depth=3), "network.small_unet.depth: Extra inputs"),
        (lambda v: v["network"].update(use="os.system"), "network: Input tag 'os.system'"),
        (lambda v: v.pop("licence"), "licence: Field required"),
        (lambda v: v.update(format_version=3), "format_version 3, this medseg reads 1 and 2"),
        (lambda v: v.update(format_version=2), "format_version 2 does not go with 0 members"),
        (lambda v: v.pop("format_version"), "format_version None"),
        (lambda v: v.update(files={}), "files must name model.safetensors"),
        (
            lambda v: v["files"].update({"../evil": "0" * 64}),
            "files must name model.safetensors and nothing else",
        ),
        (lambda v: v.update(window=[64, 64, 64]), "window has 3 edges for 2 axes"),
        (lambda v: v.update(labels={}), "labels are not a label table"),
        (lambda v: v["labels"]["labels"][0].update(value=0), "labels: label values must ascend"),
        (lambda v: v["metrics"][0].update(low=0.99), "low 0.99 is above high 0.96"),
        (lambda v: v["metrics"][0].update(value=math.nan), "NaN is not a JSON number"),
    ],
)
def test_a_wrong_record_is_refused(write, change, message):
    folder = edit(write(), change)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "\x00"])
def test_a_record_that_is_not_json_is_refused(write, text):
    bundle = write()
    (bundle.folder / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_bundle(bundle.folder)


def test_changed_weights_are_refused_before_they_are_read(write):
    bundle = write()
    path = bundle.folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for load in (bundle.load_network, bundle.load_state, bundle.load_gate):
        with pytest.raises(BundleError, match=r"has SHA-256 .* the record says .* fetch the bundle again"):
            load()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match="cut off"):
        bundle.load_network()
    path.unlink()
    with pytest.raises(BundleError, match=r"model.safetensors cannot be read: No such file"):
        bundle.load_network()


def test_weights_that_are_no_tensors_are_refused(write):
    bundle = write()
    (bundle.folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BundleError, match="is not a safetensors file"):
        read_bundle(edit(bundle, lambda v: None, rehash=True)).load_network()


def test_weights_that_do_not_fit_name_both_sides(write, tmp_path):
    folder = edit_weights(
        write(tmp_path / "a"), lambda t: t.update({"stem.9.weight": t.pop("stem.0.weight")})
    )
    with pytest.raises(
        BundleError,
        match=r"needs stem.0.weight that the file lacks, the file has stem.9.weight that the network",
    ):
        read_bundle(folder).load_network()
    folder = edit(write(tmp_path / "b"), lambda v: v["network"].update(channels=[8, 16, 32]))
    with pytest.raises(
        BundleError, match=r"bottom.first.0.weight is \(24, 24, 3, 3\) in the file, \(32, 32, 3, 3\) in the"
    ):
        read_bundle(folder).load_network()
    folder = edit(write(tmp_path / "c"), lambda v: v["labels"]["labels"].append({**HEART}))
    with pytest.raises(
        BundleError, match=r"label table has 4 classes \(background, .*\), .* has 3 in heads.0.bias"
    ):
        read_bundle(folder).load_network()


HEART = {"name": "heart", "value": 3, "colour": "#ff0000", "side": "none", "pair": None, "code": None}


def test_weights_that_are_not_finite_are_refused(write):
    bundle = write()
    folder = edit_weights(bundle, lambda t: t["stem.0.weight"].view(-1)[:1].fill_(math.nan))
    with pytest.raises(BundleError, match=r"1 of \d+ tensors hold NaN or infinity, first stem.0.weight"):
        read_bundle(folder).load_network()


def test_a_gate_that_does_not_fit_is_refused(write):
    folder = edit_weights(write(), lambda t: t.pop("gate.mean"))
    with pytest.raises(
        BundleError, match=r"gate names the arrays \['mean', 'whitening'\], .* holds \['whitening'\]"
    ):
        read_bundle(folder).load_gate()


def test_nothing_broken_is_written(write, table_of, network_of):
    table = table_of("right", "left")
    state = network_of(table).state_dict()
    state["stem.0.weight"] = state["stem.0.weight"] * 1e9
    with pytest.raises(BundleError, match="beyond the range of fp16"):
        write(table=table, state=state, weights_precision="fp16")
    state["stem.0.weight"] = state["stem.0.weight"] * math.nan
    with pytest.raises(BundleError, match=r"stem.0.weight holds NaN or infinity; it is not written"):
        write(table=table, state=state)
    with pytest.raises(BundleError, match=r"needs stem\.0\.weight that the file lacks"):
        write(
            table=table,
            state={k: v for k, v in network_of(table).state_dict().items() if k != "stem.0.weight"},
        )
    with pytest.raises(BundleError, match="network has 3 classes, the label table 4"):
        write(network=network_of(table), table=table_of("right", "left", "heart"))
    with pytest.raises(BundleError, match="must be finite"):
        write(gate={"mean": np.array([math.inf])})


def test_names_lead_to_shipped_bundles(write, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: tmp_path / "shipped")
    assert list_bundles() == ()
    with pytest.raises(BundleError, match="neither shipped nor a folder; shipped: none"):
        read_bundle("test-lungs")
    shutil.move(write().folder, tmp_path / "shipped" / "test-lungs")
    assert [bundle.name for bundle in list_bundles()] == ["test-lungs"]
    assert read_bundle("test-lungs").folder == tmp_path / "shipped" / "test-lungs"
    assert read_bundle(tmp_path / "shipped" / "test-lungs" / "bundle.json").name == "test-lungs"
    with pytest.raises(
        BundleError, match=r"no bundle test-lung: .* did you mean test-lungs\? shipped: test-lungs;"
    ):
        read_bundle("test-lung")
    with pytest.raises(BundleError, match=r"is a folder without bundle.json"):
        read_bundle(tmp_path)
