"""Networks of the registry, small enough for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from medseg.models.options import NETWORK_OPTIONS
from medseg.models.registry import NETWORKS, build_network

# MONAI's are wide and deep even when small; the rest of the battery runs in a tenth of their time.
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "fcn": {"channels": [8, 12, 16], "groups": 4, "score_levels": 2},
    "small_unet": {"channels": [8, 16, 40]},
    "mednext": {"width": 8, "blocks": [1, 1, 1]},
    "swin_unetr": {"width": 12, "attention_window": 3, "blocks": [2, 1, 1, 1]},
    "monai_unet": {"channels": [4, 8, 12], "strides": [2, 2]},
    "monai_attention_unet": {"channels": [4, 8, 12], "strides": [2, 2]},
    "monai_basic_unet": {"channels": [4, 4, 6, 6, 8], "last": 4},
    "monai_segresnet": {"width": 8, "blocks": [1, 1, 1], "up_blocks": [1, 1]},
    "monai_dynunet": {"channels": [4, 8, 12], "kernels": [3, 3, 3], "strides": [2, 2]},
}
_BY_AXIS = {"strides": [[2, 2, 1], [2, 2, 2]], "kernels": [[3, 3, 1], [3, 3, 3], [3, 3, 3]]}


def _slow(use: str, dims: int) -> bool:
    return use == "swin_unetr" and dims == 3


def _supervised(use: str) -> bool:
    checked = NETWORK_OPTIONS.validate_python({"use": use, **_SMALL.get(use, {})})
    return "deep_supervision" in type(checked).model_fields


def _cases(variants: bool) -> list[Any]:
    found = []
    for use in NETWORKS:
        for dims in (2, 3):
            marks = [pytest.mark.slow] if _slow(use, dims) else []
            found.append(pytest.param((use, dims, {}), id=f"{use}-{dims}d", marks=marks))
    for use in ("unet", "residual_unet", "attention_unet", "fcn") if variants else ():
        found.append(pytest.param((use, 3, _BY_AXIS), id=f"{use}-by-axis"))
    for name, more in (
        ("by-axis", {**_BY_AXIS, "cell": [2, 2, 1]}),
        ("rich", {"blocks": [1, 2, 2], "decoder": "residual", "refine": 8, "activation": "silu"}),
        ("thick", {"cell": [4, 2, 1], "refine": 8, "norm": "instance"}),
    ):
        if variants:
            found.append(pytest.param(("small_unet", 3, more), id=f"small_unet-{name}"))
    return found


@pytest.fixture
def make():
    """Build a network: make((use, dims, options), in_channels=, classes=, seed=, **options)."""

    def build(case, *, in_channels=1, classes=3, seed=0, **more):
        use, dims, options = case
        small = _SMALL.get(use, {"channels": [8, 12, 16], "groups": 4})
        checked = NETWORK_OPTIONS.validate_python({"use": use, **small, **options, **more})
        return build_network(
            checked, spatial_dims=dims, in_channels=in_channels, class_count=classes, seed=seed
        )

    return build


@pytest.fixture
def image():
    """Random image: image(*shape, seed=)."""
    return lambda *shape, seed=0: torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case`: every network in 2-D and 3-D and its variants; `plain_case`: without the variants.

    `supervised_case`: those that can be trained at several levels.
    """
    for name, variants in (("case", True), ("plain_case", False)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, _cases(variants))
    if "supervised_case" in metafunc.fixturenames:
        metafunc.parametrize(
            "supervised_case", [case for case in _cases(True) if _supervised(case.values[0][0])]
        )
