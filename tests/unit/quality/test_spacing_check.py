"""The spacing of a volume against that of the training volumes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.quality.options import GateOptions
from medseg.quality.spacing_check import check_spacing

RANGES = {"spacing_finest_mm": (0.5, 1.0), "spacing_coarsest_mm": (1.0, 5.0)}


@pytest.mark.parametrize(
    ("spacing", "texts"),
    [
        ((0.7, 0.8, 3.0), []),
        ((0.34, 1.0, 7.4), []),
        ((0.3, 1.0, 3.0), ["the finest spacing of the image is 0.3 mm, that of training images 0.5 to 1 mm"]),
        ((1.0, 8.0, 1.0), ["the coarsest spacing of the image is 8 mm, that of training images 1 to 5 mm"]),
        ((2.0, 9.0, 2.0), ["finest", "coarsest"]),
        (None, ["the spacing of the image is unknown"]),
    ],
)
@pytest.mark.parametrize(("setting", "level"), [("flag", "review"), ("refuse", "refuse")])
def test_what_lies_outside_is_flagged_or_refused_as_set(spacing, texts, setting, level):
    found = check_spacing(spacing, RANGES, GateOptions(spacing=setting))
    assert len(found) == len(texts)
    for finding, text in zip(found, texts, strict=True):
        assert text in finding.text
        assert (finding.check, finding.level) == ("spacing", level)


def test_nothing_is_said_without_ranges_or_where_it_is_off():
    assert check_spacing((9.0, 9.0, 9.0), {}) == ()
    assert check_spacing((9.0, 9.0, 9.0), RANGES, GateOptions(spacing="off")) == ()


@given(st.permutations([0.3, 1.7, 6.0]))
def test_the_order_of_the_axes_does_not_matter(spacing):
    assert check_spacing(spacing, RANGES) == check_spacing([0.3, 1.7, 6.0], RANGES)
