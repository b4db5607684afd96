"""Weights move from a bundle to a new task by name, shape and label."""

from __future__ import annotations

import json

import pytest
import torch

from medseg.errors import BundleError
from medseg.labels import Label, LabelTable
from medseg.models.bundle import read_bundle
from medseg.models.options import AttentionUNetOptions, SmallUNetOptions, UNetOptions
from medseg.models.registry import build_network
from medseg.models.transfer import load_matching

HEAD = ("heads.0.weight", "heads.0.bias")


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_same_task_takes_everything(write, network_of):
    bundle = write()
    network = network_of(bundle.table, seed=5)
    report = load_matching(network, bundle, table=bundle.table)
    assert set(report.taken) == set(network.state_dict())
    assert (report.resized, report.new, report.unused, report.labels_new) == ({}, (), (), ())
    x = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), bundle.load_network()(x))


def test_the_head_follows_label_names(write, table_of, network_of):
    bundle = write()
    table = table_of("heart", "left", "right")
    network = network_of(table, seed=5)
    fresh = state_of(network)
    report = load_matching(network, bundle, table=table)
    assert set(report.resized) == set(HEAD)
    assert report.new == ()
    assert report.labels_taken == ("background", "left", "right")
    assert report.labels_new == ("heart",)
    count = len(fresh)
    assert report.text == (
        f"{count - 2} of {count} tensors taken from test-lungs, 2 fitted; labels that start fresh: heart"
    )
    x = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        found, expected = network.eval()(x), bundle.load_network()(x)
    torch.testing.assert_close(found[:, [0, 3, 2]], expected)
    cells = 4
    for name in HEAD:
        assert torch.equal(network.state_dict()[name][cells : 2 * cells], fresh[name][cells : 2 * cells])


def test_equal_counts_of_other_labels_are_not_taken_for_the_same(write, table_of, network_of):
    bundle = write()
    table = table_of("left", "right")
    network = network_of(table, seed=5)
    report = load_matching(network, bundle, table=table)
    assert set(report.resized) == set(HEAD)
    x = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x)[:, [0, 2, 1]], bundle.load_network()(x))


def test_more_channels_share_the_first_convolution(write, network_of):
    bundle = write()
    network = network_of(bundle.table, in_channels=3, seed=5)
    report = load_matching(network, bundle, table=bundle.table)
    assert report.resized == {"stem.0.weight": "1 -> 3 image channels"}
    shared = network.state_dict()["stem.0.weight"].reshape(8, 3, 4, 3, 3).sum(dim=1)
    torch.testing.assert_close(shared, bundle.load_state()["stem.0.weight"])
    x = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        found = network.eval()(x.expand(1, 3, 32, 24))
        torch.testing.assert_close(found, bundle.load_network()(x), atol=1e-4, rtol=1e-4)


def test_other_widths_start_fresh_and_are_told(write, network_of):
    bundle = write()
    options = SmallUNetOptions(channels=(8, 16, 32))
    network = network_of(bundle.table, options=options, seed=5)
    fresh = state_of(network)
    report = load_matching(network, bundle, table=bundle.table)
    assert "stem.0.weight" in report.taken
    assert "bottom.first.0.weight" in report.new
    for name in report.new:
        assert torch.equal(network.state_dict()[name], fresh[name])
    assert "bottom.first.0.weight" in report.unused
    assert report.hints == ("set model.channels to [8, 16, 24] (found [8, 16, 32]) to take more",)
    assert report.text.endswith(report.hints[0])


def test_three_labels_of_which_two_are_kept_in_another_order_among_five(write, table_of, network_of):
    old = table_of("liver", "spleen", "kidney")
    bundle = write(table=old, network=network_of(old, seed=1))
    new = table_of("heart", "kidney", "stomach", "liver", "aorta")
    network = network_of(new, seed=5)
    fresh = state_of(network)
    report = load_matching(network, bundle, table=new)
    assert report.labels == {
        "background": ("background",),
        "heart": (),
        "kidney": ("kidney",),
        "stomach": (),
        "liver": ("liver",),
        "aorta": (),
    }
    assert report.resized == dict.fromkeys(HEAD, "4 -> 6 classes, 3 kept")
    x = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        found, expected = network.eval()(x), bundle.load_network()(x)
    torch.testing.assert_close(found[:, [0, 2, 4]], expected[:, [0, 3, 1]])
    for name in HEAD:
        rows = network.state_dict()[name].reshape(6, 4, -1)[[1, 3, 5]]
        assert torch.equal(rows, fresh[name].reshape(6, 4, -1)[[1, 3, 5]])


def test_labels_become_regions_and_regions_labels(write, network_of):
    def table(regions, *names):
        labels = [Label(name=n, value=i, colour="#3aa0ff") for i, n in enumerate(names, start=1)]
        return LabelTable(labels=tuple(labels), regions=regions)

    old = table({"lung": ("right", "left")}, "right", "left", "tumour")
    bundle = write(table=old, network=network_of(old, seed=1))
    new = table({"tumour": ("core", "rim"), "all": ("core", "rim", "lung")}, "core", "rim", "lung")
    network = network_of(new, seed=5)
    report = load_matching(network, bundle, table=new)
    assert report.labels == {
        "background": ("background",),
        "core": ("tumour",),
        "rim": ("tumour",),
        "lung": ("right", "left"),
    }
    x = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        found, expected = network.eval()(x), bundle.load_network()(x)
    torch.testing.assert_close(found[:, 1:3], expected[:, [3, 3]])
    torch.testing.assert_close(found[:, 3], expected[:, 1:3].mean(dim=1))
    assert (
        "labels taken",
        "4",
        "background, core (from tumour), rim (from tumour), lung (from right + left)",
    ) in (report.rows)


