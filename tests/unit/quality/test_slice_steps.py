import numpy as np
import pytest

from medseg.quality.slice_steps import doubled_slices, largest_step, slice_axis


def rod() -> np.ndarray:
    mask = np.zeros((30, 28, 26), bool)
    mask[8:18, 9:17, 4:22] = True
    return mask


def step(mask, axis=2):
    filled = np.argwhere(mask)
    box = tuple((int(a), int(b)) for a, b in zip(filled.min(axis=0), filled.max(axis=0), strict=True))
    return largest_step(box, lambda part: mask[part], axis)


def test_a_straight_rod_has_no_step():
    assert step(rod()).value == 0.0


def test_slices_that_moved_are_found_where_they_moved():
    mask = rod()
    mask[..., 13:] = np.roll(mask[..., 13:], 5, axis=0)
    found = step(mask)
    # 10 wide and moved by 5: Dice of the two slices is 0.5.
    assert (found.value, found.axis, found.index, found.missing) == (pytest.approx(0.5), 2, 12, 0)


def test_lost_slices_are_counted():
    mask = rod()
    mask[..., 10:13] = False
    found = step(mask)
    assert (found.value, found.index, found.missing) == (1.0, 9, 3)


def test_tapering_ends_and_thin_masks_are_left_alone():
    grid = np.indices((30, 28, 26))
    ball = ((grid - np.array([15, 14, 13])[:, None, None, None]) ** 2).sum(axis=0) <= 100
    assert step(ball).value < 0.1
    assert largest_step(((0, 9), (0, 9), (3, 4)), lambda part: np.ones((10, 10, 1), bool), 2) is None


def test_axis_of_the_slices_is_the_coarsest():
    assert slice_axis((0.8, 5.0, 0.8), 3) == 1
    assert slice_axis((1.0, 1.0, 1.1), 3) == 2
    assert slice_axis(None, 3) == 2


def test_doubled_slices():
    array = np.random.default_rng(0).random((2, 20, 18, 9)).astype(np.float32)
    array[..., 4] = array[..., 3]
    array[..., 7:] = 0.0
    assert doubled_slices(array, 2) == (3,)
    array[1, 19, 17, 4] += 1
    assert doubled_slices(array, 2) == ()
