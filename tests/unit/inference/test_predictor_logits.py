"""Averages of logits: windows, folds, regions, half precision; the label map is that of the same sums by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from medseg.errors import ConfigError
from medseg.inference.members import LoadedMembers
from medseg.inference.options import InferenceOptions
from medseg.inference.ordered_blend import half_weights
from medseg.inference.predictor import Predictor
from medseg.inference.sides import side_axis
from medseg.labels import Label, LabelTable
from medseg.transforms.options import Crop, Orient, Resample, Transpose
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(Label(name="a", value=1, colour="#ff0000"), Label(name="b", value=2, colour="#00ff00"))
)
WINDOW, SIZE = (4, 6, 8), (9, 10, 13)
HALF = {
    "window": WINDOW,
    "overlap": 0.5,
    "steps": "even",
    "filling": 0.0,
    "average": "logits",
    "sums": "float16",
}
STEPS = (
    Transpose(axes=(2, 1, 0)),
    Crop(method="nonzero"),
    Resample(spacing_mm=(1.0, 1.0, 1.0), interpolation="cubic", fit="extent"),
)


class Mixes(nn.Module):
    """Three channels of a small convolution that sees the borders of its window."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.kernel = nn.Parameter(torch.randn((3, 1, 3, 3, 3), generator=random))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv3d(x, self.kernel, padding=1)


def image(size=SIZE, seed=0):
    return np.random.default_rng(seed).normal(size=(1, *size)).astype(np.float32)


def summed(networks, array):
    """Mean over networks of the weighted means over windows, all in half precision, in the order of the axes."""
    tensor, weights = torch.from_numpy(array), half_weights(WINDOW)
    starts = [(0, 2, 3, 5), (0, 2, 4), (0, 2, 5)]
    total = None
    for network in networks:
        sums = torch.zeros((3, *SIZE), dtype=torch.half)
        counts = torch.zeros(SIZE, dtype=torch.half)
        for corner in itertools.product(*starts):
            box = tuple(slice(a, a + w) for a, w in zip(corner, WINDOW, strict=True))
            with torch.inference_mode():
                sums[(slice(None), *box)] += network(tensor[(slice(None), *box)][None])[0] * weights
            counts[box] += weights
        mean = sums / counts
        total = mean if total is None else total + mean
    return total / len(networks)


@pytest.mark.parametrize("count", [1, 3])
def test_half_sums_decide_as_one_accumulator_for_each_network(count):
    networks = [Mixes(seed) for seed in range(count)]
    members = LoadedMembers([lambda n=n: n for n in networks], device=torch.device("cpu"))
    predictor = Predictor(members, steps=(), table=TABLE, options=InferenceOptions(**HALF))
    wanted = summed(networks, image()).numpy().argmax(axis=0)
    np.testing.assert_array_equal(predictor.predict(Volume(array=image())).label_map, wanted)


def test_a_ceiling_of_memory_changes_nothing(tmp_path):
    volume = Volume(array=image((15, 22, 18)), spacing_mm=(1.5, 1.2, 0.9))
    found = []
    for max_bytes in (None, 8 << 30):
        predictor = Predictor(
            Mixes(0),
            steps=STEPS,
            table=TABLE,
            options=InferenceOptions(**HALF),
            max_bytes=max_bytes,
            scratch=tmp_path,
        )
        found.append(predictor.predict(volume).label_map)
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) == 3


def test_regions_are_thresholds_of_their_own():
    options = InferenceOptions(**HALF)
    predictor = Predictor(Mixes(1), steps=(), table=TABLE, options=options, regions=(2, 1, 2))
    logits = summed([Mixes(1)], image()).float()
    wanted = np.zeros(SIZE, dtype=int)
    for channel, index in enumerate((2, 1, 2)):
        wanted[(torch.sigmoid(logits[channel]) > 0.5).numpy()] = index
    np.testing.assert_array_equal(predictor.predict(Volume(array=image())).label_map, wanted)
    with pytest.raises(ConfigError, match="average: logits"):
        Predictor(Mixes(1), steps=(), table=TABLE, options=InferenceOptions(), regions=(1, 2, 1))


def test_logits_are_averaged_over_mirrored_versions():
    options = InferenceOptions(average="logits", tta="flip", flip_axes=(0, 2))
    predictor = Predictor(Mixes(2), steps=(), table=TABLE, options=options)
    tensor, total = torch.from_numpy(image())[None], 0
    with torch.inference_mode():
        for axes in ((), (2,), (4,), (2, 4)):
            total = total + Mixes(2)(tensor.flip(axes)).flip(axes)
    wanted = torch.softmax(total / 4, dim=1)[0].numpy()
    np.testing.assert_allclose(predictor.probabilities(image()), wanted, atol=1e-5)


