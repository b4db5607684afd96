"""Tilted stacks: the straight grid lies where it should, and going there and back moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.geometry import tilt_degrees
from medseg.tilt import (
    shear_of,
    straighten_labels,
    straighten_slices,
    unstraighten_labels,
    unstraighten_slices,
)

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def tilted(
    degrees: float, *, spacing=(0.7, 0.9, 3.0), sideways: float = 0.0, rotation=ROTATION
) -> np.ndarray:
    """Affine of slices that are tilted about the first axis, and shifted sideways by mm for each slice."""
    angle = np.radians(degrees)
    step = spacing[2] * np.array([0, np.sin(angle), np.cos(angle)]) + [sideways, 0, 0]
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.column_stack([[spacing[0], 0, 0], [0, spacing[1], 0], step])
    affine[:3, 3] = (11, -22, 33)
    return affine


angles = st.one_of(st.floats(-30, -0.05), st.floats(0.05, 30))


def test_known_tilt_about_the_first_axis():
    shear = shear_of(tilted(20, rotation=np.eye(3)), (8, 9, 5))
    assert shear is not None
    np.testing.assert_allclose(shear.drift, (0, 3 * np.sin(np.radians(20)) / 0.9), atol=1e-12)
    assert shear.straight_shape == (8, 9 + int(np.ceil(4 * shear.drift[1])), 5)
    np.testing.assert_allclose(shear.degrees, 20)
    np.testing.assert_allclose(shear.straight_affine[:3, 2], (0, 0, 3 * np.cos(np.radians(20))), atol=1e-12)
    np.testing.assert_allclose(shear.straight_affine[:3, 3], (11, -22, 33))


@pytest.mark.parametrize("affine", [None, np.diag([0.7, 0.9, 3, 1]), tilted(0), tilted(0.009)])
def test_box_shaped_grids_have_no_shear(affine):
    assert shear_of(affine, (8, 9, 5)) is None
    assert shear_of(tilted(10), (8, 9)) is None


@settings(max_examples=60, deadline=None)
@given(degrees=angles, sideways=st.floats(-2, 2), slices=st.integers(1, 12))
def test_every_source_voxel_lies_in_the_straight_grid_at_its_world_place(degrees, sideways, slices):
    affine, shape = tilted(degrees, sideways=sideways), (6, 7, slices)
    shear = shear_of(affine, shape)
    assert shear is not None
    assert tilt_degrees(shear.straight_affine) < 1e-4
    corner = np.array([(i, j, k, 1) for i in (0, 5) for j in (0, 6) for k in range(slices)], dtype=float)
    inside = np.linalg.inv(shear.straight_affine) @ affine @ corner.T
    assert (inside[:3] > -1e-5).all()
    assert (np.array(shear.straight_shape) - 1 + 1e-5 > inside[:3].T).all()
    expected = corner[:, :2] + shear.offsets()[corner[:, 2].astype(int)]
    np.testing.assert_allclose(inside[:2].T, expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(degrees=angles, sideways=st.floats(-2, 2), seed=st.integers(0, 99), axis=st.integers(0, 2))
def test_labels_there_and_back_are_the_same(degrees, sideways, seed, axis):
    order = list(np.roll([0, 1, 2], axis))
    affine = tilted(degrees, sideways=sideways, spacing=(0.7, 0.9, 2.5))[:, [*order, 3]]
    shape = tuple(np.array([6, 7, 5])[order])
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    shear = shear_of(affine, shape)
    assert shear is not None
    straight = straighten_labels(labels, shear)
    assert straight.shape == shear.straight_shape
    np.testing.assert_array_equal(unstraighten_labels(straight, shear), labels)


def test_thick_slices_are_found_whatever_the_order_of_the_axes():
    for order in ((0, 1, 2), (2, 0, 1), (0, 2, 1), (2, 1, 0)):
        shape = tuple(np.array([8, 9, 5])[list(order)])
        shear = shear_of(tilted(15)[:, [*order, 3]], shape)
        assert shear is not None
        assert shear.slice_axis == order.index(2)
        np.testing.assert_allclose(shear.degrees, 15)


def test_a_linear_ramp_in_the_world_stays_one():
    affine, shape = tilted(17, sideways=0.4), (20, 22, 6)
    shear = shear_of(affine, shape)
    assert shear is not None
    slope = np.array([0.3, -0.7, 0.2])

    def world(matrix, size):
        index = np.stack([*np.meshgrid(*map(np.arange, size), indexing="ij"), np.ones(size)])
        return np.einsum("i,iabc->abc", slope @ matrix[:3], index)

    straight = straighten_slices(world(affine, shape), shear, outside=np.nan)
    covered = np.isfinite(straight)
    # The outermost half voxel repeats the rim.
    inner = (
        covered
        & np.roll(covered, 1, 0)
        & np.roll(covered, -1, 0)
        & np.roll(covered, 1, 1)
        & np.roll(covered, -1, 1)
    )
    assert inner.mean() > 0.5
    np.testing.assert_allclose(
        straight[inner], world(shear.straight_affine, shear.straight_shape)[inner], atol=1e-4
    )
    back = unstraighten_slices(world(shear.straight_affine, shear.straight_shape), shear, outside=np.nan)
    np.testing.assert_allclose(back, world(affine, shape), atol=1e-4)


def test_shears_of_a_registration_are_refused():
    affine = np.eye(4)
    affine[:3, :3] += [[0, 0.2, 0.1], [0, 0, 0.3], [0, 0, 0]]
    with pytest.raises(GeometryError, match="no two axes of the image are at right angles"):
        shear_of(affine, (4, 5, 6))
    shear = shear_of(tilted(9), (8, 9, 5))
    assert shear is not None
    with pytest.raises(GeometryError, match=r"expected an array on the grid \(8, 9, 5\)"):
        straighten_labels(np.zeros((9, 8, 5), np.uint8), shear)
