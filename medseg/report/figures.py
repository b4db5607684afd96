"""Small SVG figures: curves of a training. Colours come from classes of the style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from medseg.report import svg


def curve(
    rows: Sequence[Mapping[str, float | None]], *, column: str, title: str, style: str
) -> Markup | None:
    """A column of the training's metrics over epochs; None where it has no value."""
    return curves({"": rows}, column=column, title=title, style=style)


def curves(
    series: Mapping[str, Sequence[Mapping[str, float | None]]],
    *,
    column: str,
    title: str,
    style: str,
    epoch: str = "epoch",
    said: str = "{title} over epochs, last {ends}",
) -> Markup | None:
    """A column of the metrics of several trainings over epochs, each with its name at its end.

    Parameters
    ----------
    series : mapping of str to sequence of mapping
        Name -> rows with `epoch` and the column; "" for no name.
    column, title, style : str
    epoch, said : str, optional
        Name of the axis, and what the figure says, in the language of the page.

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
        svg.text((left + right) / 2, bottom + 16, epoch, style="tick"),
    ]
    ends = ", ".join(f"{name} {points[-1][1]:.4g}".strip() for name, points in lines.items())
    return svg.drawing(334, 160, said.format(title=title, ends=ends), parts)


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
