"""Straightened volumes show things where they are, and what is found there goes back to the tilted slices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.tilt import Shear
from medseg.transforms.straighten import straighten, unstraighten_labels, unstraighten_probabilities
from medseg.volume import Volume

SHAPE, SPACING = (60, 72, 20), (1.0, 0.8, 2.5)
CENTRE = np.array([5.0, -4.0, 40.0])


def tilted_affine(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 2] = SPACING[2] * np.array([0, np.sin(angle), np.cos(angle)])
    middle = affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    affine[:3, 3] = CENTRE - middle
    return affine


def world(affine: np.ndarray, shape) -> np.ndarray:
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)])
    return np.einsum("wi,iabc->wabc", affine[:3], index)


def ball(affine: np.ndarray, shape, radius: float = 15.0) -> np.ndarray:
    """A smooth ball in the world: 1 inside, falling to 0 over 4 mm."""
    distance = np.linalg.norm(world(affine, shape) - CENTRE[:, None, None, None], axis=0)
    return np.clip((radius + 2 - distance) / 4, 0, 1).astype(np.float32)


def dice(a, b) -> float:
    return float(2 * np.sum(a & b) / (np.sum(a) + np.sum(b)))


def tilted_ball(degrees: float) -> Volume:
    affine = tilted_affine(degrees)
    return Volume(array=ball(affine, SHAPE)[np.newaxis] * 1000 - 1000, affine=affine)


@settings(max_examples=12, deadline=None)
@given(degrees=st.one_of(st.floats(-28, -1), st.floats(1, 28)))
def test_a_ball_is_where_it_was_and_comes_back(degrees):
    volume = tilted_ball(degrees)
    straight, shear = straighten(volume)
    assert shear is not None
    truth = ball(straight.affine, straight.spatial_shape)
    np.testing.assert_allclose(straight.array[0] / 1000 + 1, truth, atol=0.12)
    mask = straight.array[0] > -500
    centre = world(straight.affine, straight.spatial_shape)[:, mask].mean(axis=1)
    assert (np.abs(centre - CENTRE) < 0.25 * np.array(SPACING)).all()
    back = unstraighten_labels(mask, shear)
    assert dice(back, volume.array[0] > -500) > 0.98
    # A label lies at the nearest voxel.
    found = world(volume.affine, SHAPE)[:, back].mean(axis=1)
    assert (np.abs(found - CENTRE) < 0.5 * np.array(SPACING)).all()


def test_probabilities_come_back_smoothly():
    volume = tilted_ball(18)
    straight, shear = straighten(volume)
    assert shear is not None
    chance = straight.array[0] / 1000 + 1
    back = unstraighten_probabilities(np.stack([1 - chance, chance]), shear)
    assert back.shape == (2, *SHAPE)
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-5)
    assert dice(back[1] > 0.5, volume.array[0] > -500) > 0.98


@pytest.mark.parametrize("degrees", [0, 0.005])
def test_a_straight_volume_passes_untouched(degrees):
    volume = tilted_ball(degrees)
    same, shear = straighten(volume)
    assert same is volume
    assert shear is None


def test_what_no_slice_covers_is_filled():
    volume = tilted_ball(20)
    straight, shear = straighten(volume)
    assert isinstance(shear, Shear)
    assert straight.spatial_shape[1] > SHAPE[1]
    assert straight.array.dtype == np.float32
    assert straight.array.min() == -1000
    assert straighten(volume, outside=-2000)[0].array.min() == -2000
    np.testing.assert_allclose(straight.spacing_mm, (1.0, 0.8, 2.5 * np.cos(np.radians(20))))


def test_labels_keep_their_type_and_values():
    volume = tilted_ball(14)
    labels = Volume(array=(volume.array > -500).astype(np.uint8) * 3, affine=volume.affine)
    straight, shear = straighten(labels, labels=True)
    assert shear is not None
    assert straight.array.dtype == np.uint8
    np.testing.assert_array_equal(unstraighten_labels(straight.array[0], shear), labels.array[0])
