"""Cases under corruptions and attacks, one after the other; results of earlier runs are used again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.manifest import Case
from medseg.data.tables import write_csv
from medseg.errors import EnvironmentFailure, ManifestError, MedsegError
from medseg.io.content import pixel_digest
from medseg.models.bundle import Bundle
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.progress import Reporter
from medseg.pipeline.result import Result
from medseg.pipeline.stress_case import StressedCase, attacker_of
from medseg.privacy import safe_name
from medseg.provenance import sha256_json, versions, write_json, write_text
from medseg.report.stress import Language, render_stress_page
from medseg.stress.options import ATTACKS, StressOptions
from medseg.stress.summary import CLEAN, Trial, summarise, table_rows
from medseg.volume import Volume

STAGE = "stress"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What is tested: cases, how they are read, and which bundle segments each.

    Parameters
    ----------
    name : str
        Of the pipeline or the manifest.
    cases : tuple of Case
        With a mask.
    read : callable (case) -> (Volume, (1, *spatial) set indices)
    bundle : callable (case) -> Bundle
    load : callable (bundle) -> LoadedModel
        With a gate that judges and does not refuse.
    device : str
    """

    name: str
    cases: tuple[Case, ...]
    read: Callable[[Case], tuple[Volume, NDArray[np.int16]]]
    bundle: Callable[[Case], Bundle]
    load: Callable[[Bundle], LoadedModel]
    device: str


