"""Evaluation of one case: its structures, their metrics, and rows for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.evaluation.definitions import definition_of
from medseg.evaluation.mask_pair import MaskPair
from medseg.evaluation.metric_values import MetricValue, metric_values
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.overlap import Counts, State
from medseg.evaluation.rows import Cell
from medseg.evaluation.steps import voxel_size
from medseg.labels import LabelTable


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureEvaluation:
    """Counts and metrics of one label or region."""

    structure: str
    state: State
    counts: Counts
    metrics: Mapping[str, MetricValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseEvaluation:
    """All structures of one case.

    Parameters
    ----------
    case_id, patient_id : str
    structures : tuple of StructureEvaluation
    columns : mapping of str to str
        Manifest columns that results are split by.
    voxel : float or None
        Size of one voxel in `size_unit`; None where it is not known, and sizes are counts.
    size_unit : str
        "ml", "mm2", "voxels" or "pixels".
    """

    case_id: str
    patient_id: str
    structures: tuple[StructureEvaluation, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    voxel: float | None = None
    size_unit: str = "voxels"

    def structure(self, name: str) -> StructureEvaluation | None:
        """The evaluation of a label or region, None where it was not asked for."""
        return next((s for s in self.structures if s.structure == name), None)

    def sizes(self, structure: StructureEvaluation) -> tuple[float, float]:
        """Size in the prediction and in the reference, in `size_unit`, of the voxels that count."""
        counts, voxel = structure.counts, 1.0 if self.voxel is None else self.voxel
        return (counts.tp + counts.fp) * voxel, (counts.tp + counts.fn) * voxel

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN."""
        return {
            "case_id": self.case_id,
            "patient_id": self.patient_id,
            "columns": dict(self.columns),
            "voxel": self.voxel,
            "size_unit": self.size_unit,
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
            voxel=value.get("voxel"),
            size_unit=value.get("size_unit", "voxels"),
        )

    def rows(self) -> list[dict[str, Cell]]:
        """One row per structure for a CSV: identifiers, columns, state, counts, sizes, metrics with units.

        Metrics whose unit can change from case to case (mm or pixels) have a column `<metric>_unit`.
        """
        rows = []
        for s in self.structures:
            row: dict[str, Cell] = {"case_id": self.case_id, "patient_id": self.patient_id, **self.columns}
            row |= {"structure": s.structure, "state": s.state}
            row |= {name: getattr(s.counts, name) for name in ("tp", "fp", "fn", "tn", "unknown")}
            row["predicted_size"], row["reference_size"] = self.sizes(s)
            row["size_unit"] = self.size_unit
            for name, metric in s.metrics.items():
                row[name] = metric.value
                if definition_of(name).unit not in ("1", "%"):
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
    affine: NDArray[np.float64] | None = None,
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
    affine : (4, 4) float64 array, optional
        Voxel to world, where the spacing is known; on a sheared grid (tilted gantry) distances and
        sizes are wrong without it.

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
    pair = MaskPair(prediction, reference, table.set_matrix, spacing_mm=spacing_mm, affine=affine)
    structures = []
    for name, members in chosen_structures(table, options).items():
        counts = pair.counts(members)
        metrics = metric_values(pair, name, members, counts, options)
        structures.append(
            StructureEvaluation(structure=name, state=counts.state, counts=counts, metrics=metrics)
        )
    voxel, unit = _voxel(pair)
    return CaseEvaluation(
        case_id=case_id,
        patient_id=patient_id or case_id,
        structures=tuple(structures),
        columns=dict(columns or {}),
        voxel=voxel,
        size_unit=unit,
    )


def _voxel(pair: MaskPair) -> tuple[float | None, str]:
    """Size of a voxel and its unit."""
    if pair.steps is None:
        return None, pair.voxel
    size = voxel_size(pair.steps)
    return (size / 1000.0, "ml") if pair.dims == 3 else (size, "mm2")
