"""Grid maps: known corners, composition, inverses."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.geometry import (
    GridMap,
    affine_from_slices,
    affine_lps_to_ras,
    lattice_map,
    spacing_of,
    tilt_degrees,
)

SHAPES = st.tuples(st.integers(2, 40), st.integers(2, 40))


def at(grid: GridMap, index: tuple[float, ...]) -> list[float]:
    return list((grid.matrix @ [*index, 1.0])[:-1])


def test_resize_keeps_the_outer_edges():
    grid = GridMap.resize((10, 6), (5, 3))
    assert at(grid, (-0.5, -0.5)) == [-0.5, -0.5]
    assert at(grid, (4.5, 2.5)) == [9.5, 5.5]
    assert at(grid, (0, 0)) == [0.5, 0.5]


def test_padding_starts_before_the_source():
    assert at(GridMap.crop_or_pad((4, 4), (-2, 1), (8, 3)), (2, 0)) == [0, 1]


def test_transpose_with_flip_maps_a_corner():
    grid = GridMap.permute_flip((5, 7), (1, 0), (True, False))
    assert grid.target_shape == (7, 5)
    assert at(grid, (0, 0)) == [0, 6]


@given(SHAPES, SHAPES, st.tuples(st.integers(-5, 5), st.integers(-5, 5)), st.booleans(), st.booleans())
def test_a_chain_and_its_inverse_are_the_identity(source, target, start, flip, turn):
    axes = (1, 0) if turn else (0, 1)
    chain = GridMap.permute_flip(source, axes, (flip, not flip))
    chain = chain.then(GridMap.crop_or_pad(chain.target_shape, start, (20, 30)))
    chain = chain.then(GridMap.resize((20, 30), target))
    back = chain.then(chain.inverse())
    np.testing.assert_allclose(back.matrix, np.eye(3), atol=1e-9)
    assert back.target_shape == source


def test_axis_maps_name_the_source_axis():
    grid = GridMap.permute_flip((5, 7), (1, 0), (True, False))
    assert grid.axis_maps() == ((1, -1.0, 6.0), (0, 1.0, 0.0))


def test_steps_that_do_not_join_are_refused():
    with pytest.raises(GeometryError, match="do not join"):
        GridMap.identity((3, 3)).then(GridMap.identity((4, 3)))


def test_shear_is_refused():
    with pytest.raises(GeometryError, match="shear"):
        GridMap(
            source_shape=(3, 3), target_shape=(3, 3), matrix=np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])
        )


def test_lps_to_ras_twice_is_the_identity():
    affine = np.array([[0.7, 0.1, 0, -20], [0, 0.5, 0.2, 30], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    np.testing.assert_allclose(affine_lps_to_ras(affine_lps_to_ras(affine)), affine)
    np.testing.assert_allclose(spacing_of(affine_lps_to_ras(affine)), spacing_of(affine))


def test_axial_ct_maps_corner_and_step_to_ras():
    positions = np.array([(-100.0, -80.0, 30.0 + 2.5 * k) for k in range(4)])
    affine = affine_from_slices(positions, np.array([1.0, 0, 0, 0, 1, 0]), (0.7, 0.5))
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [100, 80, 30, 1])
    np.testing.assert_allclose(affine @ [10, 20, 3, 1], [95, 66, 37.5, 1])


def test_a_tilted_gantry_gives_a_sheared_affine():
    tilt = np.radians(20)
    orientation = np.array([1, 0, 0, 0, np.cos(tilt), -np.sin(tilt)])
    affine = affine_from_slices(np.array([(0.0, 0.0, 5.0 * k) for k in range(3)]), orientation, (1.0, 1.0))
    np.testing.assert_allclose(affine[:3, 2], [0, 0, 5])
    assert tilt_degrees(affine) == pytest.approx(20)
    assert tilt_degrees(np.diag([-2.0, 1.0, 3.0, 1.0])) == pytest.approx(0)


def test_an_uneven_stack_names_the_slice_and_the_distance():
    positions = np.array([(0.0, 0.0, z) for z in (0.0, 5.0, 11.0, 15.0)])
    with pytest.raises(GeometryError, match=r"slice 3 of 4 lies 1\.000 mm from .* 5\.000 mm"):
        affine_from_slices(positions, np.array([1.0, 0, 0, 0, 1, 0]), (1.0, 1.0))


AFFINE = np.array([[0.9, 0.1, 0.0, -5.0], [-0.2, 1.8, 0.3, 7.0], [0.1, 0.0, 2.5, 11.0], [0, 0, 0, 1.0]])
ORDERS = list(permutations(range(3)))


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("flips", [(False, True, False), (True, True, True), (False, False, False)])
def test_the_lattice_map_finds_axes_and_flips_again(axes, flips):
    turn = GridMap.permute_flip((4, 5, 6), axes, flips)
    found = lattice_map(AFFINE, (4, 5, 6), AFFINE @ turn.matrix, turn.target_shape)
    assert found is not None
    np.testing.assert_array_equal(found.matrix, turn.matrix)


def test_grids_between_each_others_voxels_have_no_lattice_map():
    shifted = AFFINE @ np.array([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert lattice_map(AFFINE, (4, 5, 6), shifted, (4, 5, 6)) is None
    assert lattice_map(AFFINE, (4, 5, 6), AFFINE @ np.diag([2.0, 1, 1, 1]), (2, 5, 6)) is None
