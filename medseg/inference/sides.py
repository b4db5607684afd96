"""Which axis of a prepared image leads from left to right."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.transforms.options import Orient, PreprocessStep, Transpose


def side_axis(steps: Sequence[PreprocessStep]) -> int | None:
    """Left-right axis of prepared images: by the last `orient`, else axis 0, transposed; None where there is none."""
    side: int | None = 0
    for step in steps:
        if isinstance(step, Orient):
            side = next((axis for axis, letter in enumerate(step.to) if letter in "LR"), None)
        elif isinstance(step, Transpose) and side is not None:
            side = step.axes.index(side)
    return side
