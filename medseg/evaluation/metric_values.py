"""Values of the metrics of one structure in one case, the worst case for what is missed or invented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from medseg.evaluation.definitions import NO_SPACING, definition_of
from medseg.evaluation.mask_pair import MaskPair, StructureMasks
from medseg.evaluation.options import (
    BoundaryIouMetric,
    ClDiceMetric,
    EvaluationOptions,
    MetricName,
    MetricOptions,
    NsdMetric,
)
from medseg.evaluation.overlap import OVERLAP_METRICS, Counts, State, overlap_metrics
from medseg.evaluation.steps import image_diagonal, voxel_size
from medseg.evaluation.surface import SurfaceDistances, assd, hd, hd95, nsd

WHY_NOT: dict[State, str] = {
    "both_empty": "empty in the prediction and in the reference",
    "not_judged": "the reference does not tell this structure",
}
_NO_BORDER = "no border lies in the judged part of the image"
_LENGTHS: dict[str, Callable[[SurfaceDistances], float]] = {"hd": hd, "hd95": hd95, "assd": assd}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A metric of one structure in one case.

    `value` is None where the metric is not defined, and then `reason` says why. `worst_case` marks
    a value that stands for a missed structure or for one that is not there.
    """

    value: float | None
    unit: str
    reason: str = ""
    worst_case: bool = False


def metric_values(
    pair: MaskPair, structure: str, members: Sequence[int], counts: Counts, options: EvaluationOptions
) -> dict[str, MetricValue]:
    """Metrics of one structure, by key, in the order of the settings."""
    if counts.state in WHY_NOT:
        return undefined_values(counts.state, options)
    values = _Values(pair=pair, structure=structure, members=tuple(members), counts=counts)
    return {key: values.of(metric) for key, metric in options.keyed}


def undefined_values(state: State, options: EvaluationOptions) -> dict[str, MetricValue]:
    """Metrics of a structure that is "both_empty" or "not_judged": none has a value."""
    reason = WHY_NOT[state]
    return {
        key: MetricValue(value=None, unit=definition_of(key).unit, reason=reason) for key, _ in options.keyed
    }


@dataclass(frozen=True, kw_only=True)
class _Values:
    """One structure of a case; masks and distances are made once, and only when a metric needs them."""

    pair: MaskPair
    structure: str
    members: tuple[int, ...]
    counts: Counts

    @cached_property
    def masks(self) -> StructureMasks | None:
        return self.pair.masks(self.members, open_voxels=self.counts.unknown > 0)

    @cached_property
    def distances(self) -> SurfaceDistances | None:
        return None if self.masks is None else self.masks.distances()

    @cached_property
    def overlap(self) -> dict[str, float | None]:
        return overlap_metrics(self.counts)

    @property
    def judged(self) -> bool:
        """Whether both masks have the structure; else every value is the worst one."""
        return self.counts.state == "judged"

    def of(self, metric: MetricOptions) -> MetricValue:
        if metric.use in OVERLAP_METRICS:
            return self._overlap(metric.use)
        if metric.use in _LENGTHS:
            return self._length(metric.use)
        if isinstance(metric, NsdMetric):
            return self._nsd(metric)
        if isinstance(metric, BoundaryIouMetric):
            return self._boundary_iou(metric)
        if isinstance(metric, ClDiceMetric):
            return self._cldice()
        return self._difference(metric.use)

    def _overlap(self, name: MetricName) -> MetricValue:
        value = self.overlap[name]
        reason = "" if value is not None else "the reference fills all judged voxels"
        worst = not self.judged and name not in ("specificity", "accuracy")
        return MetricValue(value=value, unit="1", reason=reason, worst_case=worst)

    def _length(self, name: MetricName) -> MetricValue:
        unit = "mm" if self.pair.steps is not None else self.pair.voxel
        if not self.judged:
            worst = image_diagonal(self.pair.shape, self.pair.steps)
            return MetricValue(value=worst, unit=unit, worst_case=True)
        if self.distances is None:
            return MetricValue(value=None, unit=unit, reason=_NO_BORDER)
        return MetricValue(value=_LENGTHS[name](self.distances), unit=unit)

    def _nsd(self, metric: NsdMetric) -> MetricValue:
        known = self.pair.steps is not None
        tolerance = metric.tolerance_of(self.structure) if known else metric.tolerance_pixels
        unit = "1" if known else f"1, tolerance in {self.pair.voxel}"
        if tolerance is None:
            return MetricValue(value=None, unit="1", reason=f"{NO_SPACING}; the tolerance is in mm")
        if not self.judged:
            return MetricValue(value=0.0, unit=unit, worst_case=True)
        if self.distances is None:
            return MetricValue(value=None, unit=unit, reason=_NO_BORDER)
        return MetricValue(value=nsd(self.distances, tolerance), unit=unit)

    def _boundary_iou(self, metric: BoundaryIouMetric) -> MetricValue:
        known = self.pair.steps is not None
        width = metric.width_mm if known else metric.width_pixels
        unit = "1" if known else f"1, width in {self.pair.voxel}"
        if width is None:
            return MetricValue(value=None, unit="1", reason=f"{NO_SPACING}; the width is in mm")
        if not self.judged:
            return MetricValue(value=0.0, unit=unit, worst_case=True)
        value = None if self.masks is None else self.masks.boundary_iou(width)
        return MetricValue(value=value, unit=unit, reason=_NO_BORDER if value is None else "")

    def _cldice(self) -> MetricValue:
        if not self.judged or self.masks is None:
            return MetricValue(value=0.0, unit="1", worst_case=True)
        return MetricValue(value=self.masks.centreline_dice(), unit="1")

    def _difference(self, name: MetricName) -> MetricValue:
        counts, steps, dims = self.counts, self.pair.steps, self.pair.dims
        extra, reference = counts.fp - counts.fn, counts.tp + counts.fn
        worst = not self.judged
        if name == "relative_difference":
            if reference == 0:
                return MetricValue(value=None, unit="%", reason="empty in the reference")
            return MetricValue(value=100.0 * extra / reference, unit="%", worst_case=worst)
        if (name == "volume_difference") != (dims == 3):
            kind = "images with three axes" if name == "volume_difference" else "images with two axes"
            return MetricValue(value=None, unit=definition_of(name).unit, reason=f"defined for {kind} only")
        if steps is None:
            return MetricValue(value=float(extra), unit=self.pair.voxel, worst_case=worst)
        size, unit = (voxel_size(steps) / 1000.0, "ml") if dims == 3 else (voxel_size(steps), "mm2")
        return MetricValue(value=extra * size, unit=unit, worst_case=worst)
