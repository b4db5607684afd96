"""Which structures a loss compares, and how much each weighs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, LabelError
from medseg.training.loss_options import LossOptions


def checked_sets(set_matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """The matrix as booleans.

    Raises
    ------
    LabelError
        The first sets are not the single classes, or a set is empty.
    """
    matrix = np.asarray(set_matrix, dtype=np.bool_)
    classes = matrix.shape[1]
    if len(matrix) < classes or not np.array_equal(matrix[:classes], np.eye(classes, dtype=np.bool_)):
        raise LabelError(f"the first {classes} sets must be the single classes; give LabelTable.set_matrix")
    if not matrix.any(axis=1).all():
        raise LabelError("every label set needs at least one class")
    return matrix


def find_structures(
    options: LossOptions, regions: Mapping[str, tuple[int, ...]], classes: int
) -> list[frozenset[int]]:
    """Classes of every structure of the loss: the single classes, then the regions of several."""
    first = 0 if getattr(options, "include_background", False) else 1
    structures = [frozenset({index}) for index in range(first, classes)]
    for name, members in regions.items():
        union = frozenset(members)
        if not union or not union < frozenset(range(classes)):
            raise ConfigError(
                f"region {name} must hold some of the classes 0..{classes - 1}, found {sorted(union)}"
            )
        if len(union) > 1 and union not in structures:
            structures.append(union)
    return structures


def class_weights(
    options: LossOptions, regions: Mapping[str, tuple[int, ...]], classes: int
) -> NDArray[np.float64]:
    """(L,) weight of each class, 1 unless named."""
    known = {"background": (0,), **regions}
    unknown = [name for name in options.class_weights if name not in known]
    if unknown:
        raise ConfigError(f"training.loss.class_weights names {unknown}; known: {', '.join(known)}")
    weights = np.ones(classes)
    for name, weight in options.class_weights.items():
        if len(known[name]) == 1:
            weights[known[name][0]] = weight
    return weights


def structure_weight(
    options: LossOptions,
    regions: Mapping[str, tuple[int, ...]],
    weights: NDArray[np.float64],
    members: frozenset[int],
) -> float:
    """Weight of a structure: of its class, or by the name of its region."""
    if len(members) == 1:
        return float(weights[next(iter(members))])
    named = [w for name, w in options.class_weights.items() if frozenset(regions.get(name, ())) == members]
    return float(named[0]) if named else 1.0
