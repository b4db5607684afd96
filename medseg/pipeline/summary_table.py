"""The summary of an evaluation as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg.evaluation.statistic import Statistic
from medseg.evaluation.summary import Summary

MAIN = ("dice", "hd95", "nsd")


def main_metrics(names: Sequence[str]) -> list[str]:
    """Those of the metrics that fit a line: Dice, HD95 and NSD, or the first three where none is there."""
    return [name for name in MAIN if name in names] or list(names[:3])


def summary_table(
    summary: Summary, names: Sequence[str], *, level: float
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows: mean and interval of the main metrics of each structure, cases, missed ones."""
    shown = main_metrics(names)
    columns = ["structure", *(f"{name} ({level:.0%})" for name in shown), "cases", "missed", "invented"]
    missed = [structure for _, structure in summary.missed]
    invented = [structure for _, structure in summary.false_positives]
    rows = [
        (
            structure,
            *(statistic_cell(metrics, name) for name in shown),
            str(max((s.count for s in metrics.values()), default=0)),
            str(missed.count(structure)),
            str(invented.count(structure)),
        )
        for structure, metrics in summary.structures.items()
    ]
    return columns, rows


def statistic_cell(metrics: Mapping[str, Statistic], name: str, *, interval: bool = True) -> str:
    """Mean and interval of a metric, in pixels or voxels where it has no value in mm."""
    keys = (name, f"{name}_pixels", f"{name}_voxels")
    statistic = next((metrics[k] for k in keys if k in metrics and metrics[k].mean is not None), None)
    if statistic is None or statistic.mean is None:
        return "not defined"
    digits = 3 if statistic.unit.startswith("1") else 1
    unit = "" if statistic.unit.startswith("1") else f" {statistic.unit}"
    text = f"{statistic.mean:.{digits}f}{unit}"
    if interval and statistic.mean_interval is not None:
        low, high = statistic.mean_interval
        text += f" ({low:.{digits}f}-{high:.{digits}f})"
    return text
