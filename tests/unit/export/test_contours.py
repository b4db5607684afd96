from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medseg.export import contours
from medseg.export.contours import trace_outlines, trace_polygons


def winding(polygons: list[np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Crossings to the left of each pixel centre, and their sum with signs: ray casting, edge by edge."""
    crossings, turns = np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            assert (x0 == x1) != (y0 == y1), "every edge runs along one axis"
            for j in range(shape[1]):
                if min(y0, y1) < j < max(y0, y1):
                    crossings[int(x0 + 0.5) :, j] += 1
                    turns[int(x0 + 0.5) :, j] += 1 if y0 > y1 else -1
    return crossings, turns


def rows(text: str) -> np.ndarray:
    """(I, J) mask from a drawing whose lines are rows j."""
    return np.array([[c == "#" for c in line] for line in text.split()]).T


def test_one_pixel_is_the_square_round_its_centre():
    mask = np.zeros((5, 4), dtype=bool)
    mask[3, 1] = True
    (polygon,) = trace_polygons(mask)
    np.testing.assert_array_equal(polygon, [[2.5, 0.5], [3.5, 0.5], [3.5, 1.5], [2.5, 1.5]])


def test_straight_edges_have_no_points_between():
    (polygon,) = trace_polygons(rows("###. ###. #... #..."))
    np.testing.assert_array_equal(
        polygon, [[-0.5, -0.5], [2.5, -0.5], [2.5, 1.5], [0.5, 1.5], [0.5, 3.5], [-0.5, 3.5]]
    )


def test_hole_is_joined_by_a_way_of_no_width():
    (polygon,) = trace_polygons(rows("#### #..# ####"))
    way, corner = [-0.5, 0.5], [0.5, 0.5]
    np.testing.assert_array_equal(
        polygon,
        [
            *([-0.5, -0.5], [3.5, -0.5], [3.5, 2.5], [-0.5, 2.5]),
            *(way, corner, [0.5, 1.5], [2.5, 1.5], [2.5, 0.5], corner, way),
        ],
    )


def test_island_in_a_hole_is_a_polygon_of_its_own():
    assert sorted(len(p) for p in trace_polygons(rows("##### #...# #.#.# #...# #####"))) == [4, 11]


def test_pixels_that_touch_at_a_corner_stay_apart():
    polygons = trace_polygons(rows("#.#. .#.# #.#."))
    assert [len(p) for p in polygons] == [4] * 6


def test_hole_that_touches_the_outside_at_a_corner_crosses_nothing():
    mask = rows("#### #..# #.## ##.#")
    (polygon,) = trace_polygons(mask)
    crossings, turns = winding([polygon], mask.shape)
    np.testing.assert_array_equal(turns, mask)
    np.testing.assert_array_equal(crossings % 2, mask)


def test_several_holes_on_one_edge_and_behind_one_another():
    mask = rows("######## #.#.##.# ######## #.####.# ######## ##.#.### ########")
    (polygon,) = trace_polygons(mask)
    np.testing.assert_array_equal(winding([polygon], mask.shape)[1], mask)


@settings(max_examples=40, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_polygons_hold_the_mask_by_both_rules(mask):
    polygons = trace_polygons(mask)
    crossings, turns = winding(polygons, mask.shape)
    np.testing.assert_array_equal(crossings % 2, mask)
    np.testing.assert_array_equal(turns, mask)
    assert len(polygons) == ndimage.label(mask)[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.85, 0.97]))
def test_masks_full_of_holes(seed, density):
    mask = np.random.default_rng(seed).random((24, 31)) < density
    crossings, turns = winding(trace_polygons(mask), mask.shape)
    np.testing.assert_array_equal(crossings % 2, mask)
    np.testing.assert_array_equal(turns, mask)


@pytest.mark.parametrize("order", ["C", "F"])
def test_stack_is_its_slices(order, monkeypatch):
    mask = np.asarray(np.random.default_rng(3).random((11, 8, 6)) < 0.6, order=order)
    mask[:, :, 2] = False
    whole = trace_outlines(mask)
    assert len(whole) == len(whole.slices)
    assert 2 not in whole.slices
    each = [polygon for k in range(6) for polygon in trace_polygons(mask[:, :, k])]
    np.testing.assert_array_equal(whole.indices[:, :2], np.concatenate(each))
    # In blocks of slices, as large stacks are read.
    monkeypatch.setattr(contours, "_BLOCK_VOXELS", 2 * 11 * 8)
    blocks = trace_outlines(mask)
    np.testing.assert_array_equal(blocks.indices, whole.indices)
    np.testing.assert_array_equal(blocks.starts, whole.starts)


@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 4, 0), (3, 4, 2)])
def test_nothing_gives_no_polygon(shape):
    outlines = trace_outlines(np.zeros(shape, dtype=bool))
    assert len(outlines) == 0
    assert outlines.indices.shape == (0, 3)
    assert outlines.starts.tolist() == [0]
