from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medseg.io import polygon_fill
from medseg.io.polygon_fill import (
    SlicePolygons,
    count_crossings,
    fill_polygons,
    slices_with_partial_overlap,
)

SHAPE = (9, 7, 3)


def polygons(*found: tuple[int, list[tuple[float, float]]]) -> SlicePolygons:
    """From pairs of slice and points."""
    points = [np.array(points, dtype=float).reshape(-1, 2) for _, points in found]
    return SlicePolygons(
        points=np.concatenate([np.zeros((0, 2)), *points]),
        starts=np.cumsum([0, *(len(p) for p in points)]),
        slices=np.array([k for k, _ in found], dtype=np.int64),
    )


def box(a: float, b: float, c: float, d: float) -> list[tuple[float, float]]:
    return [(a, b), (c, b), (c, d), (a, d)]


def filled(found: SlicePolygons, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    result = fill_polygons(found, shape)
    mask[result.slices] = result.mask
    return mask


def ray_cast(found: SlicePolygons, shape: tuple[int, int, int]) -> np.ndarray:
    """Voxel by voxel and edge by edge: crossings of the row at or before the centre."""
    mask = np.zeros(shape, dtype=bool)
    for p, k in enumerate(found.slices):
        ends = np.roll(found[p], -1, axis=0)
        for (x0, y0), (x1, y1) in zip(found[p], ends, strict=True):
            for i, j in np.ndindex(shape[:2]):
                if (y0 <= j) != (y1 <= j) and round(x0 + (j - y0) * (x1 - x0) / (y1 - y0), 6) <= i:
                    mask[i, j, k] ^= True
    return mask


def test_triangle():
    mask = filled(polygons((1, [(0.5, 0.5), (6.5, 0.5), (0.5, 6.5)])))
    assert [row.sum() for row in mask[:, :, 1].T] == [0, 5, 4, 3, 2, 1, 0]
    assert not mask[:, :, [0, 2]].any()


def test_centres_on_the_left_and_upper_edges_belong_to_the_polygon():
    mask = filled(polygons((0, box(2, 1, 5, 4))))
    assert np.argwhere(mask[:, :, 0]).min(axis=0).tolist() == [2, 1]
    assert np.argwhere(mask[:, :, 0]).max(axis=0).tolist() == [4, 3]


def test_contour_in_a_contour_is_a_hole_and_in_it_an_island():
    mask = filled(
        polygons((0, box(-0.5, -0.5, 6.5, 6.5)), (0, box(0.5, 0.5, 5.5, 5.5)), (0, box(2.5, 2.5, 3.5, 3.5)))
    )
    assert mask.sum() == 49 - 25 + 1


def test_points_beyond_the_grid_are_cut():
    mask = filled(polygons((2, box(-1e5, -40, 1e5, 2.5))))
    assert mask[:, :3, 2].all()
    assert mask.sum() == 9 * 3
    assert not filled(polygons((2, box(-30, -30, -20, 40)), (1, box(20, 20, 30, 40)))).any()


def test_nothing_fills_nothing():
    assert not filled(polygons()).any()


points = st.tuples(st.floats(-4, 12), st.floats(-4, 12))
whole = st.tuples(st.integers(-3, 10), st.integers(-3, 10))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(points | whole, min_size=1, max_size=7)), max_size=5))
def test_any_polygons_by_ray_casting(found):
    found = polygons(*found)
    np.testing.assert_array_equal(filled(found), ray_cast(found, SHAPE))
    assert count_crossings(found, SHAPE).shape == (3,)


def test_slices_in_several_passes(monkeypatch):
    found = polygons(*((k % 3, box(-0.5, -0.5, k % 5 + 0.5, k % 4 + 0.5)) for k in range(12)))
    once = filled(found)
    monkeypatch.setattr(polygon_fill, "_CROSSINGS_AT_ONCE", 3)
    np.testing.assert_array_equal(filled(found), once)
    np.testing.assert_array_equal(once, ray_cast(found, SHAPE))


@pytest.mark.parametrize(
    ("boxes", "overlap"),
    [
        ([box(-0.5, -0.5, 4.5, 4.5), box(4.5, -0.5, 8.5, 4.5)], False),
        ([box(-0.5, -0.5, 4.5, 4.5), box(3.5, -0.5, 8.5, 4.5)], True),
        ([box(-0.5, -0.5, 4.5, 4.5), box(-0.5, -0.5, 2.5, 4.5)], False),
        ([box(-0.5, -0.5, 4.5, 4.5), box(2.5, 0.5, 4.5, 2.5)], False),
        ([box(-0.5, -0.5, 4.5, 4.5)] * 3, False),
        ([box(-0.5, 1.5, 4.5, 2.5), box(-0.5, -0.5, 4.5, 4.5)], False),
        ([box(-0.5, -0.5, 6.5, 6.5), box(0.5, 0.5, 3.5, 3.5), box(1.5, 1.5, 4.5, 4.5)], True),
        ([box(-0.5, 1.5, 6.5, 2.5), box(1.5, -0.5, 2.5, 6.5)], True),
    ],
)
def test_partial_overlap(boxes, overlap):
    found = polygons(*((1, corners) for corners in boxes), (2, boxes[0]), (0, boxes[-1]))
    assert slices_with_partial_overlap(found, SHAPE).tolist() == ([1] if overlap else [])


def test_a_polygon_that_crosses_itself_holds_what_lies_across_the_crossing():
    crossing = [(0, 6), (1, 0), (-1, 6), (3, 4)]
    found = polygons((1, [(0, 3), (0, 5), (2, 6)]), (1, crossing))
    assert slices_with_partial_overlap(found, SHAPE).tolist() == []


@settings(max_examples=40, deadline=None)
@example([[(0, 0), (0, 0), (0, 0)], [(0, 3), (0, 5), (2, 6)], [(0, 6), (1, 0), (-1, 6), (3, 4)]])
@given(st.lists(st.lists(whole, min_size=3, max_size=5), min_size=2, max_size=4))
def test_partial_overlap_pair_by_pair(corners):
    found = polygons(*((1, c) for c in corners))
    masks = [filled(polygons((1, c))) for c in corners]
    pairs = [(a, b) for n, a in enumerate(masks) for b in masks[:n]]
    expected = any((a & b).any() and (a & ~b).any() and (b & ~a).any() for a, b in pairs)
    assert (len(slices_with_partial_overlap(found, SHAPE)) > 0) == expected
