"""Figures of the cohort page: strips of cases, scatter plots with lines, reliability, intervals side by side.

Each is SVG without any style of its own; a dot is a case and leads to its page. Of a large cohort only the outermost
cases are links, the others are one path, so that a plot of thousands stays small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medseg.report import svg

MAX_LINKED = 240
"""Dots of a plot that are links with a name; beyond, those at either end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDot:
    """A case in a figure.

    Parameters
    ----------
    value : float
        Along the axis of a strip; up in a scatter plot.
    name : str
        Said when pointed at.
    link : str
        "" for none.
    ring : bool
        Whether a ring is drawn around it: a case whose verdict is fail.
    across : float
        Of a scatter plot.
    """

    value: float
    name: str
    link: str = ""
    ring: bool = False
    across: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A plot area in pixels and the marks at its axes, the first and the last at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    along: tuple[float, ...]
    down: tuple[float, ...] = (0.0, 1.0)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return self.left + (self.right - self.left) * (value - self.along[0]) / (
            self.along[-1] - self.along[0]
        )

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return self.bottom - (self.bottom - self.top) * (value - self.down[0]) / (
            self.down[-1] - self.down[0]
        )

    def axes(self, *, across: str, up: str) -> list[Markup]:
        """Grid, numbers and titles of both axes."""
        parts = []
        for mark in self.down:
            parts += [
                svg.line(self.left, self.y(mark), self.right, self.y(mark), "grid"),
                svg.text(self.left - 6, self.y(mark) + 4, _label(mark), anchor="end", style="tick"),
            ]
        for mark in self.along:
            parts.append(svg.text(self.x(mark), self.bottom + 16, _label(mark), style="tick"))
        parts.append(svg.text((self.left + self.right) / 2, self.bottom + 33, across, style="tick"))
        return [*parts, svg.text(self.left - 40, self.top - 12, up, anchor="start", style="tick")]


def _label(mark: float) -> str:
    return f"{mark:g}".replace("-", "−")


def dot_parts(
    dots: Sequence[CaseDot], places: Sequence[tuple[float, float]], style: str, *, radius: float
) -> list[Markup]:
    """Dots at their places; links and names for the outermost `MAX_LINKED` of them by value."""
    order = sorted(range(len(dots)), key=lambda k: dots[k].value)
    if len(order) > MAX_LINKED:
        half = MAX_LINKED // 2
        middle, named = order[half:-half], [*order[:half], *order[-half:]]
    else:
        middle, named = [], order
    path = "".join(f"M{places[k][0]:.0f} {places[k][1]:.0f}h0" for k in middle)
    parts = [Markup('<path class="many {}" d="{}"/>').format(style, path)] if middle else []
    return parts + [_circle(dots[k], places[k], radius, style) for k in sorted(named)]


def _circle(dot: CaseDot, place: tuple[float, float], radius: float, style: str) -> Markup:
    circle = Markup(
        '<circle cx="{:.1f}" cy="{:.1f}" r="{:g}" class="dot {}{}"><title>{}</title></circle>'
    ).format(*place, radius, style, " ring" if dot.ring else "", dot.name)
    return Markup('<a href="{}">{}</a>').format(dot.link, circle) if dot.link else circle


def dot_radius(count: int) -> float:
    """Radius of dots in pixels: it falls with their number."""
    return 4.0 if count <= 60 else 3.0 if count <= MAX_LINKED else 2.0


