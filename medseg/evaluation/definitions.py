"""What each metric means, in which unit, and which direction is better; for tables, reports and checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from medseg.evaluation.options import BoundaryIouMetric, MetricName, MetricOptions, NsdMetric

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
    "hd": MetricDefinition(
        title="HD",
        unit="mm",
        better="lower",
        definition="Largest distance of a border voxel of either mask to the other border.",
    ),
    "hd95": MetricDefinition(
        title="HD95",
        unit="mm",
        better="lower",
        definition="Larger of the two directed 95th percentiles of the distances between border voxels "
        "(as MONAI: border by erosion, Euclidean).",
    ),
    "assd": MetricDefinition(
        title="ASSD",
        unit="mm",
        better="lower",
        definition="Mean distance of the border voxels of both masks to the other border.",
    ),
    "nsd": MetricDefinition(
        title="NSD",
        unit="1",
        better="higher",
        definition="Share of the border voxels of both masks within the tolerance of the other border "
        "(as MONAI without sub-voxels).",
    ),
    "boundary_iou": MetricDefinition(
        title="Boundary IoU",
        unit="1",
        better="higher",
        definition="IoU of the rims: the voxels of each mask within the width of its border.",
    ),
    "cldice": MetricDefinition(
        title="clDice",
        unit="1",
        better="higher",
        definition="Harmonic mean of the shares of each mask's skeleton that lie in the other mask.",
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


def definition_of(key: str) -> MetricDefinition:
    """Definition of a metric by its key: the name, or the name with a tolerance or a unit after it."""
    name = key.removesuffix("_pixels").removesuffix("_voxels")
    name = "nsd" if name.startswith("nsd_") else name
    return next(definition for known, definition in DEFINITIONS.items() if known == name)


def definitions_of(keyed: Iterable[tuple[str, MetricOptions]]) -> dict[str, MetricDefinition]:
    """Definitions as the settings have them, tolerance and width in the title."""
    found = {}
    for key, metric in keyed:
        own = definition_of(key)
        if isinstance(metric, NsdMetric):
            own = replace(own, title=f"{own.title} at {metric.text}")
        elif isinstance(metric, BoundaryIouMetric):
            own = replace(own, title=f"{own.title}, {metric.width_mm:g} mm")
        found[key] = own
    return found
