"""Which slice of a volume shows the most of its masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def largest_section(masks: Mapping[str, NDArray[np.bool_]], axis: int, size: int) -> int:
    """Slice along an axis with the largest area of all masks together; the middle one where they are empty."""
    rest = tuple(a for a in range(3) if a != axis)
    areas = sum((mask.sum(axis=rest) for mask in masks.values()), np.zeros(size, dtype=np.int64))
    return int(areas.argmax()) if areas.any() else size // 2
