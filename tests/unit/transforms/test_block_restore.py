"""Blocks of a prediction onto the source grid: the same labels as from all of it at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.geometry import GridMap
from medseg.transforms.block_restore import BlockRestorer, restore_blocks
from medseg.transforms.class_choice import ClassChoice
from medseg.transforms.restore import restore_channel, restore_label_map


def cuts(length, sizes):
    edges = [0]
    for size in itertools.cycle(sizes):
        if edges[-1] == length:
            return [slice(a, b) for a, b in itertools.pairwise(edges)]
        edges.append(min(length, edges[-1] + size))


def blocks_of(probabilities, order, sizes):
    """Blocks in the order of the axes, slowest first."""
    parts = {axis: cuts(probabilities.shape[1 + axis], sizes) for axis in order}
    for chosen in itertools.product(*(parts[axis] for axis in order)):
        place = tuple(chosen[order.index(axis)] for axis in range(len(order)))
        yield place, torch.from_numpy(probabilities[(slice(None), *place)].copy())


@st.composite
def predictions(draw):
    dims = draw(st.integers(2, 3))
    target = tuple(draw(st.integers(2, 12)) for _ in range(dims))
    axes = tuple(draw(st.permutations(range(dims))))
    source = tuple(draw(st.integers(2, 14)) for _ in range(dims))
    flips = tuple(draw(st.booleans()) for _ in range(dims))
    grid = GridMap.permute_flip(source, axes, flips)
    if draw(st.booleans()):
        grid = grid.then(GridMap.resize(grid.target_shape, target))
    start = tuple(draw(st.integers(-2, 2)) for _ in range(dims))
    if draw(st.booleans()):
        size = tuple(draw(st.integers(2, 12)) for _ in range(dims))
        grid = grid.then(GridMap.crop_or_pad(grid.target_shape, start, size))
    order = tuple(draw(st.permutations(range(dims))))
    return grid, order, draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))


@settings(deadline=None, max_examples=120)
@given(predictions(), st.integers(2, 5))
def test_blocks_give_the_labels_of_the_whole(prediction, classes):
    grid, order, sizes = prediction
    logits = np.random.default_rng(0).normal(size=(classes, *grid.target_shape)) * 3
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    found = restore_blocks(blocks_of(probabilities, order, sizes), grid, order=order, class_count=classes)
    wanted = restore_label_map(probabilities, grid)
    channels = np.stack([restore_channel(p, grid, outside=0) for p in probabilities])
    # Where two classes are equal but for rounding, either is right.
    best = np.sort(channels, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    np.testing.assert_array_equal(found[clear], wanted[clear])
    covered = channels.sum(axis=0) > 0
    assert not found[~covered].any()
    assert found.dtype == np.uint8


def test_every_source_voxel_is_given_once_and_as_the_whole_gives_it():
    grid = GridMap.resize((20, 16, 24), (9, 12, 10))
    values = np.random.default_rng(1).random((1, *grid.target_shape)).astype(np.float32)
    restorer, found = BlockRestorer(grid, (2, 0, 1)), np.full(grid.source_shape, np.nan)
    for place, part in blocks_of(values, (2, 0, 1), [4, 3]):
        for block in restorer.add(place, part):
            assert np.isnan(found[block.place]).all()
            found[block.place] = block.interpolate(0).numpy()
    np.testing.assert_allclose(found, restore_channel(values[0], grid, outside=0), rtol=1e-5)


def test_classes_that_cannot_win_are_not_interpolated(monkeypatch):
    grid = GridMap.resize((16, 16), (8, 8))
    probabilities = np.full((5, 8, 8), 0.001, dtype=np.float32)
    probabilities[0] = 0.996
    block = next(BlockRestorer(grid, (0, 1)).add((slice(0, 8), slice(0, 8)), torch.from_numpy(probabilities)))
    monkeypatch.setattr(type(block), "interpolate", lambda *_: pytest.fail("interpolated"))
    assert not ClassChoice().winners(block).any()


def test_kept_rims_are_a_plane_where_the_prediction_is_coarser():
    restorer = BlockRestorer(GridMap.resize((20, 20, 20), (10, 10, 10)), (0, 1, 2))
    assert restorer.kept_values((4, 4, 4)) == 1 * 10 * 10 + 5 * 1 * 10 + 5 * 5 * 1
    same = BlockRestorer(GridMap.identity((10, 10, 10)), (0, 1, 2))
    assert same.kept_values((4, 4, 4)) == 0