@dataclass(slots=True, kw_only=True)
class StressTest:
    """One stress test, case after case.

    Parameters
    ----------
    tested : Tested
    options : StressOptions
    folder : Path
        stress.csv, stress.json, stress.html, and ``cases/<case>/<test>.json``.
    language : {"en", "zh"}
    reporter : Reporter
    failures : dict of str to str
        Grows: case -> why it could not be tested.
    """

    tested: Tested
    options: StressOptions
    folder: Path
    language: Language
    reporter: Reporter
    failures: dict[str, str] = field(default_factory=dict)

    def run(self) -> Result:
        """Test the cases and write the results.

        Raises
        ------
        ManifestError
            No case could be tested.
        """
        cases, begin = self._drawn(), time.monotonic()
        tests = (CLEAN, *self.options.tests)
        self.reporter.stage_started(STAGE, f"{len(cases)} cases, {len(tests) - 1} tests")
        bundles: dict[str, Bundle] = {}
        trials: list[Trial] = []
        done = 0
        for bundle, group in self._groups(cases):
            bundles[bundle.weights_sha256] = bundle
            trials += self._of_bundle(bundle, group, tests, done=done)
            done += len(group)
        if not trials:
            raise ManifestError(
                f"no case could be tested; the first of {len(self.failures)}: "
                f"{next(iter(self.failures.items()), ('none', 'no case has a mask'))[1]}"
            )
        return self._written(trials, list(bundles.values()), seconds=time.monotonic() - begin)

    def _drawn(self) -> list[Case]:
        """The cases in their order, of which `cases` are drawn by the seed."""
        count = self.options.cases
        if count is None or count >= len(self.tested.cases):
            return list(self.tested.cases)
        order = np.random.default_rng(self.options.seed).permutation(len(self.tested.cases))
        return [self.tested.cases[index] for index in sorted(order[:count].tolist())]

    def _groups(self, cases: Sequence[Case]) -> list[tuple[Bundle, list[Case]]]:
        """Cases by the bundle that segments them."""
        groups: dict[str, tuple[Bundle, list[Case]]] = {}
        for case in cases:
            bundle = self.tested.bundle(case)
            groups.setdefault(str(bundle.folder), (bundle, []))[1].append(case)
        return list(groups.values())

    def _of_bundle(
        self, bundle: Bundle, cases: Sequence[Case], tests: Sequence[str], *, done: int
    ) -> list[Trial]:
        model = self.tested.load(bundle)
        wants = set(tests) & set(ATTACKS)
        attacker = attacker_of(model, device=self.tested.device) if wants else None
        found: list[Trial] = []
        for case in cases:
            try:
                volume, sets = self.tested.read(case)
                stressed = StressedCase(
                    case_id=case.case_id,
                    patient_id=case.patient_id,
                    volume=volume,
                    sets=sets,
                    model=model,
                    attacker=attacker,
                    options=self.options,
                )
                found += self._case(stressed, tests, done=done)
            except EnvironmentFailure:
                raise
            except MedsegError as err:
                self.failures[case.case_id] = str(err)
                self.reporter.note(f"{case.case_id}: {err}")
            done += 1
        return found

    def _case(self, case: StressedCase, tests: Sequence[str], *, done: int) -> list[Trial]:
        """All trials of a case; those of an earlier run with the same files, weights and options are used again."""
        shared = [
            _FORMAT,
            versions()["medseg"],
            case.model.bundle.weights_sha256,
            case.model.bundle.preprocess,
            case.model.predictor.options.model_dump(mode="json"),
            [step.model_dump(mode="json") for step in case.model.cleaning],
            case.model.gate_options.model_dump(mode="json"),
            case.model.flag_options.model_dump(mode="json"),
            self.options.model_dump(mode="json", include={"severities", "seed", "steps", "metrics"}),
            case.volume.source.sha256 or pixel_digest(case.volume.array),
            pixel_digest(case.sets),
        ]
        found: list[Trial] = []
        for number, test in enumerate(tests):
            total = len(tests) * len(self._drawn())
            self.reporter.advanced(STAGE, done * len(tests) + number, total, f"{case.case_id}, {test}")
            path = self.folder / "cases" / safe_name(case.case_id) / f"{test}.json"
            key = sha256_json([*shared, test])
            trials = _known(path, key)
            if trials is None:
                trials = case.trials(test)
                write_json(path, {"key": key, "trials": [trial.to_json() for trial in trials]})
            found += trials
        return found

    def _written(self, trials: Sequence[Trial], bundles: Sequence[Bundle], *, seconds: float) -> Result:
        metrics = self.options.metrics
        summary = summarise(
            trials,
            metrics=metrics.metric_names,
            samples=metrics.samples,
            level=metrics.level,
            seed=metrics.seed,
        )
        record: dict[str, Any] = {
            **summary,
            "data": self.tested.name,
            "models": [bundle.facts for bundle in bundles],
            "options": self.options.model_dump(mode="json", exclude={"metrics"}),
            "failed": self.failures,
            "versions": versions(),
        }
        write_json(self.folder / "stress.json", record)
        write_csv(self.folder / "stress.csv", table_rows(record))
        write_text(self.folder / "stress.html", render_stress_page(record, language=self.language))
        columns, rows = overview(record)
        self.reporter.table("", columns, rows)
        count = record["cases"]
        self.reporter.stage_done(STAGE, f"{count} cases, {len(record['tests'])} tests", seconds)
        failed = [{"case_id": case_id, "error": text} for case_id, text in self.failures.items()]
        return Result(
            exit_code=MedsegError.exit_code if failed else 0,
            path=self.folder / "stress.html",
            lines=(f"{len(failed)} case(s) failed: {', '.join(list(self.failures)[:10])}",) if failed else (),
            facts={"folder": str(self.folder), "cases": count, "failed": failed},
        )


def overview(record: dict[str, Any]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows for the terminal: the first metric of the structure that suffers most, worst test first."""
    metric = record["metrics"][0]
    columns = [
        "test",
        "structure",
        f"{metric} clean",
        "mean fall",
        "worst",
        "at severity",
        "told",
        "untold harm",
    ]
    rows: list[tuple[str, ...]] = []
    for test in record["tests"]:
        effects = {s: found[metric] for s, found in test["effect"].items() if found[metric] is not None}
        if not effects:
            continue
        structure = max(effects, key=lambda s: effects[s])
        row = max(
            test["severities"],
            key=lambda r: -np.inf if (d := r["structures"][structure][metric]["drop"]) is None else d,
        )
        clean, worst = record["clean"]["structures"][structure][metric], row["structures"][structure][metric]
        told = sum(r["flagged"] for r in test["severities"]) / len(test["severities"])
        rows.append(
            (
                test["name"],
                structure,
                _number(clean["mean"]),
                _number(effects[structure]),
                _number(worst["mean"]),
                f"{row['severity']}",
                f"{told:.0%}",
                f"{max(r['unnoticed'] for r in test['severities']):.0%}",
            )
        )
    return columns, rows


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _known(path: Path, key: str) -> list[Trial] | None:
    """Trials of an earlier run, None where there are none of this key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] != key:
            return None
        return [Trial.from_json(value) for value in content["trials"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
