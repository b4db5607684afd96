"""Windows blended block by block: the sums of one accumulator of the image's size."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, StorageError
from medseg.inference.sliding_window import importance, window_slices
from medseg.inference.window_blend import AxisPlan, FileTiles, WindowBlend, carried_values, plan_axes


def whole(values, size, window, overlap, weights):
    """The same by one accumulator."""
    total, seen = (
        torch.zeros((values.shape[1], *size), dtype=torch.float64),
        torch.zeros(size, dtype=torch.float64),
    )
    for number, place in enumerate(window_slices(size, window, overlap)):
        total[(slice(None), *place)] += values[number].double() * weights.double()
        seen[place] += weights.double()
    return total / seen


def blended(values, size, window, overlap, weights, order=None, store=None):
    places = {tuple(s.start for s in p): n for n, p in enumerate(window_slices(size, window, overlap))}
    blend = WindowBlend(plan_axes(size, window, overlap), weights, order=order, store=store)
    result, seen = torch.full((values.shape[1], *size), math.nan), torch.zeros(size, dtype=torch.int64)
    for index, place in blend.places():
        block = blend.add(index, values[places[tuple(s.start for s in place)]])
        result[(slice(None), *block.place)] = block.values
        seen[block.place] += 1
    assert (seen == 1).all(), "every voxel is given away once"
    return result


@st.composite
def fields(draw):
    dims = draw(st.integers(2, 3))
    size = tuple(draw(st.integers(3, 20)) for _ in range(dims))
    window = tuple(draw(st.integers(1, n)) for n in size)
    order = draw(st.permutations(range(dims)))
    return size, window, draw(st.sampled_from([0.0, 0.25, 0.5, 0.7])), tuple(order)


@settings(deadline=None, max_examples=60)
@given(fields())
def test_the_blocks_make_up_the_mean_of_all_windows(field):
    size, window, overlap, order = field
    count = len(list(window_slices(size, window, overlap)))
    values = torch.rand((count, 2, *window), generator=torch.Generator().manual_seed(1))
    weights = importance(window)
    before = values.clone()
    found = blended(values, size, window, overlap, weights, order)
    torch.testing.assert_close(
        found.double(), whole(values, size, window, overlap, weights), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(values, before), "windows are left as they are"


def test_the_order_that_carries_least_has_the_longest_axis_first():
    axes = plan_axes((40, 200, 40), (16, 16, 16), 0.5)
    blend = WindowBlend(axes, importance((16, 16, 16)))
    assert blend.order[0] == 1
    assert carried_values([axes[a] for a in blend.order]) == 8 * 40 * 40 + 16 * 8 * 40 + 16 * 16 * 8


def test_the_last_window_ends_with_the_image():
    axis = AxisPlan.of(50, 20, 0.5)
    assert axis.starts == (0, 10, 20, 30)
    assert AxisPlan.of(45, 20, 0.5).starts == (0, 10, 20, 25)
    assert AxisPlan.of(45, 20, 0.5).most_carried == 15
    assert AxisPlan.of(20, 20, 0.5).starts == (0,)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(
        ConfigError, match=r"window of \(8, 30\) voxels does not lie in an image of \(20, 20\)"
    ):
        plan_axes((20, 20), (8, 30), 0.5)


def test_sums_may_lie_in_a_file(tmp_path):
    size, window = (23, 17, 9), (8, 8, 4)
    count = len(list(window_slices(size, window, 0.5)))
    values = torch.rand((count, 3, *window), generator=torch.Generator().manual_seed(2))
    weights = importance(window)
    with contextlib.closing(FileTiles(tmp_path)) as store:
        found = blended(values, size, window, 0.5, weights, store=store)
        assert not list(tmp_path.iterdir()), "the file has no name"
    assert torch.equal(found, blended(values, size, window, 0.5, weights))
    assert store._end <= 4 * 4 * carried_values([plan_axes(size, window, 0.5)[a] for a in (0, 1, 2)])


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    store = FileTiles(tmp_path)
    store.close()
    monkeypatch.setattr(store, "_file", FullDisk())
    with pytest.raises(StorageError, match=r"has no room for .* of intermediate sums: No space"):
        store.put((), torch.zeros(1000))


class FullDisk:
    def seek(self, place):
        pass

    def write(self, data):
        raise OSError(28, "No space left on device")
