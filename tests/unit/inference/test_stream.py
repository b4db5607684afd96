"""Frames in, masks out: the same as a prediction, with votes over time where asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import ConfigError, InputError
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.stream import Latency, Stream
from medseg.labels import Label, LabelTable
from medseg.models.bundle import read_bundle
from medseg.pipeline.model import LoadedModel
from medseg.transforms.options import Gray
from medseg.volume import Volume

TABLE = LabelTable(labels=(Label(name="bright", value=1, colour="#3aa0ff"),))


class Bright(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([100 - x, x - 100], dim=1)


def stream(**options) -> Stream:
    predictor = Predictor(Bright(), steps=(Gray(),), table=TABLE, options=InferenceOptions())
    return Stream(predictor, **options)


def frame(columns):
    """Ten rows and 14 columns, bright up to a column."""
    found = np.zeros((10, 14), np.uint8)
    found[:, :columns] = 200
    return found


def test_masks_have_the_shape_of_their_frames():
    gray = frame(5)
    gray[7:] = 0
    expected = (gray > 0).astype(np.uint8)
    np.testing.assert_array_equal(stream().segment(gray), expected)
    np.testing.assert_array_equal(stream().segment(np.repeat(gray[..., None], 3, axis=2)), expected)
    volume = Volume(array=gray.T[None].astype(np.float32))
    np.testing.assert_array_equal(stream().segment(volume), expected.T)


@pytest.mark.parametrize("shape", [(10,), (10, 14, 2), (3, 10, 14), (1, 2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"expected \(rows, columns\)"):
        stream().segment(np.zeros(shape, np.uint8))


def test_frames_come_as_they_are_asked_for():
    asked = []

    def camera():
        for columns in (3, 5, 7):
            asked.append(columns)
            yield frame(columns)

    running = stream()
    masks = running.frames(camera())
    assert asked == []
    first = next(masks)
    assert (asked, first.index) == ([3], 0)
    assert [int(mask.label_map[0].sum()) for mask in masks] == [5, 7]
    assert running.latency.count == 3
    assert running.latency.largest >= running.latency.p95 >= running.latency.p50 > 0
    running.reset()
    assert running.latency.count == 0
    assert math.isnan(running.latency.p50)


def test_votes_fade_as_the_smoothing_says():
    running = stream(smoothing=0.6)
    widths = [int(running.segment(frame(c))[0].sum()) for c in (4, 4, 9, 9)]
    # 1.6 * 0.6 = 0.96 votes for background do not stand against a new one; they would with 0.7.
    assert widths == [4, 4, 9, 9]
    slower = stream(smoothing=0.7)
    assert [int(slower.segment(frame(c))[0].sum()) for c in (4, 4, 9, 9)] == [4, 4, 4, 9]
    assert [int(stream().segment(frame(c))[0].sum()) for c in (4, 9)] == [4, 9]


def test_votes_begin_anew_with_another_size():
    running = stream(smoothing=0.9)
    for _ in range(3):
        running.segment(frame(4))
    assert running.segment(np.full((6, 5), 200, np.uint8)).all()
    running.segment(frame(4))
    running.reset()
    assert int(running.segment(frame(9))[0].sum()) == 9


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ConfigError, match="expected 0"):
        stream(smoothing=smoothing)


def test_latency_of_known_times():
    found = Latency.of([0.1] * 19 + [1.1])
    assert (found.count, found.p50, found.largest) == (20, 0.1, 1.1)
    assert found.p95 == pytest.approx(0.15)


def test_the_shipped_model_gives_the_mask_of_a_prediction():
    from medseg.data.phantoms import make_chest_phantom

    film = make_chest_phantom(3).image[::3, ::3]
    model = LoadedModel(read_bundle("chest-xray-lungs"))
    expected = model.segment(Volume(array=film[None]), case_id="x").label_map
    found = Stream("chest-xray-lungs").segment(film.T)
    np.testing.assert_array_equal(found, expected.T)
    assert expected.any()


def test_a_model_of_volumes_is_refused(tmp_path):
    from medseg.models.bundle_record import BundleAbout, TrainingRecord
    from medseg.models.bundle_writer import write_bundle
    from medseg.models.options import UNetOptions
    from medseg.models.registry import build_network

    bundle = write_bundle(
        tmp_path / "b",
        about=BundleAbout(name="ct", version="1.0.0", description="T.", licence="CC0-1.0", intended_use="T."),
        network=build_network(
            UNetOptions(channels=(4, 8)), spatial_dims=3, in_channels=1, class_count=2, seed=0
        ),
        table=TABLE,
        preprocess=(),
        training=TrainingRecord(data="None.", cases=0, epochs=0, seconds=0.0, settings_sha256="0" * 64),
    )
    with pytest.raises(ConfigError, match="bundle ct is for volumes"):
        Stream(bundle)
