"""Figures of a stress test: a metric over the severity of one corruption, with what the gate told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medseg.report import svg

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00")
"""Of the structures; Okabe and Ito, Color Universal Design, 2008."""
STYLE = (
    "".join(f".s{index}{{--c:{colour}}}" for index, colour in enumerate(COLOURS))
    + ".plot .band{fill:var(--c);fill-opacity:.16;stroke:none}"
    ".plot .told{fill:none;stroke:var(--mut);stroke-width:1.5;stroke-dasharray:3 4}"
    ".keys span{margin-right:16px}td.n small{display:block}"
)
Place = Callable[[float], float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 322, 26, 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A metric of one structure over severity; gaps where it is not defined.

    Parameters
    ----------
    name : str
    style : str
        Class of its colour.
    points : sequence of (severity, mean, low, high)
    """

    name: str
    style: str
    points: Sequence[tuple[float, float, float, float]]


def panel(
    curves: Sequence[Curve], *, title: str, told: Sequence[tuple[float, float]], limits: tuple[float, float]
) -> Markup:
    """Curves of all structures under one test.

    Parameters
    ----------
    curves : sequence of Curve
    title : str
    told : sequence of (severity, share)
        Share of the cases that the gate flagged or refused, 0..1.
    limits : (float, float)
        Lowest and highest value of all panels, so that they can be compared.
    """
    marks = svg.ticks(*limits, 4)
    last = max([s for s, _ in told] + [s for c in curves for s, *_ in c.points] + [1.0])

    def x(severity: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * severity / last

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - marks[0]) / (marks[-1] - marks[0])

    parts = [svg.text(_LEFT, 14, title, anchor="start", style="name")]
    for mark in marks:
        parts += [
            svg.line(_LEFT, y(mark), _RIGHT, y(mark), "grid"),
            svg.text(_LEFT - 6, y(mark) + 4, f"{mark:g}", anchor="end", style="tick"),
        ]
    for severity in range(int(last) + 1):
        parts.append(svg.text(x(severity), _BOTTOM + 16, str(severity), style="tick"))
    along = " ".join(f"{x(s):.1f},{_BOTTOM - (_BOTTOM - _TOP) * share:.1f}" for s, share in told)
    parts.append(Markup('<polyline points="{}" class="told"/>').format(along))
    for curve in curves:
        parts += _curve(curve, x, y)
    return svg.drawing(334, _BOTTOM + 24, title, parts)


def _curve(curve: Curve, x: Place, y: Place) -> list[Markup]:
    there = [f"{x(s):.1f},{y(high):.1f}" for s, _, _, high in curve.points]
    back = [f"{x(s):.1f},{y(low):.1f}" for s, _, low, _ in reversed(curve.points)]
    line = " ".join(f"{x(s):.1f},{y(mean):.1f}" for s, mean, _, _ in curve.points)
    dots = [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" class="dot {}"><title>{}</title></circle>').format(
            x(s), y(mean), curve.style, f"{curve.name}, {s:g}: {mean:.3f}"
        )
        for s, mean, _, _ in curve.points
    ]
    return [
        Markup('<polygon points="{}" class="band {}"/>').format(" ".join(there + back), curve.style),
        Markup('<polyline points="{}" class="curve {}"/>').format(line, curve.style),
        *dots,
    ]
