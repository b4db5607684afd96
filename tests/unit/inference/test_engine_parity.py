"""Agreement of an engine's masks with the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.inference.parity import parity


def test_figures_by_hand():
    reference, found = np.zeros((10, 6), np.int16), np.zeros((10, 6), np.int16)
    reference[:4, :5], found[:4, :5] = 1, 1  # 20 voxels of class 1
    reference[5:7, :5], found[5:7, :4] = 2, 2  # 10 of class 2, 8 found
    found[9, 5] = 2  # one that the reference has not
    result = parity([reference], [found])
    assert result.foreground == 31
    assert result.agreement == pytest.approx(28 / 31)
    assert result.dice_change == pytest.approx(1 - (1 + 2 * 8 / 19) / 2)
    assert not result.passes
    assert "90.322 % of 31 foreground voxels" in result.text


def test_windows_are_pooled():
    a, b = np.ones((2, 3), np.int16), np.zeros((4, 5), np.int16)
    assert parity([a, b], [a, b]).foreground == 6
    assert parity([a, b], [a, b]).passes


def test_nothing_to_judge_by_does_not_pass():
    empty = np.zeros((3, 4, 5), np.int16)
    result = parity([empty], [empty])
    assert (result.foreground, result.agreement, result.passes) == (0, 1.0, False)
    assert "no structure" in result.text


def test_one_voxel_in_a_thousand_passes_and_two_do_not():
    reference = np.ones(1000, np.int16).reshape(40, 25)
    found = reference.copy()
    found[0, 0] = 0
    assert parity([reference], [found]).passes
    found[0, 1] = 0
    result = parity([reference], [found])
    assert not result.passes
    assert "99.800 %" in result.text, "rounded down: never reads like the limit"


def test_a_small_structure_counts_as_much_as_a_large_one():
    reference = np.ones((100, 100), np.int16)
    reference[0, :50] = 2
    found = reference.copy()
    found[0, :2] = 1
    result = parity([reference], [found])
    assert result.agreement > 0.999
    assert result.dice_change > 0.001
    assert not result.passes


@given(
    arrays(np.int16, (5, 7), elements=st.integers(0, 3)), arrays(np.int16, (5, 7), elements=st.integers(0, 3))
)
def test_laws(a, b):
    there, back = parity([a], [b]), parity([b], [a])
    assert there == back
    assert 0 <= there.agreement <= 1
    assert 0 <= there.dice_change <= 1
    assert (there.agreement == 1) == bool((a == b).all())
