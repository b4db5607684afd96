"""Boxes of a view are those of the whole, and what is known of the whole is known from slabs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.geometry import GridMap
from medseg.transforms import image_view
from medseg.transforms.image_view import (
    ArrayView,
    GridView,
    ValueView,
    channel_maxima,
    channel_minima,
    mean_and_deviation,
    percentiles,
    slabs,
    whole,
)
from medseg.transforms.regrid import coordinates, covered_range, regrid


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(image_view, "_SLAB_VOXELS", 60)
    monkeypatch.setattr(image_view, "_HISTOGRAM_BINS", 16)


@st.composite
def moves(draw):
    dims = draw(st.integers(2, 3))
    source = tuple(draw(st.integers(2, 12)) for _ in range(dims))
    axes, flips = tuple(draw(st.permutations(range(dims)))), tuple(draw(st.booleans()) for _ in range(dims))
    grid = GridMap.permute_flip(source, axes, flips)
    if draw(st.booleans()):
        grid = grid.then(
            GridMap.resize(grid.target_shape, tuple(draw(st.integers(1, 14)) for _ in range(dims)))
        )
    if draw(st.booleans()):
        start, size = (tuple(draw(st.integers(a, 9)) for _ in range(dims)) for a in (-3, 1))
        grid = grid.then(GridMap.crop_or_pad(grid.target_shape, start, size))
    box = []
    for n in grid.target_shape:
        first = draw(st.integers(0, n - 1))
        box.append(slice(first, draw(st.integers(first + 1, n))))
    return grid, tuple(box), draw(st.booleans())


def covers(grid):
    """Whether any target voxel lies in the source."""
    maps = zip(grid.target_shape, grid.axis_maps(), strict=True)
    parts = [
        covered_range(coordinates(n, scale, offset), grid.source_shape[source])
        for n, (source, scale, offset) in maps
    ]
    return all(start < stop for start, stop in parts)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves())
def test_a_box_is_that_of_the_whole_bit_for_bit(move):
    grid, box, turned = move
    array = np.random.default_rng(0).integers(-50, 900, (2, *grid.source_shape)).astype(np.int16)
    array = np.asfortranarray(array) if turned else array
    view = GridView(ArrayView(array), grid)
    everything = whole(view)
    if covers(grid):
        np.testing.assert_allclose(everything, regrid(array.astype(np.float32), grid), rtol=1e-5, atol=1e-3)
    else:
        assert set(everything[0].ravel()) == {array[0].min()}
    np.testing.assert_array_equal(view.read(box), everything[(slice(None), *box)])


def test_chains_of_steps_read_what_they_need():
    array = np.random.default_rng(1).random((1, 12, 10, 9)).astype(np.float32)
    halved = ValueView(ArrayView(array), lambda x: x / 2)
    twice = GridView(halved, GridMap.resize((12, 10, 9), (24, 20, 18)))
    shifted = ValueView(twice, lambda x: np.concatenate([x, x + 1]), channels=2)
    box = (slice(3, 9), slice(0, 20), slice(17, 18))
    assert shifted.channels == 2
    np.testing.assert_array_equal(shifted.read(box), whole(shifted)[(slice(None), *box)])


def test_sums_are_those_of_the_whole():
    array = np.random.default_rng(2).normal(1e4, 3, (2, 11, 7, 5)).astype(np.float32)
    array[1] -= 1e4
    view = ArrayView(array)
    np.testing.assert_array_equal(channel_minima(view), array.min(axis=(1, 2, 3)))
    np.testing.assert_array_equal(channel_maxima(view), array.max(axis=(1, 2, 3)))
    for channel, (count, mean, deviation) in zip(array, mean_and_deviation(view), strict=True):
        assert count == channel.size
        assert mean == pytest.approx(channel.mean(dtype=np.float64), rel=1e-12)
        assert deviation == pytest.approx(channel.astype(np.float64).std(), rel=1e-9)
    (_, (count, mean, _)) = mean_and_deviation(view, above=0.5)
    chosen = array[1][array[1] > 0.5]
    assert (count, mean) == (chosen.size, pytest.approx(chosen.mean(dtype=np.float64)))


@given(st.integers(0, 5), st.sampled_from(["normal", "few", "one"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_percentiles_are_those_of_numpy(seed, kind):
    generator = np.random.default_rng(seed)
    array = generator.normal(size=(2, 9, 8)).astype(np.float32)
    if kind == "few":
        array = generator.integers(0, 3, (2, 9, 8)).astype(np.int16)
    if kind == "one":
        array = np.full((2, 9, 8), 4.5, np.float32)
    ends = (0.5, 37.0, 99.5, 100.0)
    expected = np.percentile(array.reshape(2, -1).astype(np.float64), ends, axis=1).T
    np.testing.assert_allclose(percentiles(ArrayView(array), ends), expected, rtol=1e-6, atol=1e-7)


def test_slabs_of_a_coarse_image_are_as_thick_as_their_source_allows(monkeypatch):
    monkeypatch.setattr("medseg.transforms.image_view._SLAB_VOXELS", 5000)
    largest = 0

    class Counting(ArrayView):
        def read(self, box):
            nonlocal largest
            largest = max(largest, int(np.prod([s.stop - s.start for s in box])))
            return super().read(box)

    array = np.random.default_rng(0).normal(size=(1, 64, 32, 32)).astype(np.float32)
    view = GridView(Counting(array), GridMap.resize((64, 32, 32), (16, 8, 8)))
    assert view.behind == 64
    assert sum(slab.size for slab in slabs(view)) == 16 * 8 * 8
    # The rims that a smoothing filter needs come on top.
    assert largest <= 4 * 5000
    np.testing.assert_array_equal(np.concatenate(list(slabs(view)), axis=1 + view.slow_axis), whole(view))
