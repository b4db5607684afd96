"""Metrics of ten labels by one tool in a process: ``python -m medseg.bench.metrics_tasks NAME ARGUMENTS``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.bench.measuring import Task, run_child

SHAPE, LABELS = (512, 512, 300), 10
SPACING, TOLERANCE_MM = (0.78, 0.78, 1.0), 2.0
Array = NDArray[Any]
#: Dice, HD95 and NSD of one label.
Row = tuple[float, float, float]


def label_maps(scale: float) -> tuple[Array, Array]:
    """A reference of ten organ-like blobs of very different sizes, and a prediction with errors of a few voxels.

    One label has an island far from everything, as false alarms do.

    Parameters
    ----------
    scale : float
        1 for the full size of 512 x 512 x 300 voxels; less for tests.

    Returns
    -------
    reference, prediction : (I, J, K) uint8 array
    """
    shape = tuple(max(32, round(n * scale)) for n in SHAPE)
    rng = np.random.default_rng(7)
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for label in range(1, LABELS + 1):
        radii = np.array(shape) * rng.uniform(0.06, 0.2, 3)
        centre = np.array(shape) * rng.uniform(0.25, 0.75, 3)
        phase = rng.uniform(0, 6, 3)
        _blob(reference, label, centre, radii, phase)
        _blob(prediction, label, centre + rng.normal(0, 1.2, 3), radii * rng.normal(1, 0.01, 3), phase + 0.2)
    _blob(prediction, 3, np.array(shape) * 0.06, np.full(3, max(1.5, 6 * scale)), np.zeros(3))
    return reference, prediction


def _blob(label_map: Array, label: int, centre: Array, radii: Array, phase: Array) -> None:
    """An ellipsoid with a wavy surface."""
    box = tuple(
        slice(max(0, int(c - 1.3 * r)), min(n, int(c + 1.3 * r) + 1))
        for c, r, n in zip(centre, radii, label_map.shape, strict=True)
    )
    grid = np.ogrid[box]
    scaled = [(g - c) / r for g, c, r in zip(grid, centre, radii, strict=True)]
    waves = sum(np.sin(4 * s + p) for s, p in zip(scaled, phase, strict=True))
    distance = sum(s.astype(np.float32) ** 2 for s in scaled)
    label_map[box][distance < 1 + np.float32(0.12) * waves] = label


def _medseg(reference: Array, prediction: Array) -> Callable[[], list[Row]]:
    from medseg.evaluation.cases import evaluate_case
    from medseg.evaluation.options import EvaluationOptions
    from medseg.labels import Label, LabelTable

    table = LabelTable(
        labels=tuple(Label(name=f"label_{n}", value=n, colour="#888888") for n in range(1, LABELS + 1))
    )
    metrics = [{"use": "dice"}, {"use": "hd95"}, {"use": "nsd", "tolerance_mm": TOLERANCE_MM}]
    options = EvaluationOptions.model_validate({"metrics": metrics})

    def run() -> list[Row]:
        found = evaluate_case(
            prediction, reference, table=table, case_id="bench", spacing_mm=SPACING, options=options
        )
        return [tuple(float(v.value or 0.0) for v in s.metrics.values()) for s in found.structures]  # type: ignore[misc]

    return run


def _monai(reference: Array, prediction: Array) -> Callable[[], list[Row]]:
    """Label by label, which takes a tenth of the memory of one-hot tensors of all labels."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    def one(label: int) -> Row:
        pair = [torch.from_numpy(m == label)[None, None] for m in (prediction, reference)]
        dice = compute_dice(*pair, include_background=True)
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=SPACING)
        nsd = compute_surface_dice(*pair, [TOLERANCE_MM], include_background=True, spacing=SPACING)
        return float(dice), float(hd95), float(nsd)

    return lambda: [one(label) for label in range(1, LABELS + 1)]


def _surface_distance(reference: Array, prediction: Array) -> Callable[[], list[Row]]:
    import surface_distance as peer

    def one(label: int) -> Row:
        truth, found = reference == label, prediction == label
        distances = peer.compute_surface_distances(truth, found, SPACING)
        return (
            float(peer.compute_dice_coefficient(truth, found)),
            float(peer.compute_robust_hausdorff(distances, 95)),
            float(peer.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)),
        )

    return lambda: [one(label) for label in range(1, LABELS + 1)]


TOOLS: dict[str, Callable[[Array, Array], Callable[[], list[Row]]]] = {
    "medseg": _medseg,
    "MONAI": _monai,
    "surface-distance": _surface_distance,
}


def _numbers(rows: Any) -> Iterator[list[float]]:
    return ([round(value, 9) for value in row] for row in rows)


def build(name: str, arguments: dict[str, Any]) -> Task:
    """One tool at the label maps of a scale.

    Parameters
    ----------
    name : str
        Of `TOOLS`.
    arguments : dict
        ``scale``, see `label_maps`.
    """
    import warnings

    # MONAI passes an argument that it has itself deprecated.
    warnings.simplefilter("ignore")
    return Task(
        run=TOOLS[name](*label_maps(arguments["scale"])),
        check=lambda rows: json.dumps(list(_numbers(rows))),
    )


if __name__ == "__main__":
    run_child(build)
