"""The registry's `monai_*` networks give what MONAI's own classes give, weight by weight."""

from __future__ import annotations

import monai.networks.nets as nets
import pytest
import torch
from pydantic import ValidationError

from medseg.models.monai_arguments import CLASS_NAMES, monai_arguments
from medseg.models.options import NETWORK_OPTIONS
from medseg.models.registry import build_network

SMALL = {
    "monai_unet": {"channels": [4, 8, 12], "strides": [2, 2]},
    "monai_attention_unet": {"channels": [4, 8, 12], "strides": [2, 2]},
    "monai_basic_unet": {"channels": [4, 4, 6, 6, 8], "last": 4},
    "monai_segresnet": {"width": 8, "blocks": [1, 1, 1], "up_blocks": [1, 1]},
    "monai_dynunet": {"channels": [4, 8, 12], "kernels": [3, 3, 3], "strides": [2, 2]},
}
CASES = [
    *[(use, dims, {}) for use in SMALL for dims in (2, 3)],
    ("monai_unet", 3, {"residual_units": 2, "norm": {"kind": "batch"}, "strides": [[2, 2, 1], 2]}),
    (
        "monai_unet",
        2,
        {"residual_units": 1, "activation": {"kind": "leaky_relu", "slope": 0.2}, "ordering": "AN"},
    ),
    ("monai_basic_unet", 2, {"upsampling": "nontrainable", "norm": {"kind": "group", "groups": 2}}),
    ("monai_segresnet", 3, {"upsampling": "deconv", "activation": {"kind": "swish"}}),
    (
        "monai_dynunet",
        3,
        {"residual": True, "kernels": [[3, 3, 1], 3, 3], "strides": [[2, 2, 1], 2], "up_bias": True},
    ),
]


def build(use, dims, more, *, channels=2, classes=3):
    options = NETWORK_OPTIONS.validate_python({"use": use, **SMALL[use], **more})
    return build_network(options, spatial_dims=dims, in_channels=channels, class_count=classes, seed=1).eval()


def theirs(network):
    arguments = monai_arguments(
        network.options,
        spatial_dims=network.spatial_dims,
        in_channels=network.in_channels,
        class_count=network.class_count,
    )
    return getattr(nets, CLASS_NAMES[network.options.use])(**arguments).eval()


@pytest.mark.parametrize(("use", "dims", "more"), CASES)
def test_logits_are_those_of_monai(use, dims, more):
    network = build(use, dims, more)
    other = theirs(network)
    state = {name.removeprefix("body."): value for name, value in network.state_dict().items()}
    missing, extra = other.load_state_dict(state, strict=False)
    assert not extra
    assert all(name.startswith("skip_layers.") for name in missing)
    size = tuple(4 * stride for stride in network.stride)
    size = (size[0], 2 * size[1], *size[2:])
    x = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(x), other(x), atol=1e-5, rtol=1e-5)
        assert network.features(x).shape == (2, network.feature_count)


@pytest.mark.parametrize("use", SMALL)
def test_stored_weights_are_there_once(use):
    network = build(use, 2, {})
    pointers = [value.data_ptr() for value in network.state_dict().values() if value.numel()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"use": "monai_unet", "channels": [4, 8, 12], "strides": [2]}, "need 2 strides"),
        ({"use": "monai_unet", "channels": [4, 8], "strides": [2], "ordering": "NDN"}, "ordering"),
        ({"use": "monai_segresnet", "blocks": [1, 2, 2], "up_blocks": [1]}, "need 2 up_blocks"),
        (
            {"use": "monai_dynunet", "channels": [4, 8, 12], "kernels": [3, 3], "strides": [2, 2]},
            "need 3 kernels",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(value, said):
    with pytest.raises(ValidationError, match=said):
        NETWORK_OPTIONS.validate_python(value)