def fitting_radius(xs: Sequence[float], *, room: float) -> float:
    """Radius with which the dots of no column of a swarm lie over each other, if that leaves them large enough."""
    radius = dot_radius(len(xs))
    columns = np.round(np.asarray(xs, dtype=np.float64) / (2 * radius)).astype(int)
    most = int(np.bincount(columns - columns.min()).max())
    return min(radius, 3.0) if most > 2 * int(room // (2 * radius)) + 1 else radius


def swarm(xs: Sequence[float], *, radius: float, room: float) -> list[float]:
    """How far each dot lies off the middle line, so that dots side by side do not hide each other.

    Dots of one column of pixels are stacked up and down in turn, at most `room` away; more lie over each other.
    """
    levels = max(int(room // (2 * radius)), 1)
    stacks: dict[int, int] = {}
    found = []
    for x in xs:
        column = round(x / (2 * radius))
        index = stacks.get(column, 0)
        stacks[column] = index + 1
        level = ((index + 1) // 2) % (levels + 1)
        found.append(2 * radius * level * (1 if index % 2 else -1))
    return found


def strip(
    dots: Sequence[CaseDot],
    *,
    title: str,
    style: str,
    said: str,
    best: float | None = None,
    mean: float | None = None,
    interval: Sequence[float] | None = None,
    required: float | None = None,
) -> Markup:
    """One row of dots over its axis, with the quartiles below: a box from 25 to 75 %, a stroke at the median.

    Parameters
    ----------
    dots : sequence of CaseDot
        One at least.
    title, style : str
        Name of the structure, and class of its colour.
    said : str
        What a screen reader says.
    best : float or None
        Value that ends the axis, such as 1 for Dice.
    mean, interval : float, (float, float)
        Drawn instead of the box where given: the mean and its interval.
    required : float or None
        Drawn dashed.
    """
    values = np.array([dot.value for dot in dots], dtype=np.float64)
    ends = [float(values.min()), float(values.max()), *([required] if required is not None else [])]
    low, high = min(ends), max(ends)
    marks = svg.ticks(low, high) if best is None else svg.ticks(min(low, best - 0.02), best)
    frame = Frame(left=14, right=426, top=22, bottom=74, along=marks)
    middle = (frame.top + frame.bottom) / 2 - 4
    xs = [frame.x(dot.value) for dot in dots]
    radius = fitting_radius(xs, room=20)
    ups = swarm(xs, radius=radius, room=20)
    parts = [svg.text(frame.left - 10, 12, title, anchor="start", style="name")]
    for mark in marks:
        parts += [
            svg.line(frame.x(mark), frame.top, frame.x(mark), frame.bottom, "grid"),
            svg.text(frame.x(mark), frame.bottom + 24, _label(mark), style="tick"),
        ]
    if required is not None:
        parts.append(svg.line(frame.x(required), frame.top, frame.x(required), frame.bottom, "limit"))
    parts += dot_parts(dots, [(x, middle - up) for x, up in zip(xs, ups, strict=True)], style, radius=radius)
    return svg.drawing(440, 102, said, [*parts, *_summary(values, frame, mean=mean, interval=interval)])


def _summary(
    values: NDArray[np.float64], frame: Frame, *, mean: float | None, interval: Sequence[float] | None
) -> list[Markup]:
    """Mean with interval, or quartiles, at the foot of a strip."""
    y = frame.bottom + 4
    if mean is not None:
        low, high = interval or (mean, mean)
        return [
            svg.line(frame.x(low), y, frame.x(high), y, "interval"),
            svg.line(frame.x(mean), y - 5, frame.x(mean), y + 5, "mean"),
        ]
    if len(values) < 4:
        return []
    first, median, third = (float(v) for v in np.percentile(values, [25, 50, 75]))
    return [
        svg.line(frame.x(first), y, frame.x(third), y, "box"),
        svg.line(frame.x(median), y - 5, frame.x(median), y + 5, "mean"),
    ]


def bland_altman(
    dots: Sequence[CaseDot],
    *,
    title: str,
    style: str,
    said: str,
    axes: tuple[str, str],
    bias: float,
    limits: tuple[float, float] | None,
) -> Markup:
    """Difference over mean size, with bias and limits of agreement (Bland and Altman, Lancet 1986;1:307).

    Parameters
    ----------
    dots : sequence of CaseDot
        `value` is predicted minus reference, `across` their mean.
    axes : (str, str)
        Titles across and up.
    bias : float
    limits : (float, float) or None
        None where they are not defined.
    """
    ys = [dot.value for dot in dots] + [0.0, bias, *(limits or ())]
    xs = [dot.across for dot in dots]
    frame = _frame(svg.ticks(min(xs), max(xs), 3), svg.ticks(min(ys), max(ys), 4))
    parts = [_title(title), *frame.axes(across=axes[0], up=axes[1])]
    parts.append(svg.line(frame.left, frame.y(0), frame.right, frame.y(0), "zero"))
    for limit in limits or ():
        parts.append(svg.line(frame.left, frame.y(limit), frame.right, frame.y(limit), "limit"))
    parts.append(svg.line(frame.left, frame.y(bias), frame.right, frame.y(bias), "mean"))
    return _scatter(dots, frame, parts, style, said)


def regression(
    dots: Sequence[CaseDot],
    *,
    title: str,
    style: str,
    said: str,
    axes: tuple[str, str],
    line: tuple[float, float] | None,
) -> Markup:
    """Predicted over reference size with the line of identity and, where given, a fitted line.

    Parameters
    ----------
    dots : sequence of CaseDot
        `value` is the predicted, `across` the reference size.
    line : (float, float) or None
        Intercept and slope.
    """
    both = [dot.value for dot in dots] + [dot.across for dot in dots]
    marks = svg.ticks(min(both), max(both), 4)
    frame = _frame(marks, marks)
    parts = [_title(title), *frame.axes(across=axes[0], up=axes[1])]
    corners = [(frame.x(v), frame.y(v)) for v in (marks[0], marks[-1])]
    parts.append(svg.line(*corners[0], *corners[1], "limit"))
    if line is not None:
        parts += _fitted(line, frame)
    return _scatter(dots, frame, parts, style, said)


def _fitted(line: tuple[float, float], frame: Frame) -> list[Markup]:
    """The part of a line that lies in the frame."""
    intercept, slope = line
    low, high = frame.along[0], frame.along[-1]
    ends = [low, high]
    if abs(slope) > 1e-12:
        ends += [(edge - intercept) / slope for edge in (frame.down[0], frame.down[-1])]
    inside = [
        x
        for x in sorted(ends)
        if low - 1e-9 <= x <= high + 1e-9
        and frame.down[0] - 1e-6 <= intercept + slope * x <= frame.down[-1] + 1e-6
    ]
    if len(inside) < 2:
        return []
    first, last = inside[0], inside[-1]
    start = frame.x(first), frame.y(intercept + slope * first)
    end = frame.x(last), frame.y(intercept + slope * last)
    return [svg.line(*start, *end, "mean")]


def _frame(along: tuple[float, ...], down: tuple[float, ...]) -> Frame:
    return Frame(left=54, right=322, top=44, bottom=214, along=along, down=down)


def _title(text: str) -> Markup:
    return svg.text(14, 14, text, anchor="start", style="name")


def _scatter(dots: Sequence[CaseDot], frame: Frame, parts: list[Markup], style: str, said: str) -> Markup:
    places = [(frame.x(dot.across), frame.y(dot.value)) for dot in dots]
    return svg.drawing(
        336, 254, said, [*parts, *dot_parts(dots, places, style, radius=dot_radius(len(dots)))]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A number with its interval in a row of a forest plot; `mark` is drawn filled."""

    name: str
    value: float
    interval: tuple[float, float] | None
    said: str
    mark: bool = False


def forest(
    bars: Sequence[Bar], *, said: str, zero: bool = False, title: str = "", style: str = "acc"
) -> Markup:
    """Numbers with intervals one below the other; `zero` draws the line of no difference."""
    ends = [v for bar in bars for v in (bar.value, *(bar.interval or ()))] + ([0.0] if zero else [])
    top = 26 if title else 10
    frame = Frame(
        left=150, right=430, top=top, bottom=top + 24 * len(bars), along=svg.ticks(min(ends), max(ends), 4)
    )
    parts = [_title(title)] if title else []
    for mark in frame.along:
        parts += [
            svg.line(frame.x(mark), frame.top, frame.x(mark), frame.bottom, "grid"),
            svg.text(frame.x(mark), frame.bottom + 16, _label(mark), style="tick"),
        ]
    if zero:
        parts.append(svg.line(frame.x(0), frame.top, frame.x(0), frame.bottom, "zero"))
    for index, bar in enumerate(bars):
        y = frame.top + 24 * (index + 0.5)
        parts.append(svg.text(frame.left - 12, y + 4, _short(bar.name), anchor="end", style="name"))
        if bar.interval is not None:
            parts.append(svg.line(frame.x(bar.interval[0]), y, frame.x(bar.interval[1]), y, "interval"))
        parts.append(
            Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="5" class="dot {}{}"><title>{}</title></circle>'
            ).format(frame.x(bar.value), y, style, " ring" if bar.mark else "", bar.said)
        )
    return svg.drawing(440, math.ceil(frame.bottom + 26), said, parts)


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def unit_curve(
    points: Sequence[tuple[float, float]],
    *,
    title: str,
    said: str,
    axes: tuple[str, str],
    names: Sequence[str],
    diagonal: bool = False,
    weights: Sequence[float] = (),
    style: str = "acc",
) -> Markup:
    """A curve in the unit square through (across, up); point sizes follow `weights` where given.

    Parameters
    ----------
    points : sequence of (float, float)
    names : sequence of str
        One for each point, said when pointed at.
    diagonal : bool
        Whether the line of equality is drawn.
    """
    marks = (0.0, 0.25, 0.5, 0.75, 1.0)
    frame = _frame(marks, marks)
    parts = [_title(title), *frame.axes(across=axes[0], up=axes[1])]
    if diagonal:
        parts.append(svg.line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "limit"))
    line = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    parts.append(Markup('<polyline points="{}" class="curve {}"/>').format(line, style))
    most = max(weights, default=1.0) or 1.0
    for index, (x, y) in enumerate(points):
        radius = 2.5 + 4.5 * math.sqrt(weights[index] / most) if weights else 3.5
        parts.append(
            Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="dot {}"><title>{}</title></circle>'
            ).format(frame.x(x), frame.y(y), radius, style, names[index])
        )
    return svg.drawing(336, 254, said, parts)


def share_bar(parts: Sequence[tuple[str, int]], total: int, said: str) -> Markup:
    """Counts of one total as a bar of 120 pixels; each part has the class of its level."""
    at, drawn = 0.0, []
    for style, count in parts:
        width = 120 * count / max(total, 1)
        if count:
            drawn.append(
                Markup('<rect x="{:.1f}" y="0" width="{:.1f}" height="10" class="bar-{}"/>').format(
                    at, max(width, 1.0), style
                )
            )
        at += width
    frame = Markup('<rect x="0" y="0" width="120" height="10" class="bar-rest"/>')
    head = Markup('<svg class="share" viewBox="0 0 120 10" role="img" aria-label="{}">').format(said)
    return head + frame + Markup("").join(drawn) + Markup("</svg>")
