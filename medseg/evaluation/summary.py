"""From the evaluations of cases to statistics with intervals, lists of misses, and demands met or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg.errors import ConfigError
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation, MetricValue
from medseg.evaluation.definitions import DEFINITIONS
from medseg.evaluation.options import EvaluationOptions, MetricName
from medseg.evaluation.pooled import PooledIou, pooled_iou

FEW_PATIENTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A metric of one structure over cases. Fields are None where no case has a value.

    Parameters
    ----------
    unit : str
    count, patients : int
        Cases with a value, and their patients.
    mean, median, sd, minimum, maximum : float or None
        `sd` is the sample standard deviation (n - 1), None for a single case.
    mean_interval, median_interval : (float, float) or None
        Bootstrap over patients at `level`; None with fewer than two patients.
    worst_case : int
        Values that stand for a missed structure or for one that is not there; they count.
    undefined : mapping of str to int
        Cases without a value, by reason; they do not count.
    note : str
        What to mind when reading the interval.
    """

    unit: str
    count: int
    patients: int
    mean: float | None
    median: float | None
    sd: float | None
    minimum: float | None
    maximum: float | None
    mean_interval: tuple[float, float] | None
    median_interval: tuple[float, float] | None
    level: float
    worst_case: int
    undefined: Mapping[str, int]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A demand of the settings and what was found; `text` is one sentence."""

    structure: str
    metric: str
    required: float
    found: float | None
    met: bool
    text: str


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

    @property
    def unmet(self) -> tuple[Requirement, ...]:
        """Demands that are not met."""
        return tuple(r for r in self.requirements if not r.met)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN, with the definition of every metric."""
        names = {
            m.partition("_pixels")[0].partition("_voxels")[0] for s in self.structures.values() for m in s
        }
        value = asdict(self)
        for key in ("missed", "false_positives", "both_empty", "not_judged"):
            value[key] = [{"case_id": case, "structure": name} for case, name in value[key]]
        value["definitions"] = {name: asdict(d) for name, d in DEFINITIONS.items() if name in names}
        return value

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """One row per group, structure and metric, for a CSV."""
        tables = [("", "", self.structures)]
        tables += [(c, v, table) for c, values in self.groups.items() for v, table in values.items()]
        return [
            {"column": column, "value": value, "structure": structure, "metric": metric, **_flat(statistic)}
            for column, value, table in tables
            for structure, metrics in table.items()
            for metric, statistic in metrics.items()
        ]


def _flat(statistic: Statistic) -> dict[str, str | int | float | None]:
    row = asdict(statistic)
    for name in ("mean_interval", "median_interval"):
        low, high = row.pop(name) or (None, None)
        row |= {f"{name}_low": low, f"{name}_high": high}
    row["undefined"] = sum(row["undefined"].values())
    return row


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
    return Summary(
        cases=len(cases),
        patients=len({case.patient_id for case in cases}),
        structures=structures,
        groups={column: _grouped(cases, column, options) for column in options.by},
        missed=_in_state(cases, "missed"),
        false_positives=_in_state(cases, "false_positive"),
        both_empty=_in_state(cases, "both_empty"),
        not_judged=_in_state(cases, "not_judged"),
        requirements=check_requirements(structures, options),
        mean_iou=_pooled(cases, tuple(structures), options),
    )


def _pooled(
    cases: Sequence[CaseEvaluation], structures: Sequence[str], options: EvaluationOptions
) -> PooledIou | None:
    if options.mean_iou == "none":
        return None
    return pooled_iou(cases, options.pooled or structures, _bootstrap(cases, options))


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
    cases: Sequence[CaseEvaluation], column: str, options: EvaluationOptions
) -> dict[str, dict[str, dict[str, Statistic]]]:
    values = sorted({case.columns[column] for case in cases})
    return {v: _statistics([c for c in cases if c.columns[column] == v], options) for v in values}


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
            table[name] |= _by_unit(metric, pairs, bootstrap)
    return table


def _by_unit(
    metric: MetricName, pairs: Sequence[tuple[str, MetricValue]], bootstrap: PatientBootstrap
) -> dict[str, Statistic]:
    """The metric in its own unit, and in pixels or voxels where some cases have no spacing."""
    unit = DEFINITIONS[metric].unit
    others = sorted({v.unit for _, v in pairs if v.value is not None} - {unit})
    table = {}
    for each in (unit, *others):
        suffix = "" if each == unit else "_voxels" if "voxels" in each else "_pixels"
        own = [(p, v) for p, v in pairs if v.unit == each or (v.value is None and each == unit)]
        if own or each == unit:
            table[f"{metric}{suffix}"] = _statistic(own, each, bootstrap)
    return table


def _statistic(pairs: Sequence[tuple[str, MetricValue]], unit: str, bootstrap: PatientBootstrap) -> Statistic:
    reasons = [v.reason for _, v in pairs if v.value is None]
    patients = [p for p, v in pairs if v.value is not None]
    values = np.array([v.value for _, v in pairs if v.value is not None], dtype=np.float64)
    count, people = len(values), len(set(patients))
    few = f"only {people} patients: the interval is rough" if 2 <= people < FEW_PATIENTS else ""
    return Statistic(
        unit=unit,
        count=count,
        patients=people,
        mean=float(values.mean()) if count else None,
        median=float(np.median(values)) if count else None,
        sd=float(values.std(ddof=1)) if count > 1 else None,
        minimum=float(values.min()) if count else None,
        maximum=float(values.max()) if count else None,
        mean_interval=bootstrap.interval(bootstrap.mean_samples(values, patients), patients=people)
        if count
        else None,
        median_interval=bootstrap.interval(bootstrap.median_samples(values, patients), patients=people)
        if count
        else None,
        level=bootstrap.level,
        worst_case=sum(v.worst_case for _, v in pairs),
        undefined={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        note="one patient: no interval" if people == 1 else few,
    )


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
