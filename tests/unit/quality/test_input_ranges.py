"""Ranges of the training grids that a bundle tells."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.quality.input_ranges import fit_input_ranges, grid_measures

SHAPE, SPACING = (20, 30, 10), (1.0, 0.5, 4.0)


def test_measures_of_a_grid_by_hand() -> None:
    assert grid_measures(SHAPE, SPACING) == {
        "spacing_finest_mm": 0.5,
        "spacing_coarsest_mm": 4.0,
        "side_shortest_mm": 15.0,
        "side_longest_mm": 40.0,
    }


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_axes_does_not_matter(order: tuple[int, ...]) -> None:
    turned = grid_measures([SHAPE[a] for a in order], [SPACING[a] for a in order])
    assert turned == grid_measures(SHAPE, SPACING)


@given(st.lists(st.tuples(st.integers(1, 90), st.floats(0.1, 9)), min_size=1, max_size=6))
def test_every_training_image_lies_within_the_ranges(grids: list[tuple[int, float]]) -> None:
    images = [((n, n + 3), (step, 2 * step)) for n, step in grids]
    ranges = fit_input_ranges(images)
    for shape, spacing in images:
        for name, value in grid_measures(shape, spacing).items():
            assert ranges[name][0] <= value <= ranges[name][1]


def test_images_without_a_spacing_are_left_out() -> None:
    assert fit_input_ranges([(SHAPE, None), (SHAPE, SPACING)]) == fit_input_ranges([(SHAPE, SPACING)])
    assert fit_input_ranges([(SHAPE, None)]) == {}
