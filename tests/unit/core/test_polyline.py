"""Lines with fewer points."""

from __future__ import annotations

import numpy as np
import pytest

from medseg import polyline
from medseg.polyline import simplify


def test_a_point_beside_the_line_stays_where_it_is_further_than_the_tolerance():
    line = np.array([(0.0, 0.0), (1.0, 0.3), (2.0, 0.0), (3.0, -0.1), (4.0, 0.0)])
    np.testing.assert_array_equal(simplify(line, 0.2), line[[0, 1, 4]])
    np.testing.assert_array_equal(simplify(line, 0.5), line[[0, 4]])


def test_of_a_closed_line_the_point_furthest_from_its_start_stays():
    square = np.array([(0.0, 0.0), (4.0, 0.0), (4.0, 3.0), (0.0, 3.0), (0.0, 0.0)])
    np.testing.assert_array_equal(simplify(square, 0.1), square)
    np.testing.assert_array_equal(simplify(square, 2.5), square[[0, 2, 4]])


@pytest.mark.parametrize("few", [0, 7, 10_000])
def test_points_are_looked_at_one_by_one_or_together_with_the_same_result(monkeypatch, few):
    walk = np.random.default_rng(1).normal(size=(600, 2)).cumsum(axis=0)
    walk[-1] = walk[0]
    expected = simplify(walk, 0.4)
    assert 20 < len(expected) < 590
    monkeypatch.setattr(polyline, "_FEW", few)
    np.testing.assert_array_equal(simplify(walk, 0.4), expected)