def test_the_shipped_lungs_start_a_network_for_volumes():
    bundle = read_bundle("chest-xray-lungs")
    options = bundle.network.model_copy(update={"inflate": "centre"})
    network = build_network(options, spatial_dims=3, in_channels=1, class_count=3, seed=5)
    report = load_matching(network, bundle, table=bundle.table)
    assert report.new == report.unused == report.hints == ()
    assert set(report.resized.values()) == {"inflated to 3-D"}
    assert "context.squeeze.weight" in report.taken
    x = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        expected = bundle.load_network()(x)
        found = network.eval()(x.unsqueeze(-1).expand(-1, -1, -1, -1, 64).contiguous())
    # Group normalisation sums in another order.
    torch.testing.assert_close(found, expected.unsqueeze(-1).expand_as(found), atol=0.02, rtol=0.0)


@pytest.mark.parametrize("options", [UNetOptions(channels=(8, 16)), AttentionUNetOptions(channels=(8, 16))])
def test_inflation_keeps_transposed_convolutions_and_gates(write, network_of, options):
    table = write().table
    bundle = write(network=network_of(table, options=options, seed=1), gate=None, gate_limits=None)
    network = network_of(
        table, options=options.model_copy(update={"inflate": "centre"}), spatial_dims=3, seed=5
    )
    assert load_matching(network, bundle, table=table).new == ()
    x = torch.randn(1, 1, 16, 24)
    with torch.no_grad():
        expected = bundle.load_network()(x)
        found = network.eval()(x.unsqueeze(-1).expand(-1, -1, -1, -1, 8).contiguous())
    torch.testing.assert_close(found, expected.unsqueeze(-1).expand_as(found), atol=1e-4, rtol=1e-4)


def test_cells_and_kernels_by_axis_are_fitted(write, network_of):
    table = write().table
    whole = SmallUNetOptions(channels=(8, 16), context=False)
    bundle = write(
        network=network_of(table, options=whole, spatial_dims=3), window=None, gate=None, gate_limits=None
    )
    thick = SmallUNetOptions(channels=(8, 16), context=False, cell=(2, 2, 1), kernels=((3, 3, 1), (3, 3, 3)))
    report = load_matching(network_of(table, options=thick, spatial_dims=3, seed=5), bundle, table=table)
    assert report.new == ()
    assert report.resized["stem.0.weight"] == "kernel 3 x 3 x 3 -> 3 x 3 x 1, cell 2 x 2 x 2 -> 2 x 2 x 1"
    assert report.resized["heads.0.bias"] == "cell 2 x 2 x 2 -> 2 x 2 x 1"
    assert report.hints == ()


def test_the_report_is_short_and_whole(write, network_of):
    bundle = write()
    options = SmallUNetOptions(channels=(8, 16, 24), deep_supervision=True, context=False)
    report = load_matching(
        network_of(bundle.table, options=options, in_channels=2), bundle, table=bundle.table
    )
    rows = {what: (count, which) for what, count, which in report.rows}
    assert rows["fitted: 1 -> 2 image channels"] == ("1", "stem.0.weight")
    assert rows["new"] == ("2", "heads.1.weight, heads.1.bias")
    assert rows["not used"] == ("6", "context (6)")
    assert "encoder (" in rows["taken"][1]
    value = json.loads(json.dumps(report.to_json()))
    assert value["counts"] == {
        "taken": len(report.taken),
        "resized": 1,
        "new": 2,
        "unused": 6,
    }
    assert value["weights_sha256"] == bundle.weights_sha256


def test_supervision_heads_that_the_bundle_lacks_start_fresh(write, network_of):
    bundle = write()
    options = SmallUNetOptions(channels=(8, 16, 24), deep_supervision=True)
    report = load_matching(network_of(bundle.table, options=options), bundle, table=bundle.table)
    assert set(report.new) == {"heads.1.weight", "heads.1.bias"}
    assert set(HEAD) <= set(report.taken)
    assert report.labels_new == ()


def test_nothing_in_common_is_an_error(write, network_of):
    bundle = write()
    with pytest.raises(
        BundleError, match=r"none of the convolutions of bundle test-lungs \(small_unet, channels"
    ):
        load_matching(
            network_of(bundle.table, options=UNetOptions(channels=(8, 16))), bundle, table=bundle.table
        )
    with pytest.raises(
        BundleError, match=r"set model.use to small_unet \(found unet\) to take more; or leave out"
    ):
        load_matching(
            network_of(bundle.table, options=UNetOptions(channels=(8, 16))), bundle, table=bundle.table
        )


def test_volumes_do_not_become_pictures(write, network_of):
    table = write().table
    bundle = write(network=network_of(table, spatial_dims=3), window=None)
    with pytest.raises(BundleError, match="is 3-D, the data are 2-D; kernels can be inflated, not flattened"):
        load_matching(network_of(table), bundle, table=table)
