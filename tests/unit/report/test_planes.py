"""The slice of a volume on which its masks are largest."""

import numpy as np

from medseg.report.planes import largest_section

SHAPE = (20, 16, 12)


def mask(*ranges):
    made = np.zeros(SHAPE, np.bool_)
    made[tuple(slice(a, b) for a, b in ranges)] = True
    return made


def test_slices_go_through_the_largest_cross_sections_of_all_masks_together():
    small, large = mask((2, 4), (2, 4), (2, 4)), mask((10, 15), (6, 13), (8, 10))
    large[12] |= mask((12, 13), (5, 14), (7, 11))[12]
    found = [largest_section({"a": small, "b": large}, axis, SHAPE[axis]) for axis in (2, 1, 0)]
    assert found == [8, 6, 12]


def test_without_masks_the_middle():
    assert largest_section({"a": np.zeros(SHAPE, np.bool_)}, 0, 20) == 10
    assert largest_section({}, 2, 12) == 6
