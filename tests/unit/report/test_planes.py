"""Slices of a volume: where its masks are largest, in display orientation."""

import numpy as np

from medseg.report.planes import draw_planes, largest_section

SHAPE = (20, 16, 12)


def mask(*ranges):
    made = np.zeros(SHAPE, np.bool_)
    made[tuple(slice(a, b) for a, b in ranges)] = True
    return made


def planes(predicted, reference, **changes):
    shown = []

    def gray(axis, index):
        shown.append((axis, index))
        return np.zeros([n for a, n in enumerate(SHAPE) if a != axis], np.uint8)

    arguments = {"spacing_mm": (1.0, 2.0, 3.0), "directions": ("L", "P", "H"), "shape": SHAPE} | changes
    return draw_planes(gray, predicted=predicted, reference=reference, **arguments), shown


def test_slices_go_through_the_largest_cross_sections():
    small, large = mask((2, 4), (2, 4), (2, 4)), mask((10, 15), (6, 13), (8, 10))
    large[12] |= mask((12, 13), (5, 14), (7, 11))[12]
    pictures, shown = planes({"a": small, "b": large}, {})
    assert shown == [(2, 8), (1, 6), (0, 12)]
    assert [p.title for p in pictures] == [
        "axial, slice 9 of 12",
        "coronal, slice 7 of 16",
        "sagittal, slice 13 of 20",
    ]
    assert all([c.structure for c in p.contours] == ["b"] for p in pictures)


def test_the_pictures_are_turned_and_undistorted():
    pictures, _ = planes({"a": mask((2, 8), (2, 8), (2, 8))}, {})
    letters = [dict(p.letters) for p in pictures]
    assert letters[0] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert letters[1] == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
    assert {letters[2]["top"], letters[2]["bottom"]} == {"H", "F"}
    for picture, (width, height) in zip(pictures, ((20, 32), (20, 36), (32, 36)), strict=True):
        assert abs(picture.width / picture.height - width / height) < 0.03


def test_an_empty_prediction_shows_the_reference_and_nothing_the_middle():
    _, shown = planes({"a": mask() & False}, {"a": mask((1, 3), (4, 6), (9, 11))})
    assert shown == [(2, 9), (1, 4), (0, 1)]
    assert largest_section({"a": np.zeros(SHAPE, np.bool_)}, 0, 20) == 10
    _, shown = planes({}, {}, directions=None, spacing_mm=None)
    assert shown == [(2, 6), (1, 8), (0, 10)]
