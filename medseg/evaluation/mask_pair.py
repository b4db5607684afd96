"""Both label maps of a case, and the masks of one structure cut out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.centreline import centreline_dice
from medseg.evaluation.joint_counts import count_pairs, in_memory_order
from medseg.evaluation.overlap import Counts, membership, structure_counts
from medseg.evaluation.rim import boundary_iou
from medseg.evaluation.steps import voxel_steps
from medseg.evaluation.surface import SurfaceDistances, border, border_distances

# From here on one look-up for each voxel takes less time than a comparison for each class.
_MANY_CLASSES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureMasks:
    """Masks of one structure in the smallest box that holds both, with a margin of one voxel.

    Parameters
    ----------
    prediction, reference : bool arrays of the same shape
        Without the unknown voxels.
    unknown : bool array or None
        Voxels of which the reference does not tell; None where there are none.
    steps : (d, d) float64 array
        Along the axes of these arrays; voxels where the spacing is unknown.
    """

    prediction: NDArray[np.bool_]
    reference: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None
    steps: NDArray[np.float64]

    def distances(self) -> SurfaceDistances | None:
        """Between the borders; None where one of them is empty."""
        first, second = border(self.prediction, self.unknown), border(self.reference, self.unknown)
        return border_distances(first, second, self.steps)

    def boundary_iou(self, width: float) -> float | None:
        """IoU of the rims; None where neither mask has one."""
        return boundary_iou(
            self.prediction, self.reference, steps=self.steps, width=width, unknown=self.unknown
        )

    def centreline_dice(self) -> float:
        """Agreement of the skeletons."""
        return centreline_dice(self.prediction, self.reference)


class MaskPair:
    """Both label maps, counted once; masks of a structure on demand.

    Parameters
    ----------
    prediction : (I, J) or (I, J, K) integer array
        Class indices.
    reference : integer array of the same shape
        Set indices.
    set_matrix : (S, L) bool array
        See `LabelTable.set_matrix`.
    spacing_mm, affine
        See `steps.voxel_steps`.

    Raises
    ------
    GeometryError, LabelError
        See `joint_counts.count_pairs` and `steps.voxel_steps`.
    """

    def __init__(
        self,
        prediction: NDArray[Any],
        reference: NDArray[Any],
        set_matrix: NDArray[np.bool_],
        *,
        spacing_mm: Sequence[float] | None,
        affine: NDArray[np.float64] | None = None,
    ) -> None:
        self.steps = voxel_steps(prediction.ndim, spacing_mm, affine)
        self.set_matrix, self.shape = set_matrix, prediction.shape
        self.voxel = "pixels" if prediction.ndim == 2 else "voxels"
        self.joint = count_pairs(
            reference, prediction, set_count=len(set_matrix), class_count=set_matrix.shape[1]
        )
        # Cuts of arrays in memory order are read line by line.
        self._axes = in_memory_order(prediction)
        self._prediction, self._reference = prediction.transpose(self._axes), reference.transpose(self._axes)

    @cached_property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.shape)

    def counts(self, members: Sequence[int]) -> Counts:
        """Voxels of a structure by right and wrong."""
        return structure_counts(self.joint.histogram, self.set_matrix, members)

    def masks(self, members: Sequence[int], *, open_voxels: bool) -> StructureMasks | None:
        """Masks of a structure; None where both are empty.

        Parameters
        ----------
        members : sequence of int
            Class indices, without background.
        open_voxels : bool
            Whether the reference leaves voxels of the structure open.
        """
        which = membership(self.set_matrix, members)
        predicted = np.zeros(self.set_matrix.shape[1], dtype=np.bool_)
        predicted[list(members)] = True
        box = self.joint.box(which.inside[:, None] | predicted[None, :])
        if box is None:
            return None
        cut = tuple(slice(max(0, box[axis].start - 1), box[axis].stop + 1) for axis in self._axes)
        prediction = _in_any(self._prediction[cut], predicted)
        reference = _in_any(self._reference[cut], which.inside)
        unknown = _in_any(self._reference[cut], which.unknown) if open_voxels else None
        if unknown is not None:
            prediction &= ~unknown
        steps = np.eye(self.dims) if self.steps is None else self.steps
        return StructureMasks(
            prediction=prediction,
            reference=reference,
            unknown=unknown,
            steps=steps[:, list(self._axes)],
        )


def _in_any(values: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where an array holds one of the chosen values, C-contiguous."""
    wanted = np.flatnonzero(chosen)
    found = np.zeros(values.shape, dtype=np.bool_)
    if len(wanted) > _MANY_CLASSES:
        return np.take(chosen, values, out=found)
    for value in wanted:
        found |= values == value
    return found
