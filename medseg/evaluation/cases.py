"""Evaluation of one case: its structures, their metrics, and rows for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, GeometryError
from medseg.evaluation.definitions import DEFINITIONS, NO_SPACING
from medseg.evaluation.options import EvaluationOptions, MetricName, NsdMetric
from medseg.evaluation.overlap import (
    OVERLAP_METRICS,
    Counts,
    State,
    joint_histogram,
    membership,
    overlap_metrics,
    structure_counts,
)
from medseg.evaluation.rows import Cell
from medseg.evaluation.surface import (
    SurfaceDistances,
    crop_box,
    hd95,
    image_diagonal,
    nsd,
    surface_distances,
)
from medseg.labels import LabelTable

_WHY_NOT: dict[State, str] = {
    "both_empty": "empty in the prediction and in the reference",
    "not_judged": "the reference does not tell this structure",
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureEvaluation:
    """Counts and metrics of one label or region."""

    structure: str
    state: State
    counts: Counts
    metrics: Mapping[MetricName, MetricValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseEvaluation:
    """All structures of one case. `columns` are the manifest columns that results are split by."""

    case_id: str
    patient_id: str
    structures: tuple[StructureEvaluation, ...]
    columns: Mapping[str, str] = field(default_factory=dict)

    def structure(self, name: str) -> StructureEvaluation | None:
        """The evaluation of a label or region, None where it was not asked for."""
        return next((s for s in self.structures if s.structure == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN."""
        return {
            "case_id": self.case_id,
            "patient_id": self.patient_id,
            "columns": dict(self.columns),
            "structures": {
                s.structure: {
                    "state": s.state,
                    "counts": asdict(s.counts),
                    "metrics": {name: asdict(value) for name, value in s.metrics.items()},
                }
                for s in self.structures
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CaseEvaluation:
        """The evaluation that `to_json` wrote."""
        structures = tuple(
            StructureEvaluation(
                structure=name,
                state=item["state"],
                counts=Counts(**item["counts"]),
                metrics={metric: MetricValue(**v) for metric, v in item["metrics"].items()},
            )
            for name, item in value["structures"].items()
        )
        return cls(
            case_id=value["case_id"],
            patient_id=value["patient_id"],
            structures=structures,
            columns=dict(value["columns"]),
        )

    def rows(self) -> list[dict[str, Cell]]:
        """One row per structure for a CSV: identifiers, columns, state, counts, metrics with units.

        Metrics whose unit can change from case to case (mm or pixels) have a column `<metric>_unit`.
        """
        rows = []
        for s in self.structures:
            row: dict[str, Cell] = {"case_id": self.case_id, "patient_id": self.patient_id, **self.columns}
            row |= {"structure": s.structure, "state": s.state}
            row |= {name: getattr(s.counts, name) for name in ("tp", "fp", "fn", "tn", "unknown")}
            for name, metric in s.metrics.items():
                row[name] = metric.value
                if DEFINITIONS[name].unit not in ("1", "%"):
                    row[f"{name}_unit"] = metric.unit
            row["reason"] = "; ".join(sorted({m.reason for m in s.metrics.values() if m.reason}))
            rows.append(row)
        return rows


def chosen_structures(table: LabelTable, options: EvaluationOptions) -> dict[str, tuple[int, ...]]:
    """Class indices of the structures that the settings ask for.

    Raises
    ------
    ConfigError
        A structure, or one that `require` names, is not in the label table.
    """
    known = table.region_classes()
    wanted = tuple(known) if options.structures == "all" else options.structures
    unknown = [name for name in (*wanted, *options.require, *options.pooled) if name not in known]
    if unknown:
        raise ConfigError(
            f"evaluation names {', '.join(map(repr, unknown))}, which are neither labels nor regions; "
            f"known: {', '.join(known)}"
        )
    return {name: known[name] for name in wanted}


def evaluate_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    *,
    table: LabelTable,
    case_id: str,
    patient_id: str = "",
    spacing_mm: Sequence[float] | None,
    options: EvaluationOptions,
    columns: Mapping[str, str] | None = None,
) -> CaseEvaluation:
    """Compare a predicted label map with its reference, structure by structure.

    Parameters
    ----------
    prediction : (I, J) or (I, J, K) integer array
        Class indices on the grid of the image.
    reference : same shape, or with a leading axis of length 1
        Set indices (`LabelTable.encode`).
    table : LabelTable
    case_id, patient_id : str
        The patient is the unit of resampling in the summary; "" stands for the case itself.
    spacing_mm : sequence of float, or None
        Along each axis. None: distances and sizes are in pixels or voxels, and say so.
    options : EvaluationOptions
    columns : mapping, optional
        Manifest columns of the case.

    Returns
    -------
    CaseEvaluation

    Raises
    ------
    GeometryError
        The two grids, or the number of spacings, differ.
    LabelError
        An index that the table does not have.
    ConfigError
        A structure that the table does not have.
    """
    if reference.ndim == prediction.ndim + 1 and reference.shape[0] == 1:
        reference = reference[0]
    if spacing_mm is not None and len(spacing_mm) != prediction.ndim:
        raise GeometryError(
            f"{prediction.ndim} axes need {prediction.ndim} spacings, found {tuple(spacing_mm)}"
        )
    matrix = table.set_matrix
    histogram = joint_histogram(reference, prediction, set_count=len(matrix), class_count=table.class_count)
    pair = _MaskPair(prediction, reference, matrix, spacing_mm)
    structures = []
    for name, members in chosen_structures(table, options).items():
        counts = structure_counts(histogram, matrix, members)
        metrics = _metrics(pair, members, counts, options)
        structures.append(
            StructureEvaluation(structure=name, state=counts.state, counts=counts, metrics=metrics)
        )
    return CaseEvaluation(
        case_id=case_id,
        patient_id=patient_id or case_id,
        structures=tuple(structures),
        columns=dict(columns or {}),
    )


class _MaskPair:
    """Both label maps, cropped once to what is not plain background; masks on demand."""

    def __init__(
        self,
        prediction: NDArray[Any],
        reference: NDArray[Any],
        set_matrix: NDArray[np.bool_],
        spacing_mm: Sequence[float] | None,
    ) -> None:
        box = crop_box((prediction != 0) | (reference != 0)) or tuple(slice(0, 0) for _ in prediction.shape)
        self.prediction, self.reference = prediction[box], reference[box]
        self.shape = prediction.shape
        self.set_matrix = set_matrix
        self.spacing = None if spacing_mm is None else tuple(float(s) for s in spacing_mm)
        self.voxel = "pixels" if len(self.shape) == 2 else "voxels"

    def distances(self, members: tuple[int, ...], *, open_voxels: bool) -> SurfaceDistances | None:
        which = membership(self.set_matrix, members)
        predicted = np.zeros(self.set_matrix.shape[1], dtype=np.bool_)
        predicted[list(members)] = True
        return surface_distances(
            predicted[self.prediction],
            which.inside[self.reference],
            spacing=self.spacing,
            unknown=which.unknown[self.reference] if open_voxels else None,
        )


def _metrics(
    pair: _MaskPair, members: tuple[int, ...], counts: Counts, options: EvaluationOptions
) -> dict[MetricName, MetricValue]:
    overlap = overlap_metrics(counts)
    needs_border = counts.state == "judged" and {"hd95", "nsd"} & set(options.metric_names)
    distances = pair.distances(members, open_voxels=counts.unknown > 0) if needs_border else None
    values: dict[MetricName, MetricValue] = {}
    for metric in options.metrics:
        if counts.state in _WHY_NOT:
            values[metric.use] = MetricValue(
                value=None, unit=DEFINITIONS[metric.use].unit, reason=_WHY_NOT[counts.state]
            )
        elif metric.use in OVERLAP_METRICS:
            values[metric.use] = _overlap_value(metric.use, overlap[metric.use], counts)
        elif metric.use == "hd95":
            values[metric.use] = _hd95_value(pair, distances, counts)
        elif isinstance(metric, NsdMetric):
            values[metric.use] = _nsd_value(pair, distances, counts, metric)
        else:
            values[metric.use] = _difference(metric.use, pair, counts)
    return values


def _overlap_value(name: MetricName, value: float | None, counts: Counts) -> MetricValue:
    reason = "" if value is not None else "the reference fills all judged voxels"
    worst = counts.state != "judged" and name not in ("specificity", "accuracy")
    return MetricValue(value=value, unit="1", reason=reason, worst_case=worst)


def _hd95_value(pair: _MaskPair, distances: SurfaceDistances | None, counts: Counts) -> MetricValue:
    unit = "mm" if pair.spacing is not None else pair.voxel
    if counts.state != "judged":
        return MetricValue(value=image_diagonal(pair.shape, pair.spacing), unit=unit, worst_case=True)
    if distances is None:
        return MetricValue(value=None, unit=unit, reason="no border lies in the judged part of the image")
    return MetricValue(value=hd95(distances), unit=unit)


def _nsd_value(
    pair: _MaskPair, distances: SurfaceDistances | None, counts: Counts, metric: NsdMetric
) -> MetricValue:
    tolerance = metric.tolerance_mm if pair.spacing is not None else metric.tolerance_pixels
    unit = "1" if pair.spacing is not None else f"1, tolerance in {pair.voxel}"
    if tolerance is None:
        return MetricValue(value=None, unit="1", reason=f"{NO_SPACING}; the tolerance is in mm")
    if counts.state != "judged":
        return MetricValue(value=0.0, unit=unit, worst_case=True)
    if distances is None:
        return MetricValue(value=None, unit=unit, reason="no border lies in the judged part of the image")
    return MetricValue(value=nsd(distances, tolerance), unit=unit)


def _difference(name: MetricName, pair: _MaskPair, counts: Counts) -> MetricValue:
    extra, reference = counts.fp - counts.fn, counts.tp + counts.fn
    worst = counts.state != "judged"
    if name == "relative_difference":
        if reference == 0:
            return MetricValue(value=None, unit="%", reason="empty in the reference")
        return MetricValue(value=100.0 * extra / reference, unit="%", worst_case=worst)
    dims = len(pair.shape)
    if (name == "volume_difference") != (dims == 3):
        kind = "images with three axes" if name == "volume_difference" else "images with two axes"
        return MetricValue(value=None, unit=DEFINITIONS[name].unit, reason=f"defined for {kind} only")
    if pair.spacing is None:
        return MetricValue(value=float(extra), unit=pair.voxel, worst_case=worst)
    size = float(np.prod(pair.spacing)) / (1000.0 if dims == 3 else 1.0)
    return MetricValue(value=extra * size, unit="mm2" if dims == 2 else "ml", worst_case=worst)
