import numpy as np
import pytest

from medseg.quality.canonical import axis_order, canonical, directions_of


def test_axes_of_an_lps_volume_are_turned_to_ras_without_a_copy():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    affine = np.diag([-2.0, -1.0, 3.0, 1.0])
    directions = directions_of(spatial_dims=3, affine=affine)
    assert directions == ("L", "P", "S")
    view = canonical(array, axis_order(directions, 3))
    np.testing.assert_array_equal(view, array[:, ::-1, ::-1])
    assert np.shares_memory(view, array)


def test_a_sagittal_stack_is_transposed():
    # i towards posterior, j towards superior, k towards right.
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -1.0, 1.0, 4.0, 1.0
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    order = axis_order(directions_of(spatial_dims=3, affine=affine), 3)
    assert order == ((2, False), (0, True), (1, False))
    np.testing.assert_array_equal(canonical(array, order), array[::-1].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("letters", "order"),
    [
        (("L", "F"), ((0, False), (1, False))),
        (("R", "H"), ((0, True), (1, True))),
        (("F", "L"), ((1, False), (0, False))),
        (("A", "F"), None),
    ],
)
def test_pictures_grow_towards_left_and_foot(letters, order):
    assert axis_order(directions_of(spatial_dims=2, patient_orientation=letters), 2) == order


def test_unknown_orientation_is_taken_as_it_is():
    assert directions_of(spatial_dims=3) is None
    assert directions_of(spatial_dims=2, patient_orientation=("X", "F")) is None
    assert axis_order(None, 2) == ((0, False), (1, False))
    array = np.ones((3, 4))
    assert canonical(array, None) is array
