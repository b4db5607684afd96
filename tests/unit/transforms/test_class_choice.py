"""Channels to classes: logits, regions, and values that are rounded to float16 once they are interpolated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.geometry import GridMap
from medseg.transforms.block_restore import restore_blocks
from medseg.transforms.class_choice import ClassChoice, possible_classes

ROUNDED = ClassChoice(scale="logits", rounded=True)


def blocks_of(values, sizes):
    starts = [range(0, n, size) for n, size in zip(values.shape[1:], sizes, strict=True)]
    for corner in np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, len(sizes)):
        ends = zip(corner, sizes, values.shape[1:], strict=True)
        box = tuple(slice(int(a), int(min(a + s, n))) for a, s, n in ends)
        yield box, torch.from_numpy(values[(slice(None), *box)])


def zoomed(values, shape):
    """(C, *shape) float16 values as nnU-Net resamples them: SciPy's zoom in float64, then rounded."""
    factors = np.array(shape) / np.array(values.shape[1:])
    return np.stack(
        [
            ndimage.zoom(c.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True).astype(
                np.float16
            )
            for c in values
        ]
    )


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.lists(st.integers(1, 17), min_size=3, max_size=3),
    st.sampled_from([1.0, 0.02]),
    st.integers(0, 99),
)
@settings(max_examples=30)
def test_rounded_winners_are_those_of_zoom_however_close(source, target, spread, seed):
    random = np.random.default_rng(seed)
    shape = tuple(target[: len(source)])
    # A spread of a few float16 steps: nearly every voxel is a tie once it is rounded.
    values = (8 + spread * random.normal(size=(4, *source))).astype(np.float16).astype(np.float32)
    found = restore_blocks(
        blocks_of(values, [3] * len(source)),
        GridMap.resize(shape, tuple(source)),
        order=tuple(range(len(source))),
        class_count=4,
        back=("linear",) * len(source),
        winners=ROUNDED.winners,
    )
    np.testing.assert_array_equal(found, zoomed(values, shape).argmax(axis=0))


def test_a_nearest_axis_takes_whole_slices():
    random = np.random.default_rng(3)
    values = (random.normal(size=(3, 4, 6, 5)) * 0.05).astype(np.float16).astype(np.float32)
    found = restore_blocks(
        blocks_of(values, [2, 4, 5]),
        GridMap.resize((10, 9, 8), (4, 6, 5)),
        order=(0, 1, 2),
        class_count=3,
        back=("nearest", "linear", "linear"),
        winners=ROUNDED.winners,
    )
    planes = np.stack([zoomed(values[:, k], (9, 8)).argmax(axis=0) for k in range(4)])
    places = 0.4 * (np.arange(10) + 0.5) - 0.5
    picks = ndimage.map_coordinates(np.arange(4.0), [places], order=0, mode="nearest").astype(int)
    np.testing.assert_array_equal(found, planes[picks])


@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
def test_turned_and_cropped_grids_go_back_likewise(flips):
    random = np.random.default_rng(4)
    turned = GridMap.permute_flip((12, 9, 10), (2, 1, 0), flips)
    cropped = GridMap.crop_or_pad(turned.target_shape, (1, 0, 2), (7, 9, 8))
    grid = turned.then(cropped).then(GridMap.resize((7, 9, 8), (5, 4, 11)))
    values = (8 + 0.02 * random.normal(size=(3, 5, 4, 11))).astype(np.float16).astype(np.float32)
    found = restore_blocks(
        blocks_of(values, [2, 3, 4]),
        grid,
        order=(0, 1, 2),
        class_count=3,
        back=("linear",) * 3,
        winners=ROUNDED.winners,
    )
    wanted = np.zeros(turned.target_shape, dtype=int)
    wanted[1:8, :, 2:10] = zoomed(values, (7, 9, 8)).argmax(axis=0)
    wanted = np.flip(wanted, [axis for axis, flip in enumerate(flips) if flip]).transpose(2, 1, 0)
    np.testing.assert_array_equal(found, wanted)


def test_logits_below_zero_everywhere_still_have_a_winner():
    values = torch.tensor([[-9.0, -2.0], [-3.0, -8.0]])
    assert possible_classes(values, sum_to_one=False) == [0, 1]
    assert possible_classes(torch.tensor([[5.0, 6.0], [-3.0, 4.0]]), sum_to_one=False) == [0]


def test_later_regions_write_over_earlier_ones():
    logits = np.array(
        [[2.0, 2.0, 2.0, -1.0, 0.0], [-1.0, 2.0, 2.0, -1.0, -1.0], [-1.0, -1.0, 2.0, 3.0, -1.0]]
    )
    choice = ClassChoice(scale="logits", regions=(1, 3, 2))
    values = logits[:, None].astype(np.float32)
    found = restore_blocks(
        blocks_of(values, [1, 5]),
        GridMap.identity((1, 5)),
        order=(0, 1),
        class_count=4,
        winners=choice.winners,
    )
    assert found.tolist() == [[1, 3, 2, 2, 0]]
    likely = choice.probabilities(torch.from_numpy(values), class_count=4)
    torch.testing.assert_close(likely.sum(dim=0), torch.ones(1, 5))
    whole, core, last = torch.sigmoid(torch.from_numpy(values))[:, 0, 1].tolist()
    wanted = [(1 - whole) * (1 - core) * (1 - last), whole * (1 - core) * (1 - last), last, core * (1 - last)]
    torch.testing.assert_close(likely[:, 0, 1], torch.tensor(wanted))


def test_probabilities_of_logits_are_a_softmax():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    likely = ClassChoice(scale="logits").probabilities(logits, class_count=3)
    torch.testing.assert_close(likely, torch.softmax(logits, dim=0))
    assert ClassChoice().probabilities(likely, class_count=3) is likely
