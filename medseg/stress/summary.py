"""Results of all cases under all tests -> means with intervals, falls against the clean image, what the gate saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.definitions import definition_of
from medseg.evaluation.metric_values import MetricValue
from medseg.evaluation.rows import Cell
from medseg.evaluation.statistic import Statistic, statistics_by_unit

CLEAN = "clean"
FORMAT = 1
UNNOTICED_FALL = 0.05
"""A first metric in 0..1 that fell by more than this counts as harm, which the gate or a flag should have told."""
_WORST = 20
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One case under one test at one severity (0: the clean image).

    Parameters
    ----------
    case_id, patient_id : str
    test : str
        Corruption, attack, or "clean".
    severity : int
    level : float
        In `unit`.
    unit : str
    gate : {"pass", "review", "refuse"}
    flags : {"pass", "note", "review", "fail"}
        Verdict of the flags on the mask.
    metrics : mapping of str to mapping of str to MetricValue
        By structure and metric; empty where there is no mask.
    note : str
        Why there is no mask.
    facts : mapping of str to float or None
        Of attacks: `epsilon_prepared` and `epsilon_source`.
    """

    case_id: str
    patient_id: str
    test: str
    severity: int
    level: float
    unit: str
    gate: str
    flags: str
    metrics: Mapping[str, Mapping[str, MetricValue]]
    note: str = ""
    facts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def noticed(self) -> bool:
        """Whether the gate or a flag asked for a person, or there was no mask."""
        return self.gate != "pass" or self.flags in ("review", "fail") or not self.metrics

    def value(self, structure: str, metric: str) -> MetricValue | None:
        """A metric, None where it was not made."""
        return self.metrics.get(structure, {}).get(metric)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> Trial:
        """The trial that `to_json` wrote."""
        metrics = {
            structure: {name: MetricValue(**v) for name, v in found.items()}
            for structure, found in value["metrics"].items()
        }
        return cls(**{**value, "metrics": metrics})


