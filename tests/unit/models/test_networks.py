"""Every network of the registry: shapes, odd sizes, seeds, deep supervision, features."""

from __future__ import annotations

import pytest
import torch

from medseg.errors import ConfigError
from medseg.models.blocks import depth_to_space, normalisation, space_to_depth
from medseg.models.options import NETWORK_OPTIONS
from medseg.models.registry import NETWORKS, build_network

SUPERVISED = ("unet", "residual_unet", "small_unet")


def make(use, *, dims=2, in_channels=1, classes=3, seed=0, **arguments):
    arguments = {"channels": [8, 16, 24], **({"score_levels": 2} if use == "fcn" else {}), **arguments}
    options = NETWORK_OPTIONS.validate_python({"use": use, **arguments})
    return build_network(options, spatial_dims=dims, in_channels=in_channels, class_count=classes, seed=seed)


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("use", NETWORKS)
@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@pytest.mark.parametrize("size", [(32, 16), (33, 21), (5, 3), (16, 16, 8), (9, 17, 11)])
def test_logits_lie_on_the_grid_of_the_image(use, norm, size):
    network = make(use, dims=len(size), in_channels=2, norm=norm)
    x = image(1, 2, *size)
    logits = network(x)
    assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
    with torch.no_grad():
        assert network.eval().features(x).shape == (1, network.feature_count)


@pytest.mark.parametrize("use", NETWORKS)
def test_a_size_that_does_not_fit_is_continued_by_its_border(use):
    network = make(use).eval()
    x = image(2, 1, 29, 18)
    stride = network.options.stride
    fitted = torch.nn.functional.pad(x, (0, -18 % stride, 0, -29 % stride), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(fitted)[:, :, :29, :18])


@pytest.mark.parametrize("use", NETWORKS)
def test_images_of_a_batch_do_not_mix(use):
    network = make(use).eval()
    x = image(3, 1, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use", NETWORKS)
def test_same_seed_same_weights_and_the_random_state_is_left_alone(use):
    before = torch.random.get_rng_state()
    first, second, other = make(use, seed=3), make(use, seed=3), make(use, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("use", SUPERVISED)
@pytest.mark.parametrize("size", [(32, 24), (29, 18), (16, 8, 11)])
def test_deep_supervision_gives_coarser_levels_in_training_only(use, size):
    network = make(use, dims=len(size), deep_supervision=True)
    levels = network(image(1, 1, *size))
    step = 4 if use == "small_unet" else 2
    assert [tuple(part.shape) for part in levels] == [
        (1, 3, *size),
        (1, 3, *(-(-n // step) for n in size)),
    ]
    network.eval()
    with torch.no_grad():
        assert network(image(1, 1, *size)).shape == (1, 3, *size)
    assert set(network.head_names) == {"heads.0", "heads.1"}


@pytest.mark.parametrize("use", NETWORKS)
def test_heads_hold_the_classes(use):
    three, four = make(use).state_dict(), make(use, classes=4).state_dict()
    differing = {name for name, value in three.items() if value.shape != four[name].shape}
    assert differing == {f"{h}.{part}" for h in make(use).head_names for part in ("weight", "bias")}


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


@pytest.mark.parametrize("size", [(6, 4), (6, 4, 8)])
def test_cells_become_channels_and_come_back(size):
    x = image(2, 3, *size)
    folded = space_to_depth(x)
    assert folded.shape == (2, 3 * 2 ** len(size), *(n // 2 for n in size))
    # Class (or channel) is slowest, then the cell: transfer relies on it.
    assert torch.equal(folded[:, 0], x[(slice(None), 0, *(slice(0, None, 2),) * len(size))])
    assert torch.equal(folded[:, 2 ** len(size)], x[(slice(None), 1, *(slice(0, None, 2),) * len(size))])
    assert torch.equal(depth_to_space(folded), x)


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
