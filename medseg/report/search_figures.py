"""Figures of a search for settings: the best value over the trials, and the value over each setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from medseg.report import svg

_MAX_NAME = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialMark:
    """A trial in a figure.

    Parameters
    ----------
    number : int
    value : float
        The metric; of a trial that was ended early the last one.
    complete : bool
        Whether it ran to its end; the others are drawn hollow.
    best : bool
    name : str
        Shown when pointed at.
    raw : mapping
        Setting -> number or text of a choice.
    """

    number: int
    value: float
    complete: bool
    best: bool
    name: str
    raw: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def style(self) -> str:
        """Class of its dot."""
        return "best" if self.best else "trial" if self.complete else "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The setting of a panel: its key, its labels where it is a choice, whether factors count."""

    key: str
    title: str
    labels: tuple[str, ...] = ()
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A plot area and the values at its edges."""

    left: int
    right: int
    top: int
    bottom: int
    down: tuple[float, ...]

    def y(self, value: float) -> float:
        share = (value - self.down[0]) / (self.down[-1] - self.down[0])
        return self.bottom - (self.bottom - self.top) * share

    def grid(self) -> list[Markup]:
        parts = []
        for mark in self.down:
            parts += [
                svg.line(self.left, self.y(mark), self.right, self.y(mark), "grid"),
                svg.text(self.left - 6, self.y(mark) + 4, f"{mark:g}", anchor="end", style="tick"),
            ]
        return parts


def history(marks: Sequence[TrialMark], *, metric: str, higher_is_better: bool) -> Markup | None:
    """Value of each trial by its number, and the best so far as steps; None without a value."""
    if not marks:
        return None
    values = [mark.value for mark in marks]
    frame = _Frame(left=56, right=690, top=12, bottom=172, down=svg.ticks(min(values), max(values), 4))
    last = max(max(mark.number for mark in marks), 1)

    def x(number: float) -> float:
        return frame.left + 12 + (frame.right - frame.left - 24) * number / last

    steps = _best_so_far(marks, higher_is_better=higher_is_better)
    points = []
    for index, (number, value) in enumerate(steps):
        end = steps[index + 1][0] if index + 1 < len(steps) else last
        points += [(x(number), frame.y(value)), (x(end), frame.y(value))]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts = [*frame.grid(), Markup('<polyline points="{}" class="curve best"/>').format(line)]
    parts += [_dot(x(mark.number), frame.y(mark.value), mark) for mark in marks]
    for number in _numbers(last):
        parts.append(svg.text(x(number), frame.bottom + 16, str(number), style="tick"))
    parts.append(svg.text((frame.left + frame.right) / 2, frame.bottom + 33, "trial", style="tick"))
    said = f"{metric} of {len(marks)} trials, best {steps[-1][1]:.4g}" if steps else f"{metric} of the trials"
    return svg.drawing(710, 210, said, parts)


def panel(marks: Sequence[TrialMark], axis: Axis, *, metric: str) -> Markup | None:
    """Value of each trial over one setting; None where no trial has both."""
    shown = [mark for mark in marks if axis.key in mark.raw]
    if not shown:
        return None
    values = [mark.value for mark in shown]
    frame = _Frame(left=52, right=322, top=26, bottom=146, down=svg.ticks(min(values), max(values), 3))
    parts = [svg.text(frame.left, 14, axis.title, anchor="start", style="name"), *frame.grid()]
    place, under = _choices(axis, frame) if axis.labels else _numeric(shown, axis, frame)
    parts += under
    parts += [_dot(place(mark.raw[axis.key]), frame.y(mark.value), mark) for mark in shown]
    height = frame.bottom + (30 if not axis.labels else 14 + 14 * min(len(axis.labels), 8))
    return svg.drawing(334, height, f"{metric} over {axis.title}", parts)


Place = Callable[[float | int | str], float]


def _numeric(marks: Sequence[TrialMark], axis: Axis, frame: _Frame) -> tuple[Place, list[Markup]]:
    """Where a number stands, and the numbers under the plot."""
    numbers = [float(mark.raw[axis.key]) for mark in marks]
    scale = math.log10 if axis.log else float
    if axis.log:
        low, high = math.floor(scale(min(numbers)) + 1e-9), math.ceil(scale(max(numbers)) - 1e-9)
        high = max(high, low + 1)
        along = [10.0**power for power in range(low, high + 1)]
    else:
        along = list(svg.ticks(min(numbers), max(numbers), 4))
    first, last = scale(along[0]), scale(along[-1])

    def place(raw: float | int | str) -> float:
        return frame.left + (frame.right - frame.left) * (scale(float(raw)) - first) / (last - first)

    return place, [svg.text(place(mark), frame.bottom + 16, f"{mark:g}", style="tick") for mark in along]


def _choices(axis: Axis, frame: _Frame) -> tuple[Place, list[Markup]]:
    """Where a choice stands, and a legend of the choices: their texts are too long to stand side by side."""
    width = (frame.right - frame.left) / len(axis.labels)
    places = {label: frame.left + width * (index + 0.5) for index, label in enumerate(axis.labels)}
    parts = []
    for index, label in enumerate(axis.labels[:8]):
        letter = chr(ord("A") + index)
        short = label if len(label) <= _MAX_NAME else label[: _MAX_NAME - 1] + "…"
        parts.append(svg.text(places[label], frame.bottom + 14, letter, style="tick"))
        down = frame.bottom + 28 + 14 * index
        parts.append(svg.text(frame.left, down, f"{letter}  {short}", anchor="start", style="tick"))
    return (lambda raw: places[str(raw)]), parts


def _dot(x: float, y: float, mark: TrialMark) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="dot {}"><title>{}</title></circle>').format(
        x, y, "5.5" if mark.best else "4", mark.style, mark.name
    )


def _best_so_far(marks: Sequence[TrialMark], *, higher_is_better: bool) -> list[tuple[int, float]]:
    """(trial, value) at each new best of the complete trials."""
    found: list[tuple[int, float]] = []
    for mark in sorted(marks, key=lambda mark: mark.number):
        better = not found or (mark.value > found[-1][1]) == higher_is_better
        if mark.complete and better and (not found or mark.value != found[-1][1]):
            found.append((mark.number, mark.value))
    return found


def _numbers(last: int) -> list[int]:
    """Whole numbers for the axis of trials."""
    step = max(1, round(svg.ticks(0, last, 8)[1]))
    return list(range(0, last + 1, step))
