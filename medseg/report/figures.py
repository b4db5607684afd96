"""Small SVG figures: strip plot, Bland-Altman plot, curves. Colours come from classes of the style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from medseg.report import svg


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A case in a figure: value, name shown when pointed at, and link target ("" for none)."""

    value: float
    name: str
    link: str = ""
    across: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One row of a strip plot: a structure, its dots, its mean and the interval of the mean."""

    name: str
    style: str
    dots: Sequence[Dot]
    mean: float | None = None
    interval: tuple[float, float] | None = None
    required: float | None = None


def _dot(x: float, y: float, dot: Dot, style: str) -> Markup:
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" class="dot {}"><title>{}</title></circle>').format(
        x, y, style, dot.name
    )
    return Markup('<a href="#{}">{}</a>').format(dot.link, circle) if dot.link else circle


def strip_plot(strips: Sequence[Strip], *, title: str, best: float = 1.0) -> Markup:
    """One row per structure; a dot is a case, the bar the mean with its interval.

    Parameters
    ----------
    strips : sequence of Strip
        Those without dots are said to have none.
    title : str
        Name of the measure.
    best : float
        Value that ends the axis, such as 1 for Dice.
    """
    lowest = min((d.value for s in strips for d in s.dots), default=0.0)
    marks = svg.ticks(min(lowest, *(s.required for s in strips if s.required is not None), best - 0.1), best)
    left, right, row, top = 118, 690, 58, 8
    bottom = top + row * len(strips)

    def x(value: float) -> float:
        return left + (right - left) * (value - marks[0]) / (marks[-1] - marks[0])

    parts = []
    for mark in marks:
        parts += [
            svg.line(x(mark), top, x(mark), bottom, "grid"),
            svg.text(x(mark), bottom + 16, f"{mark:g}", style="tick"),
        ]
    for index, strip in enumerate(strips):
        middle = top + row * (index + 0.5)
        parts.append(
            svg.text(left - 12, middle + 4, strip.name.replace("_", " "), anchor="end", style="name")
        )
        if index:
            parts.append(svg.line(left, top + row * index, right, top + row * index, "grid"))
        if strip.required is not None:
            parts.append(svg.line(x(strip.required), middle - 22, x(strip.required), middle + 22, "limit"))
        if not strip.dots:
            parts.append(svg.text(left + 10, middle + 4, "no case has a value", anchor="start", style="tick"))
        places = _swarm([x(d.value) for d in strip.dots])
        for dot, up in zip(strip.dots, places, strict=True):
            parts.append(_dot(x(dot.value), middle - 4 - up, dot, strip.style))
        if strip.mean is not None:
            low, high = strip.interval or (strip.mean, strip.mean)
            parts.append(svg.line(x(low), middle + 15, x(high), middle + 15, "interval"))
            parts.append(svg.line(x(strip.mean), middle + 9, x(strip.mean), middle + 21, "mean"))
    return svg.drawing(710, bottom + 24, f"{title} of each case by structure", parts)


def _swarm(xs: Sequence[float]) -> list[float]:
    """Height of each dot so that dots side by side do not hide each other, 0..16; more are drawn over each other."""
    taken: list[tuple[float, float]] = []
    for x in xs:
        up = next(
            (u for u in (0.0, 8.0, 16.0) if all(abs(x - a) > 7 or abs(u - b) > 6 for a, b in taken)),
            4.0,
        )
        taken.append((x, up))
    return [up for _, up in taken]


def bland_altman(dots: Sequence[Dot], *, title: str, style: str, unit: str) -> Markup:
    """Difference (value) over mean size (across) with the mean difference and its limits of agreement.

    Limits are mean ± 1.96 SD, drawn for three dots or more (Bland and Altman, Lancet 1986;1:307).
    """
    values = np.array([d.value for d in dots], dtype=np.float64)
    mean = float(values.mean())
    spread = 1.96 * float(values.std(ddof=1)) if len(values) > 2 else None
    edges = [*values.tolist(), 0.0, *([mean - spread, mean + spread] if spread is not None else [])]
    down = svg.ticks(min(edges), max(edges), 4)
    along = svg.ticks(min(d.across for d in dots), max(d.across for d in dots), 3)
    left, right, top, bottom = 52, 322, 26, 176

    def x(value: float) -> float:
        return left + (right - left) * (value - along[0]) / (along[-1] - along[0])

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - down[0]) / (down[-1] - down[0])

    parts = [svg.text(left, 14, title.replace("_", " "), anchor="start", style="name")]
    for mark in down:
        parts += [
            svg.line(left, y(mark), right, y(mark), "grid"),
            svg.text(left - 6, y(mark) + 4, f"{mark:g}", anchor="end", style="tick"),
        ]
    parts += [svg.text(x(mark), bottom + 16, f"{mark:g}", style="tick") for mark in along]
    parts.append(svg.line(left, y(0), right, y(0), "zero"))
    parts.append(svg.line(left, y(mean), right, y(mean), "mean"))
    if spread is not None:
        parts += [svg.line(left, y(v), right, y(v), "limit") for v in (mean - spread, mean + spread)]
    parts += [_dot(x(d.across), y(d.value), d, style) for d in dots]
    parts.append(svg.text((left + right) / 2, bottom + 33, f"mean of both, {unit}", style="tick"))
    said = f"{title}: predicted minus reference, mean {mean:.2f} {unit}"
    return svg.drawing(334, 214, said, parts)


def curve(
    rows: Sequence[Mapping[str, float | None]], *, column: str, title: str, style: str
) -> Markup | None:
    """A column of the training's metrics over epochs; None where it has no value."""
    return curves({"": rows}, column=column, title=title, style=style)


