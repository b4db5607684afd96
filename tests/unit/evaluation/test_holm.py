import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.evaluation.holm import holm


def test_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.04, which does not fall below the one before it.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=12))
def test_never_smaller_and_in_the_same_order(values):
    found = holm(values)
    assert all(a >= v for a, v in zip(found, values, strict=True))
    pairs = sorted(zip(values, found, strict=True))
    assert [a for _, a in pairs] == sorted(a for _, a in pairs)
