"""What each metric means, in which unit, and which direction is better; for tables, reports and checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medseg.evaluation.options import MetricName

NO_SPACING = "the spacing of the image is unknown"
Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDefinition:
    """Title, unit and one sentence of definition of a metric.

    `better` tells the direction; "zero" is for signed differences.
    """

    title: str
    unit: str
    better: Better
    definition: str


DEFINITIONS: dict[MetricName, MetricDefinition] = {
    "dice": MetricDefinition(
        title="Dice", unit="1", better="higher", definition="2 TP / (2 TP + FP + FN), counted in voxels."
    ),
    "iou": MetricDefinition(
        title="IoU", unit="1", better="higher", definition="TP / (TP + FP + FN), counted in voxels."
    ),
    "precision": MetricDefinition(
        title="Precision", unit="1", better="higher", definition="TP / (TP + FP), counted in voxels."
    ),
    "recall": MetricDefinition(
        title="Recall", unit="1", better="higher", definition="TP / (TP + FN), counted in voxels."
    ),
    "specificity": MetricDefinition(
        title="Specificity", unit="1", better="higher", definition="TN / (TN + FP), counted in voxels."
    ),
    "accuracy": MetricDefinition(
        title="Accuracy", unit="1", better="higher", definition="(TP + TN) / all judged voxels."
    ),
    "f1": MetricDefinition(
        title="F1",
        unit="1",
        better="higher",
        definition="Harmonic mean of precision and recall; equals Dice.",
    ),
    "hd95": MetricDefinition(
        title="HD95",
        unit="mm",
        better="lower",
        definition="Larger of the two directed 95th percentiles of the distances between border voxels "
        "(as MONAI: border by erosion, Euclidean).",
    ),
    "nsd": MetricDefinition(
        title="NSD",
        unit="1",
        better="higher",
        definition="Share of the border voxels of both masks within the tolerance of the other border "
        "(as MONAI without sub-voxels).",
    ),
    "area_difference": MetricDefinition(
        title="Area difference", unit="mm2", better="zero", definition="Predicted minus reference area."
    ),
    "volume_difference": MetricDefinition(
        title="Volume difference", unit="ml", better="zero", definition="Predicted minus reference volume."
    ),
    "relative_difference": MetricDefinition(
        title="Relative difference",
        unit="%",
        better="zero",
        definition="Predicted minus reference size, in percent of the reference.",
    ),
}
