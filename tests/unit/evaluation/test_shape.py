import numpy as np
import pytest
from scipy import ndimage

from medseg.evaluation.shape import object_shape, widest_extent


def test_two_parts_and_a_hole_by_hand():
    mask = np.zeros((12, 10), dtype=bool)
    mask[1:6, 2:7] = True
    mask[3, 4] = False
    mask[8:10, 2:4] = True
    shape = object_shape(mask)
    assert (shape.voxels, shape.parts, shape.hole_voxels) == (28, 2, 1)
    assert shape.largest_share == pytest.approx(24 / 28)
    assert shape.box == ((1, 9), (2, 6))
    assert shape.centroid == pytest.approx(tuple(np.argwhere(mask).mean(axis=0)))
    assert shape.touches == ()
    assert shape.extent == pytest.approx(28 / 45)


def test_bay_that_opens_to_the_outside_is_no_hole():
    mask = np.ones((5, 5), dtype=bool)
    mask[0:3, 2] = False
    assert object_shape(mask).hole_voxels == 0


def test_holes_equal_scipy():
    mask = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal((40, 31)), 1.2) > -0.05
    expected = ndimage.binary_fill_holes(mask) & ~mask
    assert object_shape(mask).hole_voxels == expected.sum() > 0


def test_touching_faces():
    mask = np.zeros((4, 5, 6), dtype=bool)
    mask[0, 2, 5] = True
    assert object_shape(mask).touches == ("i first", "k last")
    flat = np.zeros((4, 5, 1), dtype=bool)
    flat[1, 2, 0] = True
    assert object_shape(flat).touches == ()


def test_empty_mask_has_no_shape():
    assert object_shape(np.zeros((3, 4), dtype=bool)) is None
    assert widest_extent(np.zeros((3, 4), dtype=bool), 0) == 0


def test_compactness_of_a_disc_depends_little_on_resolution():
    values = []
    for radius in (20, 60, 200):
        i, j = np.ogrid[: 2 * radius + 5, : 2 * radius + 5]
        disc = (i - radius - 2) ** 2 + (j - radius - 2) ** 2 <= radius**2
        values.append(object_shape(disc).compactness)
    assert max(values) / min(values) < 1.05
    ragged = disc & (np.random.default_rng(0).random(disc.shape) < 0.7)
    assert object_shape(ragged).compactness < 0.1 * values[-1]


def test_widest_line_is_not_the_box():
    mask = np.zeros((20, 6), dtype=bool)
    mask[2:5, 1] = True
    mask[12:18, 4] = True
    mask[3, 4] = True
    assert widest_extent(mask, 0) == 15
    assert widest_extent(mask, 1) == 4
