"""What a correction changed, label by label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.joint_counts import joint_histogram
from medseg.geometry import voxel_volume_mm3
from medseg.labels import LabelTable
from medseg.volume import ImageGrid

_MM3_PER_ML = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChange:
    """One label before and after.

    Parameters
    ----------
    before, after : int
        Voxels.
    added, removed : int
        Voxels that became, and that no longer are of the label.
    dice : float or None
        Of the mask before with the one after, 1 where they are equal; None where the label is in neither.
    before_ml, after_ml : float or None
        Volume; None for pictures and where the spacing is unknown.
    """

    before: int
    after: int
    added: int
    removed: int
    dice: float | None
    before_ml: float | None
    after_ml: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskChange:
    """All labels, and the voxels whose label is another one than before."""

    changed_voxels: int
    labels: dict[str, LabelChange]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "changed_voxels": self.changed_voxels,
            "labels": {name: change.to_json() for name, change in self.labels.items()},
        }


def compare_masks(
    before: NDArray[Any], after: NDArray[Any], *, table: LabelTable, grid: ImageGrid
) -> MaskChange:
    """Compare a prediction with its correction.

    Parameters
    ----------
    before, after : (I, J) or (I, J, K) integer arrays
        Class indices of `table`.
    table : LabelTable
    grid : ImageGrid
        Of both.

    Raises
    ------
    GeometryError
        The shapes differ.
    """
    count = table.class_count
    joint = joint_histogram(before, after, set_count=count, class_count=count)
    three = len(grid.shape) == 3 and grid.affine is not None
    voxel_ml = voxel_volume_mm3(np.asarray(grid.affine)) / _MM3_PER_ML if three else None
    labels = {name: _change(joint, index, voxel_ml) for index, name in enumerate(table.names) if index}
    return MaskChange(changed_voxels=int(joint.sum() - np.trace(joint)), labels=labels)


def _change(joint: NDArray[np.int64], index: int, voxel_ml: float | None) -> LabelChange:
    before, after, same = int(joint[index].sum()), int(joint[:, index].sum()), int(joint[index, index])
    return LabelChange(
        before=before,
        after=after,
        added=after - same,
        removed=before - same,
        dice=2 * same / (before + after) if before + after else None,
        before_ml=None if voxel_ml is None else before * voxel_ml,
        after_ml=None if voxel_ml is None else after * voxel_ml,
    )
