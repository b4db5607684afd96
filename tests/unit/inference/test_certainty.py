"""Probabilities of the winning class, looked up on the grid of the source."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.geometry import GridMap
from medseg.inference.certainty import STEPS, CertaintyMap, source_certainty
from medseg.inference.confidence import ConfidenceTally
from medseg.labels import Label, LabelTable
from medseg.tilt import shear_of, straighten_labels

TABLE = LabelTable(
    labels=(Label(name="a", value=1, colour="#00ff00"), Label(name="b", value=2, colour="#ff0000"))
)


def everywhere(shape):
    return tuple(slice(0, n) for n in shape)


def test_what_the_tally_kept_comes_back():
    rng = np.random.default_rng(0)
    values = rng.random((3, 6, 5, 4)).astype(np.float32)
    values /= values.sum(axis=0)
    tally = ConfidenceTally((6, 5, 4), TABLE)
    tally.add(everywhere((6, 5, 4)), torch.from_numpy(values))
    found = CertaintyMap(label_map=tally.label_map, winning=tally.winning, grid=GridMap.identity((6, 5, 4)))(
        everywhere((6, 5, 4)), [1, 2]
    )
    wins = values.argmax(axis=0) > 0
    np.testing.assert_allclose(found[wins], values.max(axis=0)[wins], atol=1 / STEPS)
    assert np.isnan(found[~wins]).all()


def test_turned_scaled_and_cropped_grids():
    source = (8, 6, 9)
    grid = GridMap.permute_flip(source, (2, 0, 1), (True, False, True))
    grid = grid.then(GridMap.crop_or_pad(grid.target_shape, (1, 2, -1), (6, 5, 9)))
    grid = grid.then(GridMap.resize(grid.target_shape, (12, 5, 9)))
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, grid.target_shape).astype(np.uint8)
    winning = rng.integers(1, STEPS, grid.target_shape).astype(np.uint16)
    lookup = CertaintyMap(label_map=labels, winning=winning, grid=grid)
    box = (slice(1, 8), slice(0, 5), slice(2, 9))
    found = lookup(box, [2])
    assert found.shape == (7, 5, 7)
    back = np.linalg.inv(grid.matrix)
    for index in np.ndindex(*found.shape):
        place = [i + s.start for i, s in zip(index, box, strict=True)]
        target = np.floor((back @ [*place, 1])[:3] + 0.5).astype(int)
        inside = all(0 <= t < n for t, n in zip(target, labels.shape, strict=True))
        if inside and labels[tuple(target)] == 2:
            assert found[index] == pytest.approx(winning[tuple(target)] / STEPS)
        else:
            assert np.isnan(found[index])


def test_a_picture_may_be_asked_with_a_third_axis():
    lookup = CertaintyMap(
        label_map=np.ones((3, 4), np.uint8),
        winning=np.full((3, 4), STEPS, np.uint16),
        grid=GridMap.identity((3, 4)),
    )
    assert lookup((slice(1, 3), slice(0, 4), slice(0, 1)), [1]).shape == (2, 4, 1)


def test_tilted_slices():
    affine = np.array([[0.8, 0, 0, 0], [0, 0.8, 0.9, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    shape = (7, 9, 6)
    shear = shear_of(affine, shape)
    rng = np.random.default_rng(2)
    labels = rng.integers(1, 3, shape).astype(np.uint8)
    winning = rng.integers(1, STEPS, shape).astype(np.uint16)
    straight = [straighten_labels(a, shear) for a in (labels, winning)]
    lookup = source_certainty(*straight, GridMap.identity(shear.straight_shape), shear)
    np.testing.assert_allclose(lookup(everywhere(shape), [1, 2]), winning / STEPS, rtol=1e-6)
    box = (slice(1, 5), slice(2, 9), slice(3, 6))
    found = lookup(box, [1])
    np.testing.assert_array_equal(np.isnan(found), labels[box] != 1)


def test_of_the_classes_of_a_region_it_is_the_probability_of_the_region():
    table = LabelTable(labels=TABLE.labels, regions={"both": ("a", "b")})
    affine = np.array([[0.8, 0, 0, 0], [0, 0.8, 0.9, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    rng = np.random.default_rng(3)
    shape = (7, 9, 6)
    shear = shear_of(affine, shape)
    for size, tilt in ((shape, None), (shear.straight_shape, shear)):
        values = rng.random((3, *size)).astype(np.float32)
        values /= values.sum(axis=0)
        tally = ConfidenceTally(size, table)
        tally.add(everywhere(size), torch.from_numpy(values))
        lookup = source_certainty(
            tally.label_map,
            tally.winning,
            GridMap.identity(size),
            tilt,
            unions=tally.unions,
            plan=tally.plan,
        )
        found, alone = (lookup(everywhere(shape), classes) for classes in ([2, 1], [1]))
        held = ~np.isnan(found)
        np.testing.assert_array_equal(np.isnan(alone), ~held | (lookup.label_map != 1))
        assert (found[held] > alone[held])[~np.isnan(alone[held])].all()
        if tilt is None:
            np.testing.assert_allclose(found[held], values[1:].sum(axis=0)[held], atol=1 / STEPS)
            np.testing.assert_array_equal(held, values.argmax(axis=0) > 0)
