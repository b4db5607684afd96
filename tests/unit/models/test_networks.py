"""Networks of our own: norms, activations, strides by axis, cells; what all share is in tests/contract."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.models.blocks import convolution, normalisation
from medseg.models.cells import MeanPool, depth_to_space, space_to_depth
from medseg.models.options import NETWORK_OPTIONS
from medseg.models.registry import build_network

OWN = ("unet", "residual_unet", "attention_unet", "fcn", "small_unet")


def make(use, *, dims=2, in_channels=1, classes=3, seed=0, **arguments):
    arguments = {"channels": [8, 16, 24], **({"score_levels": 2} if use == "fcn" else {}), **arguments}
    options = NETWORK_OPTIONS.validate_python({"use": use, **arguments})
    return build_network(options, spatial_dims=dims, in_channels=in_channels, class_count=classes, seed=seed)


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("use", OWN)
@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@pytest.mark.parametrize("size", [(5, 3), (9, 17, 11)])
def test_every_norm_takes_small_and_odd_images(use, norm, size):
    network = make(use, dims=len(size), in_channels=2, norm=norm)
    logits = network(image(1, 2, *size))
    assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("use", OWN)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu", "gelu"])
def test_the_activation_is_that_of_the_settings(use, activation):
    kinds = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU, "gelu": nn.GELU}
    network = make(use, activation=activation)
    found = {type(m) for m in network.modules() if isinstance(m, tuple(kinds.values()))}
    assert found == {kinds[activation]}
    network(image(1, 1, 16, 16)).square().mean().backward()


@pytest.mark.parametrize("use", OWN)
def test_thick_slices_are_left_alone_where_the_settings_say_so(use):
    """With kernels and strides of 1 along K (and no normalisation across) slices do not see each other."""
    by_axis = {"strides": [[2, 2, 1], [2, 2, 1]], "kernels": [[3, 3, 1]] * 3, "norm": "batch"}
    more = {"cell": [2, 2, 1], "context": False} if use == "small_unet" else {}
    network = make(use, dims=3, **by_axis, **more).eval()
    assert network.stride == ((8, 8, 1) if use == "small_unet" else (4, 4, 1))
    x = image(1, 1, 16, 24, 3)
    other = x.clone()
    other[..., 2] += 1.0
    with torch.no_grad():
        before, after = network(x), network(other)
    assert torch.equal(before[..., :2], after[..., :2])
    assert not torch.equal(before[..., 2], after[..., 2])


def test_deep_supervision_has_the_size_of_each_level_by_axis():
    network = make("unet", dims=3, deep_supervision=True, strides=[[2, 2, 1], [2, 2, 2]])
    assert [tuple(part.shape[2:]) for part in network(image(1, 1, 17, 24, 7))] == [(17, 24, 7), (9, 12, 7)]
    network = make(
        "small_unet", dims=3, deep_supervision=True, cell=[2, 2, 1], strides=[[2, 2, 1], [2, 2, 2]]
    )
    assert [tuple(part.shape[2:]) for part in network(image(1, 1, 17, 24, 7))] == [(17, 24, 7), (5, 6, 7)]


def test_settings_for_another_number_of_axes_are_refused():
    with pytest.raises(ConfigError, match=r"model.strides gives numbers for 3 axes, the images have 2"):
        make("unet", strides=[[2, 2, 1], [2, 2, 2]])
    with pytest.raises(ConfigError, match=r"model.cell gives numbers for 2 axes, the images have 3"):
        make("small_unet", dims=3, cell=[2, 2])


def test_the_variants_of_small_unet_add_to_the_plain_one():
    plain = make("small_unet").state_dict()
    rich = make("small_unet", blocks=[1, 1, 3], refine=8, decoder="residual").state_dict()
    kept = {name for name in plain if not name.startswith("decoder.")}
    assert kept < set(rich)
    assert {name.split(".")[0] for name in set(rich) - set(plain)} == {"more", "refine", "decoder"}
    lean = make("small_unet", blocks=[0, 1, 1]).state_dict()
    assert {name.split(".")[0] for name in set(plain) - set(lean)} == {"bottom"}


def test_small_unet_is_small_and_sees_the_whole_window():
    options = NETWORK_OPTIONS.validate_python({"use": "small_unet"})
    network = build_network(options, spatial_dims=2, in_channels=1, class_count=3, seed=0).eval()
    assert 400_000 < sum(p.numel() for p in network.parameters()) < 1_000_000
    x = image(1, 1, 256, 256).requires_grad_()
    network(x)[0, :, 0, 0].sum().backward()
    assert x.grad[0, 0, -32:, -32:].abs().max() > 0


def test_dropout_works_in_training_only():
    network = make("small_unet", dropout=0.5)
    x = image(1, 1, 32, 32)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("size", "cell"), [((6, 4), (2, 2)), ((6, 4), (3, 1)), ((6, 4, 8), (2, 2, 2)), ((6, 8, 5), (2, 4, 1))]
)
def test_cells_become_channels_and_come_back(size, cell):
    x = image(2, 3, *size)
    folded = space_to_depth(x, cell)
    cells = math.prod(cell)
    assert folded.shape == (2, 3 * cells, *(n // c for n, c in zip(size, cell, strict=True)))
    # Class (or channel) is slowest, then the cell: transfer relies on it.
    corner = tuple(slice(0, None, c) for c in cell)
    assert torch.equal(folded[:, 0], x[(slice(None), 0, *corner)])
    assert torch.equal(folded[:, cells], x[(slice(None), 1, *corner)])
    last = tuple(slice(c - 1, None, c) for c in cell)
    assert torch.equal(folded[:, cells - 1], x[(slice(None), 0, *last)])
    assert torch.equal(depth_to_space(folded, cell), x)


@pytest.mark.parametrize("size", [(8, 6, 4), (7, 6, 5)])
@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1), (1, 3, 2)])
def test_mean_pool_equals_that_of_torch_and_keeps_channels_last(size, stride):
    x = image(2, 3, *size).contiguous(memory_format=torch.channels_last_3d)
    found = MeanPool(stride)(x)
    expected = torch.nn.functional.avg_pool3d(x, stride, stride, ceil_mode=True)
    torch.testing.assert_close(found, expected)
    fits = all(n % s == 0 for n, s in zip(size, stride, strict=True))
    assert not fits or found.is_contiguous(memory_format=torch.channels_last_3d)


def test_one_voxel_convolution_equals_that_of_torch_and_keeps_channels_last():
    layer = convolution(3, 3, 5, kernel=1, bias=True)
    x = image(2, 3, 4, 5, 6)
    expected = torch.nn.functional.conv3d(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    found = layer(x.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dims", [2, 3])
def test_instance_norm_equals_that_of_torch(dims):
    x = image(2, 4, *(9, 8, 7)[:dims]) * 3 + 2
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    found = normalisation(dims, 4, norm="instance", groups=8)(x.contiguous(memory_format=layout))
    torch.testing.assert_close(found, torch.nn.functional.instance_norm(x), atol=1e-4, rtol=1e-4)


def test_wrong_requests_are_refused():
    options = NETWORK_OPTIONS.validate_python({"use": "unet"})
    with pytest.raises(ConfigError, match="2 or 3 dimensions, found 4"):
        build_network(options, spatial_dims=4, in_channels=1, class_count=3)
    with pytest.raises(ConfigError, match="at least one image channel"):
        build_network(options, spatial_dims=2, in_channels=0, class_count=3)
    with pytest.raises(ConfigError, match="two classes or more"):
        build_network(options, spatial_dims=2, in_channels=1, class_count=1)
    with pytest.raises(
        ConfigError, match=r"expects \(batch, 1, I, J\), found an array of shape \(1, 1, 8, 8, 8\)"
    ):
        make("unet")(image(1, 1, 8, 8, 8))
    with pytest.raises(
        ConfigError, match=r"expects \(batch, 1, I, J, K\), found an array of shape \(1, 2, 8, 8, 8\)"
    ):
        make("unet", dims=3)(image(1, 2, 8, 8, 8))