def test_short_images_are_filled_up_as_the_settings_say():
    seen = []

    class Watches(Mixes):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    for filling in (7.0, None):
        options = InferenceOptions(window=(4, 4, 4), filling=filling)
        Predictor(Watches(0), steps=(), table=TABLE, options=options).probabilities(image((4, 3, 4)))
    assert (seen[0][0, 0, :, 3] == 7).all()
    assert (seen[1][0, 0, :, 3] == image((4, 3, 4)).min()).all()


def test_half_sums_need_logits_and_a_window():
    for fields in ({"average": "probabilities"}, {"window": None}):
        with pytest.raises(ValidationError, match="float16 needs average: logits, restore: averaged"):
            InferenceOptions(**{**HALF, **fields})


def test_the_side_axis_follows_a_transposition():
    assert side_axis((Transpose(axes=(2, 1, 0)),)) == 2
    assert side_axis((Orient(to="SPR"), Transpose(axes=(2, 0, 1)))) == 0
    assert side_axis((Orient(to="AF"), Transpose(axes=(1, 0)))) is None


def test_features_are_read_only_where_they_are_asked_for():
    class Reads(Mixes):
        def features(self, x):
            return x.flatten(2).mean(dim=2)

    for asked in (True, False):
        predictor = Predictor(
            Reads(0), steps=(), table=TABLE, options=InferenceOptions(window=WINDOW), features=asked
        )
        assert (predictor.predict(Volume(array=image())).features is not None) == asked


@pytest.mark.parametrize("regions", [(), (2, 1, 2)])
@pytest.mark.parametrize("extra", [HALF, HALF | {"sums": "float32"}])
def test_maps_tell_probabilities_whatever_is_averaged(extra, regions, tmp_path):
    networks = [Mixes(seed) for seed in range(2)]
    members = LoadedMembers([lambda n=n: n for n in networks], device=torch.device("cpu"), keep=True)
    predictor = Predictor(
        members,
        steps=(),
        table=TABLE,
        options=InferenceOptions(**extra),
        regions=regions,
        maps=("entropy", "disagreement", "probabilities"),
        max_bytes=1 << 36,
        scratch=tmp_path,
    )
    found = predictor.predict(Volume(array=image()))
    likely = predictor.probabilities(image())
    np.testing.assert_allclose(likely.sum(axis=0), 1, atol=1e-5)
    entropy = -(likely * np.log(np.maximum(likely, 1e-30))).sum(axis=0) / np.log(3)
    for name, wanted in (("entropy", entropy), ("probability_a", likely[1]), ("probability_b", likely[2])):
        np.testing.assert_allclose(found.maps[name] / 255, wanted, atol=0.51 / 255)
    # Random networks differ somewhere, and agree somewhere.
    assert 0 < found.maps["disagreement"].mean() < 255
    plain = Predictor(
        members, steps=(), table=TABLE, options=InferenceOptions(**extra), regions=regions
    ).predict(Volume(array=image()))
    np.testing.assert_array_equal(found.label_map, plain.label_map)


def test_logits_may_go_back_as_probabilities():
    # Between a sure voxel and an unsure one the mean of logits is above zero, that of probabilities below a half.
    values = torch.tensor([[0.0, 0.0], [8.0, -3.0], [-50.0, -50.0]])

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return values.reshape(1, 3, 2, 1).expand(len(x), -1, -1, x.shape[-1])

    volume = Volume(array=np.arange(12, dtype=np.float32).reshape(1, 4, 3), spacing_mm=(1.0, 1.0))
    steps = (Resample(spacing_mm=(2.0, 1.0)),)
    found = {}
    for restore in ("averaged", "probabilities"):
        options = InferenceOptions(average="logits", restore=restore)
        found[restore] = Predictor(Fixed(), steps=steps, table=TABLE, options=options).predict(volume)
    shares = torch.softmax(values, dim=0)[1].numpy()
    between = {"averaged": (8 * 0.25 - 3 * 0.75) > 0, "probabilities": shares @ (0.25, 0.75) > 0.5}
    for restore, prediction in found.items():
        assert prediction.label_map[0, 0] == 1
        assert prediction.label_map[3, 0] == 0
        assert bool(prediction.label_map[2, 0]) == between[restore]
        assert bool(prediction.label_map[1, 0])
