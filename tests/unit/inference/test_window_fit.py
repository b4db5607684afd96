"""Windows that are fitted to an image: by hand, by law, and through the predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.sliding_window import Sweep
from medseg.inference.window_fit import MOST_LENGTH, MOST_VOXELS, fitted_window
from medseg.labels import Code, Label, LabelTable
from medseg.volume import Volume

THIRTY_TWO = (32, 32, 32)


def test_two_larger_windows_take_the_place_of_three():
    found = fitted_window((160, 256, 256), (128, 128, 128), overlap=0.25, stride=THIRTY_TWO)
    assert found == (160, 160, 160)
    counts = [Sweep.over((160, 256, 256), window, overlap=0.25).count for window in ((128, 128, 128), found)]
    assert counts == [18, 4]


def test_windows_stay_where_nothing_is_gained():
    # One window already; and 128 twice at hand without any overlap.
    assert fitted_window((100, 128, 90), (128, 128, 128), overlap=0.25, stride=THIRTY_TWO) == (128, 128, 128)
    assert fitted_window((256, 256), (128, 128), overlap=0, stride=(32, 32)) == (128, 128)


def test_a_window_reaches_past_an_image_that_is_a_little_longer():
    assert fitted_window((130, 96), (96, 96), overlap=0.25, stride=(16, 16)) == (144, 96)


@given(
    size=st.tuples(*[st.integers(8, 300)] * 2),
    window=st.tuples(*[st.integers(8, 96)] * 2),
    overlap=st.floats(0, 0.75),
    stride=st.sampled_from([1, 4, 16]),
)
def test_never_smaller_never_more_work_and_within_the_bounds(size, window, overlap, stride):
    found = fitted_window(size, window, overlap=overlap, stride=(stride, stride))

    def padded(lengths):
        return float(np.prod([-(-n // stride) * stride for n in lengths]))

    def work(lengths):
        return Sweep.over(size, lengths, overlap=overlap).count * padded(lengths)

    assert all(w <= f <= MOST_LENGTH * w for w, f in zip(window, found, strict=True))
    assert padded(found) <= MOST_VOXELS * padded(window)
    assert work(found) <= work(window)


class Bright(nn.Module):
    """Class 1 where the image is above a half; keeps the sizes that it was shown."""

    stride = (4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(tuple(x.shape[2:]))
        return torch.cat([0.5 - x, x - 0.5], dim=1)


def predicted(array: np.ndarray, *, max_bytes: int | None = None, **options):
    label = Label(name="a", value=1, colour="#ff0000", code=Code(scheme="99T", value="1", meaning="A"))
    network = Bright()
    predictor = Predictor(
        network,
        steps=(),
        table=LabelTable(labels=(label,)),
        options=InferenceOptions(window=(16, 16), batch_size=1, **options),
        features=False,
        max_bytes=max_bytes,
    )
    return predictor.predict(Volume(array=array)).label_map, network.shown


def test_the_predictor_shows_fitted_windows_and_below_a_ceiling_those_that_are_set():
    array = np.random.default_rng(0).random((1, 32, 30), dtype=np.float32)
    wanted, shown = predicted(array)
    assert set(shown) == {(16, 16)}
    assert len(shown) == 9
    fitted, shown = predicted(array, windows="fitted")
    assert set(shown) == {(20, 20)}
    assert len(shown) == 4
    np.testing.assert_array_equal(fitted, wanted)
    held, shown = predicted(array, windows="fitted", max_bytes=4 << 30)
    assert set(shown) == {(16, 16)}
    np.testing.assert_array_equal(held, wanted)


def test_sums_as_nnunet_has_them_keep_its_windows():
    with pytest.raises(ValidationError, match="windows: fitted needs sums: float32"):
        InferenceOptions(window=(16, 16), windows="fitted", sums="float16", average="logits")
