"""Corruptions and their five severities, for stress tests and for training with them. Imports no image library.

Lengths are in percent of the longer side for pictures, whose pixel size is often unknown, and in mm for volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ValueCorruption = Literal[
    "noise", "blur", "motion", "bias_field", "gamma", "contrast", "downsample", "compression"
]
"""Corruptions that change gray values and leave everything where it is."""
GeometryCorruption = Literal["rotation", "crop"]
"""Corruptions that move what is shown, and its mask with it."""
SEVERITIES = (1, 2, 3, 4, 5)
OF_SIDE = "% of the longer side"


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Strength of a corruption at the severities 1 to 5, and its unit; those of volumes where they differ."""

    unit: str
    levels: tuple[float, float, float, float, float]
    unit_3d: str | None = None
    levels_3d: tuple[float, float, float, float, float] | None = None

    def of(self, spatial_dims: int) -> tuple[tuple[float, ...], str]:
        """Levels and unit for pictures (2) or volumes (3)."""
        if spatial_dims == 3:
            return self.levels_3d or self.levels, self.unit_3d or self.unit
        return self.levels, self.unit


VALUE_LEVELS: dict[ValueCorruption, Levels] = {
    "noise": Levels(unit="% of the gray range", levels=(3, 6, 10, 16, 25)),
    "blur": Levels(
        unit=OF_SIDE, levels=(0.2, 0.4, 0.7, 1.1, 1.6), unit_3d="mm", levels_3d=(0.5, 1.0, 1.5, 2.0, 3.0)
    ),
    "motion": Levels(
        unit=OF_SIDE, levels=(0.5, 1.0, 2.0, 3.5, 5.0), unit_3d="mm", levels_3d=(1.0, 2.0, 3.0, 5.0, 8.0)
    ),
    "bias_field": Levels(unit="% of the value, either way", levels=(10, 20, 35, 50, 70)),
    "gamma": Levels(unit="exponent, or its inverse", levels=(1.25, 1.5, 1.8, 2.3, 3.0)),
    "contrast": Levels(unit="% of the contrast left", levels=(80, 60, 45, 30, 20)),
    "downsample": Levels(unit="times larger voxels", levels=(2, 4, 8, 12, 16), levels_3d=(1.5, 2, 2.5, 3, 4)),
    "compression": Levels(unit="JPEG quality", levels=(70, 40, 20, 10, 5)),
}
GEOMETRY_LEVELS: dict[GeometryCorruption, Levels] = {
    "rotation": Levels(unit="degrees, either way", levels=(3, 7, 12, 20, 30)),
    "crop": Levels(unit="% of each axis cut off", levels=(4, 8, 12, 18, 25)),
}
