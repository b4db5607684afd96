import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, GeometryError
from medseg.inference.options import DropSmall, FillHoles, KeepLargest
from medseg.inference.postprocess import bounding_box, postprocess
from medseg.labels import Label, LabelTable

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
        Label(name="heart", value=7, colour="#ff0000"),
    ),
    regions={"lung": ("lung_right", "lung_left")},
)


def picture(*rows: str) -> np.ndarray:
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows], dtype=np.uint8)


def clean(label_map, *steps, spacing_mm=None):
    return postprocess(label_map, steps, table=TABLE, spacing_mm=spacing_mm)


def test_keep_largest_works_on_each_label_by_itself():
    before = picture("11.2.1", "11....", "....22", "3...22")
    after = clean(before, KeepLargest(labels=("lung_right", "lung_left")))
    np.testing.assert_array_equal(after, picture("11....", "11....", "....22", "3...22"))


def test_voxels_that_touch_at_a_corner_are_one_object():
    before = picture("1...", ".1..", "..1.", "1...")
    after = clean(before, KeepLargest())
    np.testing.assert_array_equal(after, picture("1...", ".1..", "..1.", "...."))
    cube = np.zeros((4, 4, 4), dtype=np.uint8)
    cube[0, 0, 0] = cube[1, 1, 1] = cube[3, 3, 0] = 1
    assert np.argwhere(clean(cube, KeepLargest())).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_keep_largest_of_a_region_joins_its_labels():
    before = picture("12.1", "12..", "....", ".22.")
    after = clean(before, KeepLargest(labels=("lung",)))
    np.testing.assert_array_equal(after, picture("12..", "12..", "....", "...."))


def test_count_and_ties():
    before = picture("1.1.11.1")
    np.testing.assert_array_equal(clean(before, KeepLargest(count=2)), picture("1...11.."))
    np.testing.assert_array_equal(clean(before, KeepLargest(count=9)), before)


def test_drop_small_in_square_millimetres():
    before = picture("11.2.", "11.2.", "....1")
    # A pixel is 0.5 x 0.8 = 0.4 mm2: the objects have 1.6, 0.8 and 0.4 mm2.
    spacing = (0.5, 0.8)
    np.testing.assert_array_equal(
        clean(before, DropSmall(min_mm2=0.81), spacing_mm=spacing), picture("11...", "11...", ".....")
    )
    np.testing.assert_array_equal(
        clean(before, DropSmall(min_mm2=0.8), spacing_mm=spacing), picture("11.2.", "11.2.", ".....")
    )
    np.testing.assert_array_equal(clean(before, DropSmall(min_pixels=2)), picture("11.2.", "11.2.", "....."))


def test_drop_small_in_millilitres():
    before = np.zeros((6, 5, 4), dtype=np.uint8)
    before[:2, :2, :2] = 1
    before[4, 4, 3] = 1
    # A voxel of 5 x 5 x 8 mm is 0.2 ml: the objects have 1.6 ml and 0.2 ml.
    after = clean(before, DropSmall(min_ml=0.5), spacing_mm=(5.0, 5.0, 8.0))
    assert np.count_nonzero(after) == 8


def test_holes_are_filled_with_background_only():
    before = picture("......", ".1111.", ".1.31.", ".1..1.", ".1111.", "......")
    after = clean(before, FillHoles(labels=("lung_right",)))
    np.testing.assert_array_equal(after, picture("......", ".1111.", ".1131.", ".1111.", ".1111.", "......"))


def test_a_hole_closed_by_corners_is_a_hole():
    before = picture("..1..", ".1.1.", "..1..")
    np.testing.assert_array_equal(clean(before, FillHoles()), picture("..1..", ".111.", "..1.."))


def test_open_bays_and_the_image_border_are_no_holes():
    bay = picture("1.11", "1..1", "1111")
    np.testing.assert_array_equal(clean(bay, FillHoles()), bay)
    # The film ends where the label is open: it is not known to be closed there.
    cut = picture("1..1", "1..1", "1111")
    np.testing.assert_array_equal(clean(cut, FillHoles()), cut)


def test_largest_hole_that_is_filled():
    before = picture("11111111", "1.11...1", "11111111")
    np.testing.assert_array_equal(
        clean(before, FillHoles(max_pixels=2)), picture("11111111", "1111...1", "11111111")
    )
    filled = clean(before, FillHoles(max_mm2=3.0), spacing_mm=(1.0, 1.0))
    assert (filled == 1).all()


def test_hole_in_a_volume_needs_a_closed_shell():
    shell = np.zeros((6, 5, 5), dtype=np.uint8)
    shell[1:5, 1:4, 1:4] = 2
    shell[2:4, 2, 2] = 0
    filled = clean(shell, FillHoles())
    assert np.count_nonzero(filled) == 36
    shell[1, 2, 2] = 0
    np.testing.assert_array_equal(clean(shell, FillHoles()), shell)


def test_units_that_do_not_fit_are_refused():
    flat, deep = picture("1"), np.ones((2, 2, 2), dtype=np.uint8)
    with pytest.raises(GeometryError, match=r"drop_small.min_mm2 needs the voxel spacing.*use min_pixels"):
        clean(flat, DropSmall(min_mm2=3))
    with pytest.raises(GeometryError, match=r"fill_holes.max_ml needs the voxel spacing.*use max_pixels"):
        clean(deep, FillHoles(max_ml=3))
    with pytest.raises(ConfigError, match=r"min_ml does not go with an image of 2 axes; use min_mm2"):
        clean(flat, DropSmall(min_ml=3), spacing_mm=(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"max_mm2 does not go with an image of 3 axes; use max_ml"):
        clean(deep, FillHoles(max_mm2=3), spacing_mm=(1.0, 1.0, 1.0))


def test_unknown_names_and_filling_a_region_are_refused():
    with pytest.raises(ConfigError, match=r"keep_largest.labels names \['liver'\]; known: lung_right"):
        clean(picture("1"), KeepLargest(labels=("liver",)))
    with pytest.raises(ConfigError, match="fill_holes needs labels, found the region lung"):
        clean(picture("1"), FillHoles(labels=("lung",)))


def test_input_is_left_alone_and_absent_labels_do_no_harm():
    before = picture("1.1", "...")
    kept = before.copy()
    after = clean(before, KeepLargest(), FillHoles(), DropSmall(min_pixels=1))
    np.testing.assert_array_equal(before, kept)
    assert after.dtype == before.dtype
    empty = np.zeros((3, 4), dtype=np.uint8)
    np.testing.assert_array_equal(clean(empty, KeepLargest(), FillHoles()), empty)


def test_bounding_box_of_several_classes():
    assert bounding_box(picture("....", ".1..", "..2."), (1, 2)) == (slice(1, 3), slice(1, 3))
    assert bounding_box(picture("...."), (1,)) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(9, 7), (6, 5, 4)]))
def test_cleaning_twice_changes_nothing_and_labels_do_not_spread(seed, shape):
    before = np.random.default_rng(seed).choice([0, 0, 1, 2], size=shape).astype(np.uint8)
    steps = (KeepLargest(), FillHoles())
    once = clean(before, *steps)
    np.testing.assert_array_equal(clean(once, *steps), once)
    kept = clean(before, KeepLargest())
    assert (once[kept != 0] == kept[kept != 0]).all()
