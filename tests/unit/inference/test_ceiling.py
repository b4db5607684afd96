"""Predictions below a ceiling of memory: what gives way, in which order, and that the result does not change."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.inference import predictor as predictor_module
from medseg.inference.ceiling import Demand, Fit, extra_bytes, fit
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import Label, LabelTable
from medseg.transforms.options import Orient, Resample, Standardise
from medseg.volume import Volume

MB = 10**6
DEMAND = Demand(
    source_voxels=200 * MB,
    prepared_voxels=50 * MB,
    in_channels=1,
    class_count=30,
    window=(64, 64, 64),
    batch_size=4,
    carried=4 * MB,
    rim=200_000,
    network_bytes=100 * MB,
    block_voxels=3 * MB,
)
TABLE = LabelTable(labels=tuple(Label(name=f"l{n}", value=n, colour="#3aa0ff") for n in range(1, 6)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layer = nn.Conv3d(1, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * 4


def predictor(**options) -> Predictor:
    return Predictor(
        Network(),
        steps=(Orient(to="RAS"), Resample(spacing_mm=(1.4, 1.2, 1.5)), Standardise()),
        table=TABLE,
        options=InferenceOptions(window=(12, 10, 8), overlap=0.5, batch_size=3),
        **options,
    )


@pytest.fixture(scope="module")
def volume():
    array = np.random.default_rng(0).normal(size=(1, 30, 26, 22)) * 300
    return Volume(array=array.astype(np.int16), affine=np.diag([-1.0, -1, 1, 1]), spacing_mm=(1.0, 1.0, 1.0))


def test_everything_stays_in_memory_where_there_is_room():
    found = fit(DEMAND, max_bytes=20_000 * MB, taken_bytes=500 * MB)
    assert (found.batch_size, found.keep_bytes, found.in_file) == (4, math.inf, False)
    assert found.bytes > DEMAND.carried_bytes + DEMAND.prepared_bytes


def test_what_gives_way_is_the_batch_then_the_prepared_image_then_the_sums():
    seen = []
    for room in range(600, 4000, 10):
        try:
            found = fit(DEMAND, max_bytes=(500 + room) * MB, taken_bytes=500 * MB)
        except ConfigError:
            continue
        assert found.bytes <= room * MB
        seen.append((found.batch_size, found.keep_bytes > 0, not found.in_file))
    assert seen[0] == (1, False, False)
    assert seen[-1] == (4, True, True)
    kept = [(not sums, not image) for _, image, sums in seen]
    assert kept == sorted(kept, reverse=True), "more memory never keeps less"


def test_a_ceiling_that_holds_nothing_names_the_least_that_would():
    with pytest.raises(
        ConfigError, match=r"max_ram is 700 MB, but this image takes at least .* set it to"
    ) as told:
        fit(DEMAND, max_bytes=700 * MB, taken_bytes=500 * MB)
    words = str(told.value).partition("set it to ")[2].split()[0]
    least = float(words[:-2]) * {"MB": 1e6, "GB": 1e9}[words[-2:]]
    fit(DEMAND, max_bytes=round(least), taken_bytes=500 * MB)


def test_the_result_below_a_ceiling_is_that_without_one(volume, monkeypatch, tmp_path):
    wanted = predictor().predict(volume)
    for found in (
        Fit(batch_size=1, keep_bytes=0, in_file=True, bytes=0),
        Fit(batch_size=2, keep_bytes=math.inf, in_file=False, bytes=0),
    ):
        fitting = Mock(return_value=found)
        monkeypatch.setattr(predictor_module, "fit", fitting)
        limited = predictor(max_bytes=10**9, scratch=tmp_path).predict(volume)
        np.testing.assert_array_equal(limited.label_map, wanted.label_map)
        assert limited.entropy["image"] == pytest.approx(wanted.entropy["image"], rel=1e-5)
        (demand,) = fitting.call_args.args
        assert demand.source_voxels == 30 * 26 * 22
        assert demand.prepared_voxels == math.prod(wanted.prepared.image.shape)
    assert not list(tmp_path.iterdir())


def test_a_real_ceiling_is_named_when_it_is_too_low(volume):
    with pytest.raises(ConfigError, match="max_ram is 1 MB, but this image takes at least"):
        predictor(max_bytes=MB).predict(volume)
    predictor(max_bytes=10**11).predict(volume)


def test_what_a_function_takes_is_seen():
    found = extra_bytes(lambda: np.ones(25 * MB // 2, np.float64).sum())
    assert 90 * MB < found < 130 * MB
    assert replace(DEMAND, network_bytes=found).least_bytes < DEMAND.least_bytes + 30 * MB