def curves(
    series: Mapping[str, Sequence[Mapping[str, float | None]]], *, column: str, title: str, style: str
) -> Markup | None:
    """A column of the metrics of several trainings over epochs, each with its name at its end.

    Parameters
    ----------
    series : mapping of str to sequence of mapping
        Name -> rows with `epoch` and the column; "" for no name.
    column, title, style : str

    Returns
    -------
    Markup or None
        None where no row has a value.
    """
    lines = {name: points for name, rows in series.items() if (points := _points(rows, column))}
    if not lines:
        return None
    values = [v for points in lines.values() for _, v in points]
    down = svg.ticks(min(values), max(values), 3)
    first = min(points[0][0] for points in lines.values())
    last = max(first + 1, *(points[-1][0] for points in lines.values()))
    left, right, top, bottom = 46, 322, 26, 136

    def place(epoch: float, value: float) -> tuple[float, float]:
        return (
            left + (right - left) * (epoch - first) / (last - first),
            bottom - (bottom - top) * (value - down[0]) / (down[-1] - down[0]),
        )

    parts = [svg.text(left, 14, title, anchor="start", style="name")]
    for mark in down:
        height = place(first, mark)[1]
        parts += [
            svg.line(left, height, right, height, "grid"),
            svg.text(left - 6, height + 4, f"{mark:g}", anchor="end", style="tick"),
        ]
    for name, points in lines.items():
        parts += _drawn_line([place(*point) for point in points], name=name, style=style)
    parts += [
        svg.text(left, bottom + 16, f"{first:g}", style="tick"),
        svg.text(right, bottom + 16, f"{last:g}", style="tick"),
        svg.text((left + right) / 2, bottom + 16, "epoch", style="tick"),
    ]
    ends = ", ".join(f"{name} {points[-1][1]:.4g}".strip() for name, points in lines.items())
    return svg.drawing(334, 160, f"{title} over epochs, last {ends}", parts)


def _points(rows: Sequence[Mapping[str, float | None]], column: str) -> list[tuple[float, float]]:
    return [
        (float(row["epoch"] or 0), float(value))
        for row in rows
        if (value := row.get(column)) is not None and math.isfinite(value)
    ]


def _drawn_line(places: Sequence[tuple[float, float]], *, name: str, style: str) -> list[Markup]:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    said = Markup("<title>{}</title>").format(name) if name else ""
    return [
        Markup('<polyline points="{}" class="curve {}">{}</polyline>').format(line, style, said),
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.5" class="dot {}">{}</circle>').format(
            *places[-1], style, said
        ),
    ]
