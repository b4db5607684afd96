"""From the evaluations of cases to statistics with intervals, lists of misses, and demands met or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medseg.errors import ConfigError
from medseg.evaluation.agreement import SizeAgreement, size_agreements
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation
from medseg.evaluation.definitions import MetricDefinition, definitions_of
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.pooled import PooledIou, pooled_iou
from medseg.evaluation.requirements import Requirement, check_requirements
from medseg.evaluation.statistic import Statistic, statistics_by_unit
from medseg.evaluation.subgroups import SubgroupGap, group_names, subgroup_gaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Statistics over cases.

    Parameters
    ----------
    cases, patients : int
    structures : structure -> metric -> Statistic
        A metric whose values are in pixels for some cases has a second entry `<metric>_pixels`
        (`_voxels`): different units are never averaged together.
    groups : column -> value -> structure -> metric -> Statistic
    gaps : tuple of SubgroupGap
        Each group against all other cases.
    sizes : structure -> SizeAgreement
        Predicted against reference size.
    definitions : metric -> MetricDefinition
    missed, false_positives, both_empty, not_judged : tuple of (case_id, structure)
    requirements : tuple of Requirement
    mean_iou : PooledIou or None
        None where the settings do not ask for it.
    """

    cases: int
    patients: int
    structures: Mapping[str, Mapping[str, Statistic]]
    groups: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Statistic]]]]
    missed: tuple[tuple[str, str], ...]
    false_positives: tuple[tuple[str, str], ...]
    both_empty: tuple[tuple[str, str], ...]
    not_judged: tuple[tuple[str, str], ...]
    requirements: tuple[Requirement, ...]
    mean_iou: PooledIou | None = None
    gaps: tuple[SubgroupGap, ...] = ()
    sizes: Mapping[str, SizeAgreement] = field(default_factory=dict)
    definitions: Mapping[str, MetricDefinition] = field(default_factory=dict)

    @property
    def unmet(self) -> tuple[Requirement, ...]:
        """Demands that are not met."""
        return tuple(r for r in self.requirements if not r.met)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN, with the definition of every metric."""
        value = asdict(self)
        for key in ("missed", "false_positives", "both_empty", "not_judged"):
            value[key] = [{"case_id": case, "structure": name} for case, name in value[key]]
        return value

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """One row per group, structure and metric, for a CSV."""
        tables = [("", "", self.structures)]
        tables += [(c, v, table) for c, values in self.groups.items() for v, table in values.items()]
        return [
            {"column": column, "value": value, "structure": structure, "metric": metric, **statistic.row()}
            for column, value, table in tables
            for structure, metrics in table.items()
            for metric, statistic in metrics.items()
        ]


def summarise(cases: Sequence[CaseEvaluation], options: EvaluationOptions) -> Summary:
    """Statistics of all cases, of each group, and the demands of the settings.

    Parameters
    ----------
    cases : sequence of CaseEvaluation
        In any order; the result does not depend on it.
    options : EvaluationOptions
        Resamples, level, seed, columns and demands.

    Raises
    ------
    ConfigError
        A column of `by` that some case does not have, or a case id twice.
    """
    cases = sorted(cases, key=lambda case: case.case_id)
    _check_cases(cases, options)
    structures = _statistics(cases, options)
    named = {column: group_names([case.columns[column] for case in cases]) for column in options.by}
    bootstrap = _bootstrap(cases, options)
    return Summary(
        cases=len(cases),
        patients=len({case.patient_id for case in cases}),
        structures=structures,
        groups={column: _grouped(cases, names, options) for column, names in named.items()},
        gaps=tuple(
            gap
            for column, names in named.items()
            for gap in subgroup_gaps(cases, column, names, options, bootstrap)
        ),
        sizes=size_agreements(cases, bootstrap),
        definitions=definitions_of(options.keyed),
        missed=_in_state(cases, "missed"),
        false_positives=_in_state(cases, "false_positive"),
        both_empty=_in_state(cases, "both_empty"),
        not_judged=_in_state(cases, "not_judged"),
        requirements=check_requirements(structures, options),
        mean_iou=None
        if options.mean_iou == "none"
        else pooled_iou(cases, options.pooled or tuple(structures), bootstrap),
    )


def _bootstrap(cases: Sequence[CaseEvaluation], options: EvaluationOptions) -> PatientBootstrap:
    return PatientBootstrap.draw(
        [case.patient_id for case in cases], samples=options.samples, level=options.level, seed=options.seed
    )


def _check_cases(cases: Sequence[CaseEvaluation], options: EvaluationOptions) -> None:
    ids = [case.case_id for case in cases]
    doubled = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if doubled:
        raise ConfigError(f"cases must be evaluated once, found {', '.join(doubled[:5])} more than once")
    for column in options.by:
        lacking = [case.case_id for case in cases if column not in case.columns]
        if lacking:
            raise ConfigError(
                f"evaluation.by names the column {column!r}, which {len(lacking)} of {len(cases)} cases "
                f"do not have (first: {lacking[0]}); known: {', '.join(sorted(cases[0].columns)) or 'none'}"
            )


def _in_state(cases: Iterable[CaseEvaluation], state: str) -> tuple[tuple[str, str], ...]:
    return tuple((c.case_id, s.structure) for c in cases for s in c.structures if s.state == state)


def _grouped(
    cases: Sequence[CaseEvaluation], names: Sequence[str], options: EvaluationOptions
) -> dict[str, dict[str, dict[str, Statistic]]]:
    pairs = list(zip(cases, names, strict=True))
    return {v: _statistics([c for c, n in pairs if n == v], options) for v in sorted(set(names))}


def _statistics(
    cases: Sequence[CaseEvaluation], options: EvaluationOptions
) -> dict[str, dict[str, Statistic]]:
    bootstrap = _bootstrap(cases, options)
    names = dict.fromkeys(s.structure for case in cases for s in case.structures)
    table: dict[str, dict[str, Statistic]] = {}
    for name in names:
        found = [(case.patient_id, s) for case in cases if (s := case.structure(name)) is not None]
        table[name] = {}
        for metric in options.metric_names:
            pairs = [(patient, s.metrics[metric]) for patient, s in found if metric in s.metrics]
            table[name] |= statistics_by_unit(metric, pairs, bootstrap)
    return table
