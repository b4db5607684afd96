"""Pieces of SVG figures: texts, lines, round ticks. Colours come from classes of the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round numbers that cover low..high, about `count` of them and two at least."""
    span = high - low or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return tuple(round(k * step, 10) for k in range(first, last + 1))


def drawing(width: int, height: int, label: str, parts: Sequence[Markup]) -> Markup:
    """A whole picture; `label` is what a screen reader says."""
    head = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        width, height, label
    )
    return head + Markup("").join(parts) + Markup("</svg>")


def text(x: float, y: float, text: str, *, anchor: str = "middle", style: str = "") -> Markup:
    """A text; `anchor` is start, middle or end."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(
        x, y, anchor, style, text
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line."""
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x1, y1, x2, y2, style
    )