def summarise(
    trials: Sequence[Trial],
    *,
    metrics: Sequence[str],
    samples: int,
    level: float,
    seed: int,
) -> dict[str, Any]:
    """Everything that stress.json says about the trials, tests in the order of their harm, worst first.

    Parameters
    ----------
    trials : sequence of Trial
        Those of the clean images among them.
    metrics : sequence of str
        Keys of the metrics; the first one ranks.
    samples, level, seed
        Of the bootstrap, by patient.

    Returns
    -------
    dict
        Plain JSON values.
    """
    clean = {trial.case_id: trial for trial in trials if trial.test == CLEAN}
    structures = list(dict.fromkeys(s for trial in clean.values() for s in trial.metrics))
    bootstrap = PatientBootstrap.draw([t.patient_id for t in trials], samples=samples, level=level, seed=seed)
    work = _Summary(clean=clean, structures=structures, metrics=list(metrics), bootstrap=bootstrap)
    names = list(dict.fromkeys(t.test for t in trials if t.test != CLEAN))
    tests = [work.test(name, [t for t in trials if t.test == name]) for name in names]
    tests.sort(key=lambda test: -test["worst_drop"] if test["worst_drop"] is not None else np.inf)
    return {
        "format": FORMAT,
        "cases": len(clean),
        "patients": len({t.patient_id for t in clean.values()}),
        "metrics": list(metrics),
        "titles": {name: definition_of(name).title for name in metrics},
        "better": {name: definition_of(name).better for name in metrics},
        "structures": structures,
        "level": level,
        "samples": samples,
        "unnoticed_fall": UNNOTICED_FALL,
        "clean": work.severity(list(clean.values())),
        "tests": tests,
        "worst": work.worst(trials),
        "worst_per_case": work.worst_per_case(trials),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summary:
    clean: Mapping[str, Trial]
    structures: Sequence[str]
    metrics: Sequence[str]
    bootstrap: PatientBootstrap

    def test(self, name: str, trials: Sequence[Trial]) -> dict[str, Any]:
        """One corruption or attack over its severities."""
        severities = sorted({t.severity for t in trials})
        rows = [self.severity([t for t in trials if t.severity == s]) for s in severities]
        drops = [d for row in rows if (d := _first_drop(row)) is not None]
        return {
            "name": name,
            "unit": trials[0].unit,
            "severities": rows,
            "effect": self._effect(rows),
            "worst_drop": max(drops) if drops else None,
        }

    def severity(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """All cases under one test at one severity."""
        count = len(trials)
        first = trials[0]
        harmed = [t for t in trials if (fall := self._fall(t)) is not None and fall > UNNOTICED_FALL]
        return {
            "severity": first.severity,
            "level": first.level,
            "cases": count,
            "flagged": sum(t.gate != "pass" for t in trials) / count,
            "refused": sum(t.gate == "refuse" for t in trials) / count,
            "mask_flags": sum(t.flags in ("review", "fail") for t in trials) / count,
            "no_mask": sum(not t.metrics for t in trials) / count,
            "harmed": len(harmed) / count,
            "unnoticed": sum(not t.noticed for t in harmed) / count,
            "facts": _mean_facts(trials),
            "structures": {s: {m: self._cell(trials, s, m) for m in self.metrics} for s in self.structures},
        }

    def _cell(self, trials: Sequence[Trial], structure: str, metric: str) -> dict[str, Any]:
        """Mean with interval, and the paired fall against the clean images with its own."""
        pairs = [(t.patient_id, v) for t in trials if (v := t.value(structure, metric)) is not None]
        statistic = _main(statistics_by_unit(metric, pairs, self.bootstrap), pairs)
        falls = [(t.patient_id, f) for t in trials if (f := self._paired(t, structure, metric)) is not None]
        values = np.array([f for _, f in falls], dtype=np.float64)
        people = [p for p, _ in falls]
        interval = None
        if len(values):
            interval = self.bootstrap.interval(
                self.bootstrap.mean_samples(values, people), patients=len(set(people))
            )
        return {
            "unit": statistic.unit,
            "mean": statistic.mean,
            "interval": statistic.mean_interval,
            "minimum": statistic.minimum,
            "maximum": statistic.maximum,
            "count": statistic.count,
            "patients": statistic.patients,
            "worst_case": statistic.worst_case,
            "undefined": sum(statistic.undefined.values()),
            "drop": float(values.mean()) if len(values) else None,
            "drop_interval": interval,
        }

    def _paired(self, trial: Trial, structure: str, metric: str) -> float | None:
        """How much worse than on the clean image; above 0 is worse whatever the metric."""
        clean = self.clean.get(trial.case_id)
        before = None if clean is None else clean.value(structure, metric)
        after = trial.value(structure, metric)
        if before is None or after is None or before.value is None or after.value is None:
            return None
        if before.unit != after.unit:
            return None
        better = definition_of(metric).better
        if better == "zero":
            return abs(after.value) - abs(before.value)
        return (before.value - after.value) * (1 if better == "higher" else -1)

    def _fall(self, trial: Trial) -> float | None:
        """Largest fall of the first metric over the structures, where it is one of 0..1."""
        metric = self.metrics[0]
        if definition_of(metric).unit != "1":
            return None
        falls = [self._paired(trial, s, metric) for s in self.structures]
        return max((f for f in falls if f is not None), default=None)

    def _effect(self, rows: Sequence[Json]) -> dict[str, dict[str, float | None]]:
        """Mean fall over the severities, by structure and metric."""
        found: dict[str, dict[str, float | None]] = {}
        for structure in self.structures:
            found[structure] = {}
            for metric in self.metrics:
                drops = [row["structures"][structure][metric]["drop"] for row in rows]
                known = [d for d in drops if d is not None]
                found[structure][metric] = float(np.mean(known)) if known else None
        return found

    def worst(self, trials: Sequence[Trial]) -> list[dict[str, Any]]:
        """The trials with the largest falls of the first metric, at most twenty."""
        metric = self.metrics[0]
        found: list[dict[str, Any]] = []
        for trial in trials:
            falls = [(f, s) for s in self.structures if (f := self._paired(trial, s, metric)) is not None]
            if trial.test != CLEAN and falls:
                fall, structure = max(falls)
                value = trial.value(structure, metric)
                found.append(
                    {
                        "case_id": trial.case_id,
                        "test": trial.test,
                        "severity": trial.severity,
                        "structure": structure,
                        "value": None if value is None else value.value,
                        "drop": fall,
                        "gate": trial.gate,
                        "flags": trial.flags,
                    }
                )
        found.sort(key=lambda item: (-item["drop"], item["case_id"], item["test"]))
        return found[:_WORST]

    def worst_per_case(self, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
        """By structure: mean over the cases of the worst value of the first metric under any test, with interval."""
        metric = self.metrics[0]
        higher = definition_of(metric).better == "higher"
        result = {}
        for structure in self.structures:
            worst: dict[str, float] = {}
            people: dict[str, str] = {}
            for trial in trials:
                value = trial.value(structure, metric)
                if value is not None and value.value is not None:
                    known = worst.get(trial.case_id, value.value)
                    worst[trial.case_id] = min(known, value.value) if higher else max(known, value.value)
                    people[trial.case_id] = trial.patient_id
            values = np.array(list(worst.values()), dtype=np.float64)
            patients = [people[case] for case in worst]
            result[structure] = {
                "mean": float(values.mean()) if len(values) else None,
                "interval": self.bootstrap.interval(
                    self.bootstrap.mean_samples(values, patients), patients=len(set(patients))
                )
                if len(values)
                else None,
                "count": len(values),
            }
        return result


def _main(found: Mapping[str, Statistic], pairs: Sequence[tuple[str, MetricValue]]) -> Statistic:
    """The statistic in the unit that most cases have."""
    return max(found.values(), key=lambda statistic: statistic.count)


def _first_drop(row: Json) -> float | None:
    """Largest mean fall of the first metric over the structures."""
    drops = [next(iter(metrics.values()))["drop"] for metrics in row["structures"].values()]
    return max((d for d in drops if d is not None), default=None)


def _mean_facts(trials: Sequence[Trial]) -> dict[str, float | None]:
    names = list(dict.fromkeys(name for t in trials for name in t.facts))
    found: dict[str, float | None] = {}
    for name in names:
        values = [v for t in trials if (v := t.facts.get(name)) is not None]
        found[name] = float(np.mean(values)) if values else None
    return found


def table_rows(summary: Json) -> list[dict[str, Cell]]:
    """Rows of stress.csv: test x severity x structure x metric, the most harmful test first."""
    clean = {"name": CLEAN, "unit": "", "severities": [summary["clean"]], "effect": {}}
    rows: list[dict[str, Cell]] = []
    for test in (clean, *summary["tests"]):
        for severity in test["severities"]:
            shared: dict[str, Cell] = {"test": test["name"], "severity": severity["severity"]}
            shared |= {"level": severity["level"], "unit": test["unit"], "cases": severity["cases"]}
            shares = ("flagged", "refused", "mask_flags", "no_mask", "harmed", "unnoticed")
            for structure, metrics in severity["structures"].items():
                for metric, cell in metrics.items():
                    low, high = cell["interval"] or (None, None)
                    drop_low, drop_high = cell["drop_interval"] or (None, None)
                    rows.append(
                        shared
                        | {"structure": structure, "metric": metric, "metric_unit": cell["unit"]}
                        | {"mean": cell["mean"], "mean_low": low, "mean_high": high, "count": cell["count"]}
                        | {"patients": cell["patients"], "worst_case": cell["worst_case"]}
                        | {"undefined": cell["undefined"], "drop": cell["drop"]}
                        | {"drop_low": drop_low, "drop_high": drop_high}
                        | {
                            "mean_effect": (test["effect"].get(structure) or {}).get(metric),
                            **{name: severity[name] for name in shares},
                            **severity["facts"],
                        }
                    )
    return rows
