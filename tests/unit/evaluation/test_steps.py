import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.evaluation.steps import ball, image_diagonal, voxel_size, voxel_steps

SHEARED = np.array(
    [[0.0, -0.7, 0.2, 10.0], [0.6, 0.1, -1.1, -4.0], [0.1, 0.05, 2.9, 7.0], [0.0, 0.0, 0.0, 1.0]]
)


def test_distances_on_a_sheared_and_turned_grid_are_those_of_the_world():
    steps = voxel_steps(3, (1, 1, 1), SHEARED)
    offsets = np.random.default_rng(0).integers(-9, 9, (50, 3))
    expected = np.linalg.norm(offsets @ SHEARED[:3, :3].T, axis=1)
    np.testing.assert_allclose(np.linalg.norm(offsets @ steps.T, axis=1), expected, rtol=1e-12)
    assert voxel_size(steps) == pytest.approx(abs(np.linalg.det(SHEARED[:3, :3])))


def test_one_slice_of_a_volume_keeps_its_own_plane():
    steps = voxel_steps(2, (1, 1), SHEARED)
    assert steps.shape == (2, 2)
    assert np.linalg.norm(steps @ [3, -5]) == pytest.approx(np.linalg.norm(SHEARED[:3, :2] @ [3, -5]))


def test_box_shaped_grids_and_unknown_spacing():
    np.testing.assert_array_equal(voxel_steps(2, (0.5, 2.0)), np.diag([0.5, 2.0]))
    assert voxel_steps(3, None, SHEARED) is None
    with pytest.raises(GeometryError, match="2 axes need 2 spacings"):
        voxel_steps(2, (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="voxels without extent"):
        voxel_steps(3, (1, 1, 1), np.diag([1.0, 1.0, 0.0, 1.0]))


def test_the_longest_diagonal_of_a_sheared_image_counts():
    steps = np.array([[1.0, 0.5], [0.0, 1.0]])
    # (10, 0) to (10, 10): corners (15, 10) and (5, -10) from the first one.
    assert image_diagonal((10, 10), steps) == pytest.approx(np.hypot(15, 10))
    assert image_diagonal((10, 10), steps * [[1, -1], [1, -1]]) == pytest.approx(np.hypot(15, 10))
    assert image_diagonal((30, 40), None) == 50.0


@given(st.floats(0.3, 3), st.floats(0.3, 3), st.floats(-0.8, 0.8), st.floats(0.5, 6))
@settings(max_examples=40)
def test_a_ball_holds_every_offset_within_the_radius(first, second, shear, radius):
    steps = np.array([[first, shear], [0.0, second]])
    offsets, lengths = ball(steps, radius)
    grid = np.stack(np.meshgrid(*[np.arange(-60, 61)] * 2), axis=-1).reshape(-1, 2)
    assert len(offsets) == np.count_nonzero(np.linalg.norm(grid @ steps.T, axis=1) <= radius * (1 + 1e-12))
    assert (np.diff(lengths) >= 0).all()
    np.testing.assert_array_equal(offsets[0], 0)
