"""Stage `check`: find the cases, split them, look at every file; all problems in one list."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medseg import provenance
from medseg.data.checks import CheckReport, check_cases
from medseg.data.manifest import Case, Split, manifest_error
from medseg.data.options import FoldSplit
from medseg.data.splits import assign_folds, assign_splits
from medseg.data.tables import write_csv
from medseg.errors import ManifestError
from medseg.evaluation.centreline import require_skeletons
from medseg.export.encapsulated_pdf import require_pdf
from medseg.pipeline import send
from medseg.pipeline.context import CaseFailure, Context
from medseg.pipeline.readers import image_reader, mask_reader
from medseg.pipeline.sources import find_cases
from medseg.pipeline.table_files import require_formats
from medseg.privacy import pseudonym

STAGE = "check"
_FACTS = "check.json"


def plan(context: Context) -> str:
    """One line for the dry run."""
    source = context.settings.data.source
    what = {
        "phantom": f"draw {getattr(source, 'cases', 0)} synthetic studies",
        "manifest": f"read the cases of {Path(getattr(source, 'path', '')).name}",
        "folder": "search the folder for images",
    }[source.use]
    return f"{what}, split by patient, look at every file"


def run(context: Context) -> dict[str, Any]:
    """Set the cases, splits and facts of the context; write cases.csv and check.json.

    Raises
    ------
    ManifestError
        A patient in two splits, or no usable case at all.
    MissingPackageError
        What an export or the sending needs is not installed: better known before the training than after it.
    ConfigError
        So is a certificate or secret that cannot be used.
    """
    if "encapsulated_pdf" in context.settings.export or context.settings.report.pdf:
        require_pdf()
    require_formats(context.settings.report.tables)
    if "cldice" in context.settings.evaluation.metric_names:
        require_skeletons()
    send.require(context)
    cases, skipped = find_cases(context.settings.data.source, made_folder=context.run.cache)
    for text in skipped[:5]:
        context.reporter.note(f"left out: {text}")
    if len(skipped) > 5:
        context.reporter.note(f"left out: {len(skipped) - 5} more files, listed in check.json")
    hashes = {case.case_id: _hashes(case) for case in cases}
    inputs = provenance.sha256_json(hashes)
    context.run.note("inputs", hashes)
    context.splits, context.folds = dict(_splits(context, cases)), _folds(context, cases)
    cases = tuple(replace(case, split=context.splits[case.case_id]) for case in cases)
    report = _known_report(context, inputs) or _look(context, cases, inputs, skipped)
    _take(context, cases, report)
    return {
        "text": _text(context),
        "inputs_sha256": inputs,
        "cases": len(context.cases),
        "refused": len(context.failures),
    }


def _hashes(case: Case) -> list[str]:
    paths = [*case.images, *([case.label] if case.label else [])]
    return [provenance.sha256_file(path) if path.is_file() else "missing" for path in paths]


def _splits(context: Context, cases: tuple[Case, ...]) -> dict[str, Split]:
    if context.settings.training is None:
        return {case.case_id: case.split or "test" for case in cases}
    return dict(assign_splits(cases, context.settings.data.split))


def _folds(context: Context, cases: tuple[Case, ...]) -> dict[str, int]:
    """Case id -> fold, where every fold is tested in its turn."""
    split = context.settings.data.split
    if context.settings.training is None or not isinstance(split, FoldSplit) or split.fold != "all":
        return {}
    return assign_folds(cases, split)


def _known_report(context: Context, inputs: str) -> dict[str, Any] | None:
    """What an earlier attempt found out about the very same files."""
    path = context.run.path / _FACTS
    if not path.exists() or not context.run.stage(STAGE).done:
        return None
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known if known.get("inputs_sha256") == inputs else None


def _look(context: Context, cases: tuple[Case, ...], inputs: str, skipped: tuple[str, ...]) -> dict[str, Any]:
    found = check_cases(
        cases,
        table=context.table,
        read_image=image_reader(context.settings),
        read_label=mask_reader(context.settings),
        options=context.settings.data,
        gray_only=context.settings.refuses_colour,
        splits={case: f"fold {fold}" for case, fold in context.folds.items()} or context.splits,
        progress=lambda done, total: context.reporter.advanced(STAGE, done, total, "looking at every file"),
    )
    value = _report_json(found, inputs, skipped)
    provenance.write_json(context.run.path / _FACTS, value)
    return value


def _report_json(found: CheckReport, inputs: str, skipped: tuple[str, ...]) -> dict[str, Any]:
    return {
        "inputs_sha256": inputs,
        "problems": [
            {"case_id": p.case_id, "level": p.level, "kind": p.kind, "text": p.text, "leak": p.leak}
            for p in found.problems
        ],
        "facts": {case_id: asdict(fact) for case_id, fact in found.facts.items()},
        "unusable": sorted(found.unusable),
        "skipped": list(skipped),
    }


def _take(context: Context, cases: tuple[Case, ...], report: dict[str, Any]) -> None:
    whole = [
        p["text"] for p in report["problems"] if p["level"] == "error" and (p["leak"] or not p["case_id"])
    ]
    if whole:
        raise manifest_error("the list of cases", whole)
    reasons: dict[str, list[str]] = {}
    for problem in report["problems"]:
        if problem["level"] == "error":
            reasons.setdefault(problem["case_id"], []).append(problem["text"])
        else:
            context.run.log("check note", case=pseudonym(problem["case_id"]), kind=problem["kind"])
    unusable = set(report["unusable"]) | set(reasons)
    for case_id in sorted(unusable):
        text = "; ".join(reasons.get(case_id, ["cannot be used"]))
        context.failures.append(CaseFailure(case_id=case_id, stage=STAGE, text=text))
        context.reporter.note(f"{case_id}: {text}")
    context.cases = tuple(case for case in cases if case.case_id not in unusable)
    context.facts = report["facts"]
    if not context.cases:
        raise ManifestError(f"none of the {len(cases)} cases can be used; the reasons are above")
    write_csv(
        context.run.path / "cases.csv",
        [
            {
                "case_id": c.case_id,
                "patient_id": c.patient_id,
                "split": c.split or "",
                **({"fold": context.folds[c.case_id]} if context.folds else {}),
                "labelled": c.label is not None,
            }
            for c in context.cases
        ],
    )


def _text(context: Context) -> str:
    left = f", {len(context.failures)} refused" if context.failures else ""
    if context.every_fold:
        sizes = Counter(context.folds[case.case_id] for case in context.cases)
        split = f"folds of {', '.join(str(sizes[fold]) for fold in sorted(set(context.folds.values())))}"
        return f"{len(context.cases)} cases{left}: {split}"
    counts = {name: len(context.in_split(name)) for name in ("train", "validation", "test")}
    split = " / ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{len(context.cases)} cases{left}: {split}"
