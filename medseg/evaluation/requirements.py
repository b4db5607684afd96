"""Demands of the settings against the means that were found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medseg.evaluation.definitions import DEFINITIONS
from medseg.evaluation.options import EvaluationOptions, MetricName
from medseg.evaluation.statistic import Statistic


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A demand of the settings and what was found; `text` is one sentence."""

    structure: str
    metric: str
    required: float
    found: float | None
    met: bool
    text: str


def check_requirements(
    structures: Mapping[str, Mapping[str, Statistic]], options: EvaluationOptions
) -> tuple[Requirement, ...]:
    """Compare the means with what the settings demand; a structure without a value does not meet it."""
    return tuple(
        _requirement(structure, metric, required, structures.get(structure, {}))
        for structure, limits in options.require.items()
        for metric, required in limits.items()
    )


def _requirement(
    structure: str, metric: MetricName, required: float, statistics: Mapping[str, Statistic]
) -> Requirement:
    statistic = statistics.get(metric)
    found = None if statistic is None else statistic.mean
    definition = DEFINITIONS[metric]
    least = definition.better == "higher"
    unit = "" if definition.unit == "1" else f" {definition.unit}"
    what = f"{structure}: mean {definition.title} {'>=' if least else '<='} {required:g}{unit} is required"
    if found is None or statistic is None:
        text = f"{what}, no case has a value in this unit"
        return Requirement(
            structure=structure, metric=metric, required=required, found=None, met=False, text=text
        )
    measured = abs(found) if definition.better == "zero" else found
    met = measured >= required if least else measured <= required
    text = f"{what}, found {found:.4g}{unit} over {statistic.count} cases"
    return Requirement(structure=structure, metric=metric, required=required, found=found, met=met, text=text)
