"""What a YAML may say about evaluation and measurement. Imports no NumPy and no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.evaluation.instance_options import DetectionOptions

MetricName = Literal[
    "dice",
    "iou",
    "precision",
    "recall",
    "specificity",
    "accuracy",
    "f1",
    "hd",
    "hd95",
    "assd",
    "nsd",
    "boundary_iou",
    "cldice",
    "area_difference",
    "volume_difference",
    "relative_difference",
]
MeasureName = Literal[
    "area",
    "volume",
    "long_axis",
    "intensity",
    "left_right_ratio",
    "cardiothoracic_ratio",
    "position",
    "width",
    "shape",
]
CaseSplit = Literal["train", "validation", "test", "all"]
OTHER = "other"
Tolerance = Annotated[float, Field(gt=0, le=100)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DiceMetric(_Options):
    """Dice coefficient, 2 |P and R| / (|P| + |R|); 1 is best."""

    use: Literal["dice"] = Field(default="dice", description="Dice coefficient, 0..1.")


class IouMetric(_Options):
    """Intersection over union (Jaccard index); 1 is best."""

    use: Literal["iou"] = Field(default="iou", description="Intersection over union, 0..1.")


class PrecisionMetric(_Options):
    """Share of the predicted voxels that are right; 1 is best."""

    use: Literal["precision"] = Field(default="precision", description="TP / (TP + FP), 0..1.")


class RecallMetric(_Options):
    """Share of the reference voxels that were found (sensitivity); 1 is best."""

    use: Literal["recall"] = Field(default="recall", description="TP / (TP + FN), 0..1.")


class SpecificityMetric(_Options):
    """Share of the voxels outside the reference that were left outside; 1 is best."""

    use: Literal["specificity"] = Field(default="specificity", description="TN / (TN + FP), 0..1.")


class AccuracyMetric(_Options):
    """Share of all voxels that are right; flattering for small structures; 1 is best."""

    use: Literal["accuracy"] = Field(default="accuracy", description="(TP + TN) / all, 0..1.")


class F1Metric(_Options):
    """Harmonic mean of precision and recall; for masks the same number as Dice; 1 is best."""

    use: Literal["f1"] = Field(default="f1", description="2 TP / (2 TP + FP + FN), 0..1.")


class HdMetric(_Options):
    """Largest distance of either border to the other, which one stray voxel decides; 0 is best."""

    use: Literal["hd"] = Field(default="hd", description="Hausdorff distance (maximum), mm.")


class Hd95Metric(_Options):
    """Larger of the two directed 95th percentiles of the border distances; 0 is best."""

    use: Literal["hd95"] = Field(default="hd95", description="95th percentile Hausdorff distance, mm.")


class AssdMetric(_Options):
    """Mean distance of the border voxels of both masks to the other border; 0 is best."""

    use: Literal["assd"] = Field(default="assd", description="Average symmetric surface distance, mm.")


class NsdMetric(_Options):
    """Normalised surface Dice: share of both borders that lies within a tolerance; 1 is best.

    May be listed several times with different tolerances: the first is "nsd", the others are named by
    their tolerance, such as "nsd_3mm".
    """

    use: Literal["nsd"] = Field(default="nsd", description="Normalised surface Dice, 0..1.")
    tolerance_mm: Tolerance | dict[str, Tolerance] = Field(
        description="Distance that still counts as agreement, mm; the spread between two readers. By "
        "structure: {liver: 3, other: 2}.",
    )
    tolerance_pixels: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="The same in pixels, for images whose spacing is unknown. None: those are not judged.",
    )

    @model_validator(mode="after")
    def _has_other(self) -> Self:
        if isinstance(self.tolerance_mm, dict) and OTHER not in self.tolerance_mm:
            raise ValueError(
                f"tolerance_mm by structure needs the entry {OTHER!r} for those that it does not name"
            )
        return self

    def tolerance_of(self, structure: str) -> float:
        """Tolerance in mm for a structure."""
        if isinstance(self.tolerance_mm, dict):
            return self.tolerance_mm.get(structure, self.tolerance_mm[OTHER])
        return self.tolerance_mm

    @property
    def text(self) -> str:
        """The tolerance in words."""
        if isinstance(self.tolerance_mm, dict):
            return ", ".join(f"{name} {value:g} mm" for name, value in self.tolerance_mm.items())
        return f"{self.tolerance_mm:g} mm"


class BoundaryIouMetric(_Options):
    """IoU of the rims of both masks; as strict for large structures as for small ones; 1 is best."""

    use: Literal["boundary_iou"] = Field(default="boundary_iou", description="Boundary IoU, 0..1.")
    width_mm: float = Field(
        gt=0, le=100, description="Width of the rim inside the border, mm; border voxels always belong to it."
    )
    width_pixels: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="The same in pixels, for images whose spacing is unknown. None: those are not judged.",
    )


class ClDiceMetric(_Options):
    """Centreline Dice, for tubes: how much of each skeleton lies in the other mask; 1 is best."""

    use: Literal["cldice"] = Field(
        default="cldice", description="Centreline Dice, 0..1; needs scikit-image (medseg[tubes])."
    )


class AreaDifferenceMetric(_Options):
    """Predicted area minus reference area, for radiographs; 0 is best."""

    use: Literal["area_difference"] = Field(default="area_difference", description="Signed, mm2.")


class VolumeDifferenceMetric(_Options):
    """Predicted volume minus reference volume; 0 is best."""

    use: Literal["volume_difference"] = Field(default="volume_difference", description="Signed, ml.")


class RelativeDifferenceMetric(_Options):
    """Predicted size minus reference size, in percent of the reference; 0 is best."""

    use: Literal["relative_difference"] = Field(default="relative_difference", description="Signed, %.")


MetricOptions = Annotated[
    DiceMetric
    | IouMetric
    | PrecisionMetric
    | RecallMetric
    | SpecificityMetric
    | AccuracyMetric
    | F1Metric
    | HdMetric
    | Hd95Metric
    | AssdMetric
    | NsdMetric
    | BoundaryIouMetric
    | ClDiceMetric
    | AreaDifferenceMetric
    | VolumeDifferenceMetric
    | RelativeDifferenceMetric,
    Field(discriminator="use"),
]


class EvaluationOptions(_Options):
    """Which numbers say how well predictions agree with reference masks, and what is demanded of them."""

    metrics: tuple[MetricOptions, ...] = Field(
        default=(DiceMetric(), IouMetric(), PrecisionMetric(), RecallMetric(), Hd95Metric()),
        min_length=1,
        description="Metrics, computed per case for each structure.",
    )
    structures: Literal["all"] | tuple[str, ...] = Field(
        default="all", description="Labels and regions to evaluate; all: every one of the label table."
    )
    cases: CaseSplit = Field(default="test", description="Split whose cases are evaluated.")
    samples: int = Field(
        default=1000, ge=100, le=100_000, description="Bootstrap resamples of the patients for each interval."
    )
    level: float = Field(default=0.95, gt=0.5, lt=1.0, description="Coverage of the intervals, 0.5..1.")
    seed: int = Field(default=1, ge=0, description="Seed of the bootstrap.")
    mean_iou: Literal["none", "all"] | tuple[str, ...] = Field(
        default="none",
        description="Structures whose IoU, counted over all cases together, is averaged (mIoU); all: every one "
        "that is evaluated. Structures that occur in no case are left out of the mean and named.",
    )
    detection: DetectionOptions | None = Field(
        default=None,
        description="How the targets of `recognise` are held against those of the reference, one by one; null: not.",
    )
    calibration: bool = Field(
        default=True,
        description="Whether probabilities are held against the reference, voxel by voxel (calibration.json: "
        "reliability curves, ECE, Brier score), and, in a run that trains, whether a temperature and intervals for "
        "volumes are fitted on the validation cases (or out of fold) and kept in the bundle. Each case that is looked "
        "at is predicted once more.",
    )
    by: tuple[str, ...] = Field(
        default=(), description="Manifest columns; the summary is repeated for each of their values."
    )
    require: dict[str, dict[MetricName, float]] = Field(
        default_factory=dict,
        description="Structure -> metric -> demanded mean over the cases: the least where more is "
        "better, the most (of the size, for signed differences) for the others. Unmet: exit code 5.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = list(self.metric_names)
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"metrics names {', '.join(doubled)} more than once")
        left_out = [name for name in self.pooled if self.structures != "all" and name not in self.structures]
        if left_out:
            raise ValueError(f"mean_iou names {', '.join(left_out)}, which `structures` leaves out")
        for structure, limits in self.require.items():
            if self.structures != "all" and structure not in self.structures:
                raise ValueError(f"require names {structure}, which `structures` leaves out")
            lacking = sorted(set(limits) - set(names))
            if lacking:
                raise ValueError(
                    f"require.{structure} names {', '.join(lacking)}, which `metrics` does not list"
                )
        return self

    @property
    def pooled(self) -> tuple[str, ...]:
        """Structures that `mean_iou` names; empty for none and for all."""
        return self.mean_iou if isinstance(self.mean_iou, tuple) else ()

    @property
    def keyed(self) -> tuple[tuple[str, MetricOptions], ...]:
        """(key, metric) in the order of the settings; the key is the name, for a second NSD with its tolerance."""
        found: list[tuple[str, MetricOptions]] = []
        for metric in self.metrics:
            key: str = metric.use
            if isinstance(metric, NsdMetric) and any(known == key for known, _ in found):
                each = metric.tolerance_mm
                key = "nsd_by_structure" if isinstance(each, dict) else f"nsd_{each:g}mm"
            found.append((key, metric))
        return tuple(found)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Keys of the metrics, in the order of the settings."""
        return tuple(key for key, _ in self.keyed)
