"""A temperature changes what is said of a mask, never the mask."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import Label, LabelTable
from medseg.transforms.options import Resample
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="liver", value=1, colour="#ff0000"),
        Label(name="spleen", value=2, colour="#00ff00"),
        Label(name="kidney", value=3, colour="#0000ff"),
    )
)


class Smooth(nn.Module):
    """Logits that vary gently and lie close together in many places."""

    def __init__(self, channels: int, shift: float = 0.0) -> None:
        super().__init__()
        self.channels, self.shift = channels, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        waves = [torch.sin(x[:, :1] * (1 + k) + k + self.shift) for k in range(self.channels)]
        return torch.cat(waves, dim=1) * 3


class Pair:
    """Two networks."""

    kept = True

    def __len__(self) -> int:
        return 2

    def network(self, position):
        return contextlib.nullcontext(Smooth(4, shift=0.7 * position))


def volume():
    rng = np.random.default_rng(2)
    grid = np.meshgrid(*(np.linspace(0, 4, n) for n in (26, 19, 14)), indexing="ij")
    array = (sum(grid) + rng.normal(0, 0.2, size=(26, 19, 14))).astype(np.float32)[None]
    return Volume(array=array, affine=np.diag([1.0, 1.5, 2.5, 1.0]), spacing_mm=(1.0, 1.5, 2.5))


def predicted(temperature, *, network=None, regions=(), maps=("probabilities", "entropy"), **options):
    return Predictor(
        network or Smooth(len(regions) or 4),
        steps=(Resample(spacing_mm=(1.3, 1.3, 2.0)),),
        table=TABLE,
        options=InferenceOptions(window=(12, 12, 8), overlap=0.5, **options),
        regions=regions,
        maps=maps,
        keep_certainty=True,
        temperature=temperature,
    ).predict(volume())


KINDS = [
    {},
    {"average": "logits"},
    {"average": "logits", "restore": "probabilities"},
    {"average": "logits", "sums": "float16"},
    {"average": "logits", "regions": (1, 2, 3)},
    {"network": Pair()},
    {"network": Pair(), "ensemble": "logits"},
]


@pytest.mark.parametrize(
    "kind", KINDS, ids=["-".join(map(str, kind)) + f"-{n}" for n, kind in enumerate(KINDS)]
)
@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_masks_are_the_same_to_the_last_voxel(kind, temperature):
    plain, scaled = predicted(1.0, **kind), predicted(temperature, **kind)
    assert len(np.unique(plain.label_map)) > 2
    np.testing.assert_array_equal(scaled.label_map, plain.label_map)
    np.testing.assert_array_equal(scaled.certainty.label_map, plain.certainty.label_map)


def test_maps_certainty_and_confidence_follow_and_what_flags_judge_does_not():
    plain, soft = predicted(1.0), predicted(3.0)
    assert soft.maps["entropy"].mean() > plain.maps["entropy"].mean() + 10
    assert soft.certainty.winning.mean() < 0.9 * plain.certainty.winning.mean()
    for name, known in plain.confidence.items():
        more = dict(soft.confidence[name])
        assert more.pop("calibrated_probability") < 0.9
        assert more == known
    assert soft.entropy == plain.entropy


def test_maps_of_probabilities_are_those_of_the_scaled_logits():
    plain = predicted(1.0, average="logits")
    soft = predicted(2.0, average="logits")
    voxel = tuple(n // 2 for n in plain.label_map.shape)
    for name in ("probability_liver", "probability_spleen"):
        assert soft.maps[name][voxel] != plain.maps[name][voxel]
    total = sum(soft.maps[f"probability_{name}"].astype(int) for name in TABLE.names[1:])
    assert total.max() <= 256
