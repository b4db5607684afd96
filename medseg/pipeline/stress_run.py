"""`medseg stress`: the test cases of a pipeline, or of a manifest, under corruptions and attacks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.data.encoding import encode_mask
from medseg.data.manifest import Case, read_manifest
from medseg.data.tables import write_csv
from medseg.errors import ConfigError, EnvironmentFailure, ManifestError, MedsegError
from medseg.inference.options import PostprocessStep
from medseg.io.content import pixel_digest
from medseg.io.read import read_image, read_label
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline.api import opened
from medseg.pipeline.cohort_settings import chosen_device
from medseg.pipeline.context import Context
from medseg.pipeline.folds import member_of
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.model_source import read_model
from medseg.pipeline.predict import model_bundle
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.readers import image_reader, read_reference
from medseg.pipeline.result import Result
from medseg.pipeline.stress_case import StressedCase, attacker_of
from medseg.privacy import safe_name
from medseg.provenance import sha256_json, versions, write_json, write_text
from medseg.quality.options import GateOptions
from medseg.report.stress import Language, render_stress_page
from medseg.stress.options import ATTACKS, StressOptions
from medseg.stress.summary import CLEAN, Trial, summarise, table_rows
from medseg.volume import Volume

STAGE = "stress"
FOLDER = "stress"
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


def stress_pipeline(
    pipeline: Path,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    options: StressOptions,
    language: Language = "en",
    reporter: Reporter | None = None,
) -> Result:
    """Stress the model of a pipeline on its test cases; it is trained first where it is not.

    Writes ``stress/`` in the run folder: stress.csv, stress.json, stress.html, and a file for each case and test, with
    which a run that was stopped goes on.

    Parameters
    ----------
    pipeline, output, overrides
        As for `run_pipeline`.
    options : StressOptions
    language : {"en", "zh"}
        Of the page.
    reporter : Reporter, optional

    Raises
    ------
    ManifestError
        No test case has a mask.
    """
    reporter = reporter or SilentReporter()
    with opened(pipeline, output=output, overrides=overrides, until="train", reporter=reporter) as context:
        tested = _of_pipeline(context)
        return _Stress(
            tested=tested,
            options=options,
            folder=context.run.path / FOLDER,
            language=language,
            reporter=reporter,
        ).run()


def stress_model(
    model: str,
    manifest: Path,
    *,
    output: Path,
    root: Path | None = None,
    split: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    options: StressOptions,
    language: Language = "en",
    reporter: Reporter | None = None,
) -> Result:
    """Stress a bundle on the cases of a manifest whose masks use the bundle's values or label schemes.

    Parameters
    ----------
    model : str
        Shipped name, or folder of a bundle.
    manifest : Path
    output : Path
    root : Path, optional
        Folder that the manifest's paths start from.
    split : str, optional
        Whose cases: train, validation, test or all; test where the manifest has test cases, else all.
    device : str, optional
    threads : int, optional
        Of the processor; all of the process unless given.
    options, language, reporter
        As for `stress_pipeline`.
    """
    place = chosen_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    bundle = read_model(model)
    cases = _of_split(read_manifest(manifest, root=root), split, manifest)
    tested = Tested(
        name=manifest.stem,
        cases=cases,
        read=partial(_read_case, bundle=bundle),
        bundle=lambda _: bundle,
        load=partial(LoadedModel, device=place, gate_options=GateOptions(refuse=False)),
        device=place,
    )
    reporter = reporter or SilentReporter()
    return _Stress(tested=tested, options=options, folder=output, language=language, reporter=reporter).run()


def _of_pipeline(context: Context) -> Tested:
    config = context.config
    cases = context.labelled(context.chosen("all" if context.every_fold else config.evaluation.cases))
    read = image_reader(config)

    def read_case(case: Case) -> tuple[Volume, NDArray[np.int16]]:
        volume = read(case.images)
        return volume, read_reference(case, volume, config, context.table)

    def bundle_of(case: Case) -> Bundle:
        return read_bundle(member_of(context, case.case_id)) if context.every_fold else model_bundle(context)

    cleaning: tuple[PostprocessStep, ...] | None = (
        None if config.postprocess == "auto" else tuple(config.postprocess)
    )

    def load(bundle: Bundle) -> LoadedModel:
        return LoadedModel(
            bundle,
            device=context.device(),
            gate_options=config.gate.model_copy(update={"refuse": False}),
            flag_options=config.flags,
            inference=config.inference,
            cleaning=cleaning,
            precision=config.predict.precision,
        )

    return Tested(
        name=config.name, cases=cases, read=read_case, bundle=bundle_of, load=load, device=context.device()
    )


def _of_split(cases: Sequence[Case], split: str | None, manifest: Path) -> tuple[Case, ...]:
    words = ("train", "validation", "test", "all")
    if split is not None and split not in words:
        raise ConfigError(f"--split {split!r}: expected one of {', '.join(words)}")
    wanted = split or ("test" if any(case.split == "test" for case in cases) else "all")
    chosen = tuple(case for case in cases if wanted == "all" or case.split == wanted)
    found = tuple(case for case in chosen if case.label is not None)
    if not found:
        raise ManifestError(
            f"{manifest}: none of the {len(chosen)} cases of split {wanted} has a mask; name another --split"
        )
    return found


def _read_case(case: Case, *, bundle: Bundle) -> tuple[Volume, NDArray[np.int16]]:
    if case.label is None:
        raise ValueError("a case without a mask has no reference")
    several = bundle.in_channels > 1
    volume = read_image(case.images, fourth_axis="channels" if several else "refuse")
    mask = read_label(case.label, volume)
    return volume, encode_mask(mask, scheme=case.scheme, like=volume, table=bundle.table)


@dataclass(slots=True, kw_only=True)
class _Stress:
    """One stress test, case after case."""

    tested: Tested
    options: StressOptions
    folder: Path
    language: Language
    reporter: Reporter
    failures: dict[str, str] = field(default_factory=dict)

    def run(self) -> Result:
        cases, begin = self._drawn(), time.monotonic()
        tests = (CLEAN, *self.options.tests)
        self.reporter.stage_started(STAGE, f"{len(cases)} cases, {len(tests) - 1} tests")
        bundles: dict[str, Bundle] = {}
        trials: list[Trial] = []
        for number, (bundle, group) in enumerate(self._groups(cases)):
            bundles[bundle.weights_sha256] = bundle
            trials += self._of_bundle(
                bundle, group, tests, done=sum(len(g) for _, g in self._groups(cases)[:number])
            )
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
            total = len(tests) * (self.options.cases or len(self.tested.cases))
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
    rows = []
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
