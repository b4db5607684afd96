"""Figures of the cohort page: where things stand, what is a link, what is one path."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.report.cohort_figures import (
    MAX_LINKED,
    Bar,
    CaseDot,
    Frame,
    bland_altman,
    forest,
    regression,
    strip,
    swarm,
    unit_curve,
)


def _dots(count: int) -> list[CaseDot]:
    return [CaseDot(value=k / count, name=f"case {k}", link=f"#c{k}", across=float(k)) for k in range(count)]


def test_names_are_escaped() -> None:
    figure = strip([CaseDot(value=0.5, name="<i>", link='"><b>')], title="<b>", style="k0", said="<u>")
    assert not re.search(r"<(i|b|u)>", figure)
    assert "&lt;i&gt;" in figure


def test_every_dot_of_a_small_cohort_is_a_link_and_of_a_large_one_those_at_either_end() -> None:
    small = strip(_dots(30), title="a", style="k0", said="")
    assert small.count("<a href=") == 30
    large = strip(_dots(1000), title="a", style="k0", said="")
    assert large.count("<a href=") == MAX_LINKED
    assert large.count("h0") == 1000 - MAX_LINKED
    for end in ("case 0<", "case 999<"):
        assert end in large
    assert "case 500<" not in large
    assert len(large) < 60_000


def test_quartiles_stand_where_the_numbers_are() -> None:
    values = [0.0, 1.0, 2.0, 3.0, 10.0]
    figure = strip([CaseDot(value=v, name="") for v in values], title="a", style="k0", said="")
    frame = Frame(left=14, right=426, top=22, bottom=74, along=(0.0, 2.0, 4.0, 6.0, 8.0, 10.0))
    box = re.search(r'x1="([\d.]+)"[^>]* x2="([\d.]+)"[^>]* class="box"', figure)
    assert box is not None
    assert [float(v) for v in box.groups()] == pytest.approx([frame.x(1.0), frame.x(3.0)], abs=0.06)


@given(st.lists(st.floats(14, 426), max_size=60))
def test_dots_of_a_swarm_stay_in_their_room_and_apart(xs: list[float]) -> None:
    places = swarm(xs, radius=4, room=20)
    assert all(abs(up) <= 20 for up in places)
    column = [up for x, up in zip(xs, places, strict=True) if round(x / 8) == round(xs[0] / 8)] if xs else []
    assert len(set(column[:3])) == len(column[:3])


@pytest.mark.parametrize(("limits", "drawn"), [(None, 0), ((-1.0, 1.0), 2)])
def test_limits_of_agreement_are_drawn_where_they_are_defined(
    limits: tuple[float, float] | None, drawn: int
) -> None:
    figure = bland_altman(_dots(3), title="a", style="k0", said="", axes=("x", "y"), bias=0.25, limits=limits)
    assert figure.count('class="limit"') == drawn


def test_fitted_line_ends_at_the_frame() -> None:
    figure = regression(_dots(5), title="a", style="k0", said="", axes=("x", "y"), line=(1.0, 2.0))
    found = re.search(r'x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)" class="mean"', figure)
    assert found is not None
    x1, y1, x2, y2 = (float(v) for v in found.groups())
    # y = 1 + 2x on equal axes of 268 x 170 pixels.
    assert (y1 - y2) / (x2 - x1) == pytest.approx(2 * 170 / 268, abs=0.02)
    assert 44 <= y2 <= y1 <= 214


def test_forest_and_unit_curve_say_their_numbers() -> None:
    bars = [Bar(name="a group with a long long name", value=0.5, interval=(0.4, 0.6), said="0.5")]
    assert "…" in forest(bars, said="x", zero=True)
    curve = unit_curve(
        [(0.1, 0.2), (1.0, 1.0)], title="t", said="s", axes=("x", "y"), names=["p", "q"], weights=[1, 4]
    )
    radii = [float(r) for r in re.findall(r' r="([\d.]+)"', curve)]
    assert radii == sorted(radii)
    assert np.isclose(radii[0], 2.5 + 4.5 * 0.5, atol=0.06)
