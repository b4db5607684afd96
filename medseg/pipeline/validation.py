"""The validation that training calls after each epoch: mean Dice on the network's grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from medseg.data.dataset import PreparedCase, PreparedSet
from medseg.evaluation.overlap import joint_histogram, overlap_metrics, structure_counts
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import LabelTable
from medseg.memory import return_free_memory
from medseg.training import distributed


def dice_validation(
    cases: PreparedSet, *, table: LabelTable, inference: InferenceOptions, device: str
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that gives `dice` (mean over structures) and `dice_<structure>` of a network.

    Cases are predicted without test-time augmentation and without a second pass, on the grid that
    the network sees. A structure that a case's mask does not tell is left out for that case; a
    missed one counts as 0. Several training processes share the cases; the values are those of one.
    """
    plain = inference.model_copy(update={"tta": "none", "refine": None})

    def validate(network: nn.Module) -> dict[str, float]:
        predictor = Predictor(network, steps=(), table=table, options=plain, device=device)
        place = distributed.processes()
        mine = {
            index: _case_dice(predictor, cases[index], table)
            for index in range(place.rank, len(cases), place.world_size)
        }
        return_free_memory()
        found = {index: dice for part in distributed.gathered(mine) for index, dice in part.items()}
        return _means([found[index] for index in range(len(cases))], table)

    return validate


def _case_dice(predictor: Predictor, case: PreparedCase, table: LabelTable) -> dict[str, float]:
    """Dice of each structure that the mask of a case tells."""
    if case.label is None:
        return {}
    predicted = predictor.probabilities(np.array(case.image)).argmax(axis=0)
    matrix = table.set_matrix
    histogram = joint_histogram(
        np.asarray(case.label[0]), predicted, set_count=len(matrix), class_count=table.class_count
    )
    scores: dict[str, float] = {}
    for name, members in table.region_classes().items():
        counts = structure_counts(histogram, matrix, members)
        dice = overlap_metrics(counts)["dice"] if _told(counts.state) else None
        if dice is not None:
            scores[name] = dice
    return scores


def _means(scores: Sequence[Mapping[str, float]], table: LabelTable) -> dict[str, float]:
    """Mean over cases for each structure, and over structures; empty where no mask tells anything."""
    told = {name: [case[name] for case in scores if name in case] for name in table.region_classes()}
    means = {name: float(np.mean(values)) for name, values in told.items() if values}
    if not means:
        return {}
    return {"dice": float(np.mean(list(means.values())))} | {f"dice_{n}": v for n, v in means.items()}


def _told(state: str) -> bool:
    return state in ("judged", "missed", "false_positive")
