"""The networks of MONAI are run as MONAI runs them, and MONAI is imported for them alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from medseg.models.options import NETWORK_OPTIONS
from medseg.models.registry import build_network


def _network(use, **options):
    checked = NETWORK_OPTIONS.validate_python({"use": use, **options})
    return build_network(checked, spatial_dims=2, in_channels=2, class_count=3, seed=0).eval()


def _permuted(x, pattern):
    """What einops.rearrange does for patterns without groups."""
    before, after = (side.split() for side in pattern.split("->"))
    return x.permute([before.index(name) for name in after])


@pytest.mark.parametrize("residual_stages", [False, True])
def test_swin_unetr_gives_what_monai_gives(residual_stages, monkeypatch):
    network = _network("swin_unetr", width=12, attention_window=3, residual_stages=residual_stages)
    monkeypatch.setattr("monai.networks.nets.swin_unetr.rearrange", _permuted)
    x = torch.randn(2, 2, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.heads[0](network.body(x))
        torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)
        deepest = network.body.swinViT(x)[-1]
        assert network.features(x).shape == deepest.shape[:2]


def test_mednext_gives_what_monai_gives():
    network = _network("mednext", width=8, blocks=[1, 2, 1], expansion=[2, 3, 4], kernel=5)
    x = torch.randn(2, 2, 32, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(x), network.heads[0](network.body(x)))


def test_other_networks_import_no_monai():
    code = (
        "import sys; from medseg.models.options import UNetOptions; from medseg.models.registry import build_network; "
        "build_network(UNetOptions(channels=(4, 8)), spatial_dims=2, in_channels=1, class_count=2, seed=0); "
        "print([m for m in ('monai', 'einops') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
