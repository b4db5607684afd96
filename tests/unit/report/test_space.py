"""Planes of the patient through oblique, sheared and uneven grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.report.space import Cut, Neighbours, Space

SHAPE = (23, 17, 11)


def oblique(*, shear=0.0):
    """Steps of 2, 3 and 5 mm, left-handed, turned by 20 and 15 degrees, slices sheared along the first axis."""
    a, b = np.deg2rad([20, 15])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, 3.0, 5.0])
    affine[:3, 2] += shear * affine[:3, 0]
    affine[:3, 3] = (7.0, -30.0, 11.0)
    return affine


def ramp(affine, shape=SHAPE, weights=(1.0, -2.0, 0.5)):
    """An image whose values are a linear function of the place in the patient."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return (grid @ affine[:3, :3].T + affine[:3, 3]) @ np.array(weights)


@pytest.mark.parametrize("shear", [0.0, 0.4])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_linear_image_is_cut_exactly_wherever_its_voxels_lie(plane, shear):
    affine = oblique(shear=shear)
    space = Space.of(SHAPE, affine, (2.0, 3.0, 5.0))
    middle = space.world(np.array([[11, 8, 5]]))[0]
    view = np.stack([middle - 6, middle + np.array([6, 8, 10])], axis=1)
    across = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    cut = Cut(plane, float(middle[across]), view, 1.0)
    near = Neighbours.of(cut.points(space), SHAPE)
    found = near.values(ramp(affine))
    right, down = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    place = np.empty((*found.shape, 3))
    place[..., across] = middle[across]
    # The patient's right (high x in RAS+), front and head come first.
    place[..., right] = (view[right, 1] - 0.5 - np.arange(found.shape[1]))[None, :]
    place[..., down] = (view[down, 1] - 0.5 - np.arange(found.shape[0]))[:, None]
    inside = near.weights.sum(axis=0) > 0
    assert inside.mean() > 0.9
    np.testing.assert_allclose(found[inside], (place @ (1.0, -2.0, 0.5))[inside], atol=1e-3)


def test_what_lies_outside_is_black_and_of_no_class():
    space = Space.of(SHAPE, oblique(), None)
    points = np.array([[[-0.6, 3, 3], [22.6, 3, 3], [3, 3, 10.4], [3, 16.6, 3]]])
    near = Neighbours.of(points, SHAPE)
    assert near.weights.sum(axis=0).round(3).tolist() == [[0, 0, 1, 0]]
    assert near.values(np.full(SHAPE, 5.0)).tolist() == [[0, 0, 5, 0]]
    assert space.finest_mm == pytest.approx(2.0)


def test_a_file_without_a_patient_is_shown_as_it_lies():
    space = Space.of(SHAPE, None, (2.0, 3.0, 5.0))
    assert not space.known
    np.testing.assert_allclose(space.box, [[-1, 45], [-1.5, 49.5], [-2.5, 52.5]])
    cut = Cut("axial", 10.0, space.box, 2.0)
    points = cut.points(space)
    assert points[0, 0] == pytest.approx([0.0, -0.5 + 1.0 * 17 / 25.5 / 2, 2.0], abs=0.2)
    assert points[-1, -1, 0] == pytest.approx(22.0)


@given(st.integers(0, 2**32 - 1))
def test_shares_of_all_classes_are_one_inside(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 7, 3))
    labels = rng.integers(0, 4, shape).astype(np.uint8)
    points = rng.uniform(-0.5, np.array(shape) - 0.5, (5, 3, 3))
    near = Neighbours.of(points, shape)
    shares = near.shares(labels)
    whole = sum(shares.values(), np.zeros((5, 3), np.float32)) + near.values((labels == 0).astype(np.float32))
    np.testing.assert_allclose(whole, 1, atol=1e-5)
    assert 0 not in shares
