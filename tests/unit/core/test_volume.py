"""Volume: grids that agree, grids that do not."""

import numpy as np
import pytest

from medseg.errors import GeometryError
from medseg.volume import Volume


def test_same_grid_compares_all_corners_of_an_oblique_affine():
    affine = np.array([[0.8, 0.1, 0.0, -10], [-0.1, 0.7, 0.0, 5], [0, 0, 2.0, 3], [0, 0, 0, 1.0]])
    moved = affine.copy()
    moved[0, 1] += 0.01
    one = Volume(array=np.zeros((1, 40, 30, 8)), affine=affine)
    assert one.same_grid(Volume(array=np.zeros((1, 40, 30, 8)), affine=affine))
    assert not one.same_grid(Volume(array=np.zeros((1, 40, 30, 8)), affine=moved))


def test_other_shapes_are_other_grids():
    assert not Volume(array=np.zeros((1, 4, 3))).same_grid(Volume(array=np.zeros((1, 3, 4))))


def test_unknown_spacing_is_none():
    volume = Volume(array=np.zeros((1, 4, 3)))
    assert volume.spacing_mm is None
    assert volume.spatial_dims == 2


@pytest.mark.parametrize(
    ("array", "spacing"), [(np.zeros((3, 4)), None), (np.zeros((1, 3, 4)), (1.0, 1.0, 1.0))]
)
def test_wrong_number_of_axes_is_refused(array, spacing):
    with pytest.raises(GeometryError, match=r"axes|a volume is"):
        Volume(array=array, spacing_mm=spacing)
