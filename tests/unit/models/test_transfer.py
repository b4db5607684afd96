"""Weights move from a bundle to a new task by name, shape and label."""

from __future__ import annotations

import pytest
import torch

from medseg.errors import BundleError
from medseg.models.options import SmallUNetOptions, UNetOptions
from medseg.models.transfer import load_matching

HEAD = ("heads.0.weight", "heads.0.bias")


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_same_task_takes_everything(write, network_of):
    bundle = write()
    network = network_of(bundle.table, seed=5)
    report = load_matching(network, bundle, table=bundle.table)
    assert set(report.taken) == set(network.state_dict())
    assert (report.resized, report.new, report.labels_new) == ((), (), ())
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
    assert report.resized == ("stem.0.weight",)
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
    volumes = network_of(bundle.table, spatial_dims=3)
    with pytest.raises(BundleError, match="is 2-D, the data are 3-D"):
        load_matching(volumes, bundle, table=bundle.table)
