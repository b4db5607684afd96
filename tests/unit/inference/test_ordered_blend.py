"""Float16 sums in the order of the windows: bit by bit those of one accumulator of the image's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.inference.ordered_blend import OrderedBlend, fold_mean, half_weights
from medseg.inference.sliding_window import Sweep
from medseg.inference.window_blend import AxisPlan, FileTiles, plan_axes


def accumulated(axes, weights, windows):
    """As nnU-Net sums: one accumulator, window after window."""
    size = tuple(axis.length for axis in axes)
    sums = torch.zeros((next(iter(windows.values())).shape[0], *size), dtype=torch.half)
    counts = torch.zeros(size, dtype=torch.half)
    for place, values in windows.items():
        box = tuple(slice(*pair) for pair in place)
        sums[(slice(None), *box)] += values * weights
        counts[box] += weights
    return torch.div(sums, counts).float()


def blended(axes, weights, windows, store=None):
    blend = OrderedBlend(axes, weights, store=store)
    size = tuple(axis.length for axis in axes)
    found = torch.full((next(iter(windows.values())).shape[0], *size), torch.nan)
    for index, box in blend.places():
        block = blend.add(index, windows[tuple((s.start, s.stop) for s in box)])
        assert torch.isnan(found[(slice(None), *block.place)]).all()
        found[(slice(None), *block.place)] = block.values
    return found


def random_windows(axes, weights, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        tuple((s.start, s.stop) for s in box): torch.randn(3, *weights.shape, generator=random) * 8
        for _, box in OrderedBlend(axes, weights).places()
    }


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=2, max_size=3),
    st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    st.booleans(),
)
@settings(max_examples=20)
def test_blocks_are_those_of_one_accumulator(lengths, overlap, even):
    axes = plan_axes([n + w for n, w in lengths], [w for _, w in lengths], overlap, even=even)
    weights = half_weights([w for _, w in lengths])
    windows = random_windows(axes, weights)
    assert torch.equal(blended(axes, weights, windows), accumulated(axes, weights, windows))


def test_sums_may_wait_in_a_file(tmp_path):
    axes, weights = plan_axes((20, 9, 11), (8, 6, 4), 0.5, even=True), half_weights((8, 6, 4))
    windows, store = random_windows(axes, weights), FileTiles(tmp_path)
    found = blended(axes, weights, windows, store)
    store.close()
    assert torch.equal(found, accumulated(axes, weights, windows))


@pytest.mark.parametrize("window", [(12, 20, 7), (9, 16), (1, 8, 10)])
def test_weights_are_a_filtered_point_rounded(window):
    point = np.zeros([n for n in window if n > 1])
    point[tuple(n // 2 for n in point.shape)] = 1
    bell = ndimage.gaussian_filter(point, [n / 8 for n in point.shape], 0, mode="constant", cval=0)
    wanted = torch.from_numpy(bell / (bell.max() / 10)).to(torch.float16).reshape(window)
    found = half_weights(window)
    assert torch.equal(found[wanted > 0], wanted[wanted > 0])
    assert (found > 0).all()
    assert found.max() == 10


def test_folds_are_averaged_one_after_the_other():
    values = (torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0)) * 9).half()
    sums = values[:2] + values[2:4]
    sums += values[4:]
    assert torch.equal(fold_mean(values.float(), 3), sums.div(3).float())
    assert torch.equal(fold_mean(values.float(), 1), values.float())


@pytest.mark.parametrize(
    ("length", "window", "starts"),
    [
        (110, 64, (0, 23, 46)),
        (64, 64, (0,)),
        (65, 64, (0, 1)),
        (5, 1, (0, 1, 2, 3, 4)),
        (36, 13, (0, 6, 12, 17, 23)),
    ],
)
def test_even_windows_lie_where_nnunet_places_them(length, window, starts):
    assert AxisPlan.of(length, window, 0.5, even=True).starts == starts


def test_carried_sums_are_counted_in_float32_numbers():
    sweep = Sweep.over((40, 20, 10), (16, 8, 10), overlap=0.5, even=True, ordered=True)
    assert sweep.order == (0, 1, 2)
    # Eight of sixteen slices wait, in float16; two rows of windows are there while one follows the other.
    assert sweep.carried == (8 * 20 * 10 + 2 * 16 * 8 * 10) // 2
