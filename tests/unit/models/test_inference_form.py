"""Networks in the form for inference and for export: the same numbers, the same weights, in the layout they came in."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medseg.models.blocks import ConvNorm, Pointwise3d
from medseg.models.inference_form import (
    CentredConvNorm,
    CentredGroupNorm,
    for_export,
    for_inference,
    lattice_mean,
)
from medseg.models.options import (
    AttentionUNetOptions,
    FCNOptions,
    ResidualUNetOptions,
    SmallUNetOptions,
    UNetOptions,
)
from medseg.models.registry import build_network

FLAT = {"strides": ((2, 2, 1),), "kernels": ((3, 3, 1), (3, 3, 3))}
NETWORKS = {
    "unet": (UNetOptions(channels=(8, 16, 16)), 2),
    "unet, anisotropic": (UNetOptions(channels=(8, 16), **FLAT), 3),
    "unet, groups": (UNetOptions(channels=(8, 16), norm="group", groups=4), 3),
    "unet, batch": (UNetOptions(channels=(8, 16), norm="batch"), 2),
    "residual": (ResidualUNetOptions(channels=(8, 16, 16)), 3),
    "attention": (AttentionUNetOptions(channels=(8, 16)), 3),
    "fcn": (FCNOptions(channels=(8, 8, 16, 16, 16)), 2),
    "small": (SmallUNetOptions(channels=(8, 8, 16), refine=4, norm="instance"), 3),
    "small, groups": (SmallUNetOptions(channels=(8, 8, 16), norm="group", groups=8), 2),
}


def built(name):
    options, dims = NETWORKS[name]
    network = build_network(options, spatial_dims=dims, in_channels=2, class_count=3, seed=1).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.add_(0.3)
                module.bias.add_(torch.linspace(-0.2, 0.2, module.num_channels))
    return network


def image(name, *, count=2):
    size = (37, 45) if NETWORKS[name][1] == 2 else (17, 14, 11)
    return torch.randn((count, 2, *size), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("form", [for_inference, for_export])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_answer_is_that_of_the_network(name, form):
    network, shown = built(name), image(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.inference_mode():
        expected, found = network(shown), form(network)(shown)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    assert network.training is False
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "the network itself stays as it was"


def test_weights_are_shared_and_the_network_keeps_its_layers():
    network = built("residual")
    kinds = [type(module) for module in network.modules()]
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert all(parameter.data_ptr() in own for parameter in for_inference(network).parameters())
    assert all(parameter.is_contiguous() for parameter in for_export(network).parameters())
    assert [type(module) for module in network.modules()] == kinds
    assert {parameter.data_ptr() for parameter in network.parameters()} == own


def test_every_norm_of_a_network_is_made_safe():
    made = for_inference(built("small"))
    assert not any(isinstance(m, nn.GroupNorm) for m in made.modules() if not _inside(made, m))
    assert sum(isinstance(m, CentredConvNorm) for m in made.modules()) > 5


def _inside(made, norm):
    return any(isinstance(m, CentredConvNorm) and m.norm is norm for m in made.modules())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_norm_is_right_for_a_mean_ten_thousand_times_the_deviation(dims):
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    size = (70, 50) if dims == 2 else (23, 19, 17)
    noise = torch.randn((2, 8, *size), generator=torch.Generator().manual_seed(3))
    x = (noise + 1e4).contiguous(memory_format=layout)
    weight, bias = nn.Parameter(torch.full((8,), 1.5)), nn.Parameter(torch.full((8,), 0.25))
    norm = CentredGroupNorm(8, weight=weight, bias=bias, eps=1e-5)
    with torch.no_grad():
        found = norm(x)
        one_pass = F.group_norm(x, 8, weight, bias)
        exact = F.group_norm(x.double().contiguous(), 8, weight.double(), bias.double())
    assert found.is_contiguous(memory_format=layout)
    assert float((found - exact).abs().max()) < 2e-3
    assert float((one_pass - exact).abs().max()) > 0.1, (
        "the kernel of torch has become safe: the detour can go"
    )


@pytest.mark.parametrize(("norm", "groups"), [("instance", 8), ("group", 2)])
def test_a_convolution_with_its_norm_is_right_for_an_image_with_a_large_mean(norm, groups):
    torch.manual_seed(4)
    layer = ConvNorm(3, 2, 8, norm=norm, groups=groups, activation="leaky_relu").eval()
    # Inside, where the zeros beyond the border do not make the variance.
    layer[0].padding = (0, 0, 0)
    x = (torch.randn(1, 2, 40, 36, 20) * 0.01 + 1).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        found = for_inference(layer)(x)
        exact = layer.double()(x.double().contiguous())
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert float((found - exact).abs().max()) < 2e-3


def test_a_stock_instance_norm_keeps_the_layout():
    network = nn.Sequential(nn.InstanceNorm3d(4, affine=True)).eval()
    made = for_inference(network)
    x = torch.randn(1, 4, 12, 10, 9).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        found, expected = made(x), network(x)
    assert isinstance(made[0], CentredGroupNorm)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_mean_on_a_lattice_is_near_the_mean():
    x = torch.randn((2, 3, 90, 70), generator=torch.Generator().manual_seed(5)) + torch.tensor(
        [[[[5.0]], [[-3.0]], [[0.0]]]]
    )
    torch.testing.assert_close(lattice_mean(x), x.mean(dim=(2, 3)), atol=0.2, rtol=0)
    assert lattice_mean(torch.ones(1, 2, 3, 1)).tolist() == [[1.0, 1.0]]


def test_an_exported_network_has_plain_layers_only():
    kinds = {type(module) for module in for_export(built("residual")).modules()}
    assert Pointwise3d not in kinds
    assert nn.GroupNorm not in kinds
    assert nn.AvgPool3d in kinds
