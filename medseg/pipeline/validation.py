"""The validation that training calls after each epoch: mean Dice on the network's grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from medseg.data.dataset import PreparedSet
from medseg.evaluation.overlap import joint_histogram, overlap_metrics, structure_counts
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import LabelTable


def dice_validation(
    cases: PreparedSet, *, table: LabelTable, inference: InferenceOptions, device: str
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that gives `dice` (mean over structures) and `dice_<structure>` of a network.

    Cases are predicted without test-time augmentation and without a second pass, on the grid that
    the network sees. A structure that a case's mask does not tell is left out for that case; a
    missed one counts as 0.
    """
    plain = inference.model_copy(update={"tta": "none", "refine": None, "save_probabilities": False})

    def validate(network: nn.Module) -> dict[str, float]:
        predictor = Predictor(network, steps=(), table=table, options=plain, device=device)
        scores: dict[str, list[float]] = {name: [] for name in table.region_classes()}
        for index in range(len(cases)):
            case = cases[index]
            if case.label is not None:
                found = predictor.probabilities(np.array(case.image)).argmax(axis=0)
                _score(scores, found, np.asarray(case.label[0]), table)
        means = {name: float(np.mean(values)) for name, values in scores.items() if values}
        if not means:
            return {}
        return {"dice": float(np.mean(list(means.values())))} | {f"dice_{n}": v for n, v in means.items()}

    return validate


def _score(
    scores: dict[str, list[float]],
    found: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    reference: np.ndarray[tuple[int, ...], np.dtype[np.int16]],
    table: LabelTable,
) -> None:
    matrix = table.set_matrix
    histogram = joint_histogram(reference, found, set_count=len(matrix), class_count=table.class_count)
    for name, members in table.region_classes().items():
        counts = structure_counts(histogram, matrix, members)
        dice = overlap_metrics(counts)["dice"] if _told(counts.state) else None
        if dice is not None:
            scores[name].append(dice)


def _told(state: str) -> bool:
    return state in ("judged", "missed", "false_positive")
