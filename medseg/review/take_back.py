"""Corrected masks and sign-offs -> the next version of the manifest, with settings that fine-tune on it."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.data.manifest import Case
from medseg.errors import InputError, MedsegError, StorageError
from medseg.pipeline.progress import Reporter
from medseg.pipeline.result import Result
from medseg.pipeline.run_folder import now
from medseg.provenance import TEMPORARY_SUFFIX, sha256_file, write_text
from medseg.review.decide import Deciding, Outcome, new_rows, outcome_record
from medseg.review.fine_tune import fine_tune_overrides, fine_tune_settings, fine_tune_text
from medseg.review.images import Origin, find_origin
from medseg.review.options import ReviewOptions
from medseg.review.results import Results
from medseg.review.returned import ReturnedMasks, find_returned
from medseg.review.signoff import read_signoffs
from medseg.review.versions import Version, latest_version, masks_path, next_number, write_version

_SHOWN = 20
_TESTED = ("test", "validation")


def take_back(results: Results, home: Path, options: ReviewOptions, *, reporter: Reporter) -> Result:
    """Decide every case that came back, and write the next version where anything is new.

    Parameters
    ----------
    results : Results
    home : Path
        Folder of the versions, held by this process.
    options : ReviewOptions
    reporter : Reporter

    Returns
    -------
    Result
        Exit code 1 where some cases could not be taken, 3 where none could; those are left as they were.

    Raises
    ------
    MedsegError
        What concerns all cases; nothing was changed then.
    """
    origin = find_origin(results, images=options.images, manifest=options.manifest)
    returned = _returned(results, options)
    signoffs = read_signoffs(returned.signoffs)
    parent = latest_version(home)
    if parent is None and origin.rows:
        parent = write_version(
            home, 0, origin.rows, {"created": now(), "results": _facts(results), "parent": None}
        )
    rows = {} if parent is None else {row.case_id: row for row in parent.rows()}
    work = _TakeBack(
        results=results,
        home=home,
        options=options,
        origin=origin,
        parent=parent,
        number=next_number(home),
        rows=rows,
        by_case={case_id: rows.get(row.case_id, row) for case_id, row in origin.by_case.items()},
    )
    part = home / f".masks-v{work.number}{TEMPORARY_SUFFIX}"
    shutil.rmtree(part, ignore_errors=True)
    deciding = Deciding(results=results, rows=work.by_case, returned=returned, signoffs=signoffs, masks=part)
    try:
        reporter.stage_started("review", "corrected masks")
        outcomes, problems = deciding.all(lambda n, total, text: reporter.advanced("review", n, total, text))
        return work.finish(outcomes, problems, part)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _returned(results: Results, options: ReviewOptions) -> ReturnedMasks:
    if options.take_back is None:
        return ReturnedMasks(masks={}, signoffs=options.signoffs)
    found = find_returned(options.take_back, results)
    return replace(found, signoffs=tuple(dict.fromkeys((*found.signoffs, *options.signoffs))))


def _facts(results: Results) -> dict[str, Any]:
    return {"folder": results.path.resolve().name, "kind": results.kind, "model": results.model}


@dataclass(frozen=True, slots=True, kw_only=True)
class _TakeBack:
    """One taking back: what it starts from, and the number of its version.

    `rows` are those of the version before, by their case id; `by_case` has the row of each result, or a new one.
    """

    results: Results
    home: Path
    options: ReviewOptions
    origin: Origin
    parent: Version | None
    number: int
    rows: Mapping[str, Case]
    by_case: Mapping[str, Case]

    def finish(self, outcomes: Sequence[Outcome], problems: Mapping[str, str], part: Path) -> Result:
        """Write the version, if there is anything new, and tell."""
        counts = Counter(outcome.kind for outcome in outcomes)
        lines = [
            f"{outcome.case_id}: {_said(outcome)}" for outcome in outcomes if outcome.change is not None
        ][:_SHOWN]
        facts: dict[str, Any] = {"outcomes": dict(counts), "problems": dict(problems)}
        path = self.home
        if counts["corrected"] or counts["accepted"] or counts["rejected"]:
            version, more, added = self._write(outcomes, problems, part)
            path, lines, facts = version.manifest, [*lines, *more], facts | added
        else:
            lines.append("no mask was changed or signed off, so no version was written")
        lines += [", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))] if counts else []
        lines += [f"{len(problems)} could not be taken and are as they were:"] if problems else []
        lines += [f"  {name}: {text}" for name, text in problems.items()]
        good = len(outcomes) - counts["unchanged"]
        code = 0 if not problems else MedsegError.exit_code if good else InputError.exit_code
        return Result(exit_code=code, path=path, lines=tuple(lines), facts=facts)

    def _write(
        self, outcomes: Sequence[Outcome], problems: Mapping[str, str], part: Path
    ) -> tuple[Version, list[str], dict[str, Any]]:
        number = self.number
        masks, before = masks_path(self.home, number), self.by_case
        cases = [outcome_record(o, before.get(o.case_id), masks=masks) for o in outcomes]
        rows = new_rows(self.rows, before, outcomes, masks=masks, version=number)
        if not rows:
            raise InputError("every case was rejected and none has a label, so there is nothing to train on")
        _move(part, masks)
        manifest = self.home / f"manifest-v{number}.csv"
        config, why = fine_tune_settings(self.results, manifest, rows, model=self.options.model)
        settings = self.home / f"fine_tune-v{number}.yaml"
        if config is not None:
            write_text(settings, fine_tune_text(config))
        notes = [*self.origin.notes, *_notes(outcomes, before), *([why] if why else [])]
        record = self._record(cases, problems, notes) | {
            "fine_tune": settings.name if config is not None else None
        }
        version = write_version(self.home, number, rows, record)
        commands = self._commands(settings, manifest) if config is not None else []
        lines = [*notes, f"version {number}: {len(rows)} cases in {manifest}", *commands]
        return version, lines, {"version": number, "manifest": str(manifest), "fine_tune": commands}

    def _record(
        self, cases: list[dict[str, Any]], problems: Mapping[str, str], notes: Sequence[str]
    ) -> dict[str, Any]:
        parent = self.parent
        reviewed = {} if parent is None else dict(parent.record.get("reviewed", {}))
        reviewed |= {case["case_id"]: case["outcome"] for case in cases if case["outcome"] != "unchanged"}
        origin = self.origin.path
        return {
            "created": now(),
            "medseg": __version__,
            "results": _facts(self.results),
            "origin": None if origin is None else {"file": str(origin), "sha256": sha256_file(origin)},
            "parent": None
            if parent is None
            else {
                "version": parent.number,
                "file": parent.manifest.name,
                "sha256": sha256_file(parent.manifest),
            },
            "cases": cases,
            "reviewed": reviewed,
            "problems": dict(problems),
            "notes": list(notes),
        }

    def _commands(self, settings: Path, manifest: Path) -> list[str]:
        said = [f"to fine-tune: medseg run {settings}"]
        overrides = fine_tune_overrides(self.results, manifest) if self.options.model is None else []
        if overrides:
            words = " ".join(f"--set {shlex.quote(text)}" for text in overrides)
            said.append(f"or: medseg train {self.results.path / 'pipeline.yaml'} {words}")
        return said


def _move(part: Path, masks: Path) -> None:
    try:
        part.mkdir(parents=True, exist_ok=True)
        part.rename(masks)
    except OSError as err:
        raise StorageError(
            f"cannot write {masks}: {err.strerror or err}; free space or change --output"
        ) from err


def _said(outcome: Outcome) -> str:
    change = outcome.change
    if change is None or not change.changed_voxels:
        return "nothing was changed"
    parts = [
        f"{name} Dice {label.dice:.3f} with the prediction"
        if label.dice is not None
        else f"{name} in neither"
        for name, label in change.labels.items()
        if label.added or label.removed
    ]
    return f"{change.changed_voxels} voxels changed; {', '.join(parts)}"


def _notes(outcomes: Sequence[Outcome], rows: Mapping[str, Case]) -> list[str]:
    """What somebody who trains and evaluates on the version must know."""
    new = [o.case_id for o in outcomes if o.label is not None]
    tested = [i for i in new if i in rows and (rows[i].split in _TESTED or rows[i].fold is not None)]
    notes = []
    if tested:
        notes.append(
            f"{len(tested)} new labels are of cases that are tested (split or fold) and began as the model's own "
            "masks: an evaluation against them favours that model"
        )
    dropped = [
        o.case_id for o in outcomes if o.kind == "rejected" and (i := rows.get(o.case_id)) and i.label is None
    ]
    if dropped:
        notes.append(
            f"{len(dropped)} rejected cases without a label are left out: {', '.join(dropped[:_SHOWN])}"
        )
    return notes
