"""`medseg evaluate --prediction DIR --reference DIR`: masks of any program against reference masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from medseg import __version__
from medseg.config.label_file import read_label_file
from medseg.data.tables import write_csv
from medseg.errors import ConfigError, InputError, MedsegError, StorageError
from medseg.evaluation.cases import CaseEvaluation, StructureEvaluation, evaluate_case
from medseg.evaluation.definitions import DEFINITIONS
from medseg.evaluation.metric_values import undefined_values
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.overlap import Counts
from medseg.evaluation.summary import Summary, summarise
from medseg.labels import LabelTable
from medseg.pipeline.mask_pairs import MaskFiles, Pairing, pair_masks
from medseg.pipeline.named_masks import MatchedMasks, read_pair
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result
from medseg.pipeline.summary_table import summary_table
from medseg.provenance import sha256_file, versions, write_json
from medseg.report.language import Language

Missing = Literal["fail", "empty"]
METRICS = "dice,iou,precision,recall,hd95,assd,volume_difference,area_difference,relative_difference"
_STAGE = "evaluate"
_PARAMETERS = {"nsd": "tolerance_mm", "boundary_iou": "width_mm"}
_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """How two folders of masks are compared.

    Parameters
    ----------
    labels : Path or None
        Names of the values: YAML with `labels`, or the JSON that medseg writes beside a mask.
    cases : Path or None
        CSV of pairs; see `mask_pairs.pair_masks`.
    metrics : str
        Comma-separated; `nsd=2` has the tolerance, `boundary_iou=2` the width, in mm.
    by : tuple of str
        Columns of the CSV that results are split by.
    strip : tuple of str
        Words at the ends of names that do not count.
    missing : {"fail", "empty"}
        A reference without a prediction: a case that failed, or one in which every structure was missed.
    samples, level, seed
        Of the bootstrap.
    page : {"en", "zh"}, optional
        Language of report.html; None: no page.
    """

    labels: Path | None = None
    cases: Path | None = None
    metrics: str = METRICS
    by: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    missing: Missing = "fail"
    samples: int = 1000
    level: float = 0.95
    seed: int = 1
    page: Language | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """A case and its number of voxels, or why it could not be compared."""

    files: MaskFiles
    evaluation: CaseEvaluation | None = None
    voxels: int = 0
    notes: tuple[str, ...] = ()
    error: MedsegError | None = None
    table: LabelTable | None = None
    record: Mapping[str, Any] | None = None


def evaluate_folders(
    prediction: Path,
    reference: Path,
    output: Path,
    options: FolderOptions,
    *,
    reporter: Reporter | None = None,
) -> Result:
    """Compare masks with reference masks; needs neither images nor a pipeline.

    Parameters
    ----------
    prediction, reference : Path
        Folders (or a file each) of NIfTI, NRRD, MetaImage, PNG, TIFF, DICOM SEG or RTSTRUCT.
    output : Path
        Folder for cases.csv, cases.json, summary.csv, summary.json and evaluation.json.
    options : FolderOptions
    reporter : Reporter, optional

    Returns
    -------
    Result
        Exit code 1 where some cases could not be compared, 3 where none could.

    Raises
    ------
    ConfigError, ManifestError
        Unknown metrics or columns, names that cannot be paired.
    """
    reporter = reporter or SilentReporter()
    settings = evaluation_options(options)
    table = None if options.labels is None else read_label_file(options.labels)
    pairing = pair_masks(prediction, reference, cases=options.cases, strip=options.strip)
    _check_columns(pairing, settings)
    reporter.stage_started(_STAGE, f"{len(pairing.cases)} cases")
    compared = []
    for done, files in enumerate(pairing.cases, start=1):
        compared.append(_compare(files, table, settings, options))
        reporter.advanced(_STAGE, done, len(pairing.cases), files.case_id)
    found = _completed(compared, settings)
    if not found:
        raise InputError(f"none of the {len(compared)} cases can be compared; the first: {compared[0].error}")
    summary = summarise(found, settings)
    record = _record(options, settings, table, pairing, compared)
    _write(output, found, summary, record)
    if options.page is not None:
        names = (prediction.resolve().name, reference.resolve().name)
        _page(output, found, compared, summary, record, names=names, language=options.page)
    reporter.table("", *summary_table(summary, settings.metric_names, level=settings.level))
    return _result(output, summary, pairing, compared, record)


def evaluation_options(options: FolderOptions) -> EvaluationOptions:
    """The settings that the words of the command line stand for.

    Raises
    ------
    ConfigError
        An unknown metric, or one without the number that it needs.
    """
    metrics: list[dict[str, Any]] = []
    for word in filter(None, (part.strip() for part in options.metrics.split(","))):
        name, sign, number = word.partition("=")
        parameter = _PARAMETERS.get(name)
        if bool(sign) != (parameter is not None):
            wanted = f"{name}=MM, the {parameter.partition('_')[0]} in mm" if parameter else f"{name} alone"
            raise ConfigError(f"--metrics {word!r}: expected {wanted}")
        metrics.append({"use": name, **({parameter: _number(word, number)} if parameter else {})})
    values = {
        "metrics": metrics,
        "by": options.by,
        "samples": options.samples,
        "level": options.level,
        "seed": options.seed,
    }
    try:
        return EvaluationOptions.model_validate(values)
    except ValidationError as err:
        known = ", ".join(DEFINITIONS)
        raise ConfigError(f"--metrics {options.metrics!r}: {err.errors()[0]['msg']}; known: {known}") from err


def _number(word: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as err:
        raise ConfigError(f"--metrics {word!r}: expected a number of mm after =") from err


def _check_columns(pairing: Pairing, settings: EvaluationOptions) -> None:
    known = pairing.cases[0].columns
    lacking = [column for column in settings.by if column not in known]
    if lacking:
        raise ConfigError(
            f"--by {', '.join(lacking)}: the list of cases (--cases) has no such column; it has "
            f"{', '.join(known) or 'none'}"
        )


def _compare(
    files: MaskFiles, table: LabelTable | None, settings: EvaluationOptions, options: FolderOptions
) -> _Compared:
    """One case; what is wrong with its files is told and does not stop the others."""
    try:
        if files.prediction is None and options.missing == "fail":
            raise InputError(f"{files.case_id}: there is no prediction for {files.reference}")
        masks = read_pair(files.prediction, files.reference, image=files.image, labels=table)
        evaluation = evaluate_case(
            masks.prediction,
            masks.reference,
            table=masks.table,
            case_id=files.case_id,
            patient_id=files.patient_id,
            spacing_mm=masks.grid.spacing_mm,
            affine=masks.grid.affine,
            options=settings,
            columns=files.columns,
        )
    except StorageError:
        raise
    except MedsegError as err:
        return _Compared(files=files, error=err)
    return _Compared(
        files=files,
        evaluation=evaluation,
        voxels=int(np.prod(masks.prediction.shape)),
        notes=masks.notes,
        table=masks.table,
        record=None if options.page is None else _record_of(files, masks, evaluation),
    )


def _record_of(files: MaskFiles, masks: MatchedMasks, evaluation: CaseEvaluation) -> dict[str, Any]:
    from medseg.pipeline.evaluate_page import mask_record

    return mask_record(files, masks, evaluation)


def _completed(compared: Sequence[_Compared], settings: EvaluationOptions) -> list[CaseEvaluation]:
    """The evaluations, each with every structure that some case has: where nothing names it, it is empty."""
    done = [(one.evaluation, one.voxels) for one in compared if one.evaluation is not None]
    names = dict.fromkeys(s.structure for evaluation, _ in done for s in evaluation.structures)
    found = []
    for evaluation, voxels in done:
        known = {s.structure: s for s in evaluation.structures}
        structures = [known.get(name) or _empty(name, voxels, settings) for name in sorted_labels(names)]
        found.append(replace(evaluation, structures=tuple(structures)))
    return found


def sorted_labels(names: Mapping[str, None]) -> list[str]:
    """Names in the order of appearance; `label_10` after `label_9`."""
    order = list(names)
    made = [name for name in order if name.startswith("label_") and name[6:].isdigit()]
    if len(made) < len(order):
        return order
    return sorted(made, key=lambda name: int(name[6:]))


def _empty(name: str, voxels: int, settings: EvaluationOptions) -> StructureEvaluation:
    return StructureEvaluation(
        structure=name,
        state="both_empty",
        counts=Counts(tp=0, fp=0, fn=0, tn=voxels),
        metrics=undefined_values("both_empty", settings),
    )


def _record(
    options: FolderOptions,
    settings: EvaluationOptions,
    table: LabelTable | None,
    pairing: Pairing,
    compared: Sequence[_Compared],
) -> dict[str, Any]:
    """What was compared with what: files with their hashes, settings, versions, what was left out."""
    return {
        "schema": "medseg.evaluation/1",
        "medseg": __version__,
        "versions": versions(),
        "settings": settings.model_dump(mode="json"),
        "labels": None if table is None else table.to_json(),
        "missing": options.missing,
        "patients_known": pairing.patients_known,
        "cases": [_case_record(one) for one in compared],
        "lone_predictions": [path.name for path in pairing.lone_predictions],
        "lone_references": [path.name for path in pairing.lone_references],
    }


def _case_record(one: _Compared) -> dict[str, Any]:
    files = {"prediction": one.files.prediction, "reference": one.files.reference}
    hashes = {role: sha256_file(path) for role, path in files.items() if path is not None}
    return {
        "case_id": one.files.case_id,
        **{role: None if path is None else path.name for role, path in files.items()},
        "sha256": hashes,
        "same_file": len(hashes) == 2 and len(set(hashes.values())) == 1,
        "notes": list(one.notes),
        "error": None if one.error is None else str(one.error),
    }


def _write(
    output: Path, found: Sequence[CaseEvaluation], summary: Summary, record: Mapping[str, Any]
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "cases.csv", [row for case in found for row in case.rows()])
    write_json(output / "cases.json", [case.to_json() for case in found])
    write_csv(output / "summary.csv", summary.rows())
    write_json(output / "summary.json", summary.to_json() | {"settings": record["settings"]})
    write_json(output / "evaluation.json", record)


def _page(
    output: Path,
    found: Sequence[CaseEvaluation],
    compared: Sequence[_Compared],
    summary: Summary,
    record: Mapping[str, Any],
    *,
    names: tuple[str, str],
    language: Language,
) -> None:
    from medseg.pipeline.evaluate_page import write_evaluation_page

    write_evaluation_page(
        output,
        found,
        {one.files.case_id: one.record for one in compared if one.record is not None},
        summary=summary.to_json(),
        tables=[one.table for one in compared if one.table is not None],
        settings=record["settings"],
        refused=[(one.files.case_id, str(one.error)) for one in compared if one.error is not None],
        names=names,
        language=language,
    )


def _result(
    output: Path,
    summary: Summary,
    pairing: Pairing,
    compared: Sequence[_Compared],
    record: Mapping[str, Any],
) -> Result:
    failed = [one for one in compared if one.error is not None]
    lines = [f"{one.files.case_id}: {note}" for one in compared for note in one.notes]
    lines += [f"missed: {structure} of {case}" for case, structure in summary.missed]
    lines += [f"invented: {structure} of {case}" for case, structure in summary.false_positives]
    if pairing.lone_predictions:
        lines.append(_listed("predictions without a reference left out", _names(pairing.lone_predictions)))
    if pairing.lone_references:
        lines.append(
            _listed(
                "references that the list of cases does not name left out", _names(pairing.lone_references)
            )
        )
    lines += [f"not compared: {one.files.case_id}: {one.error}" for one in failed]
    same = [case["case_id"] for case in record["cases"] if case["same_file"]]
    if same:
        lines.append(_listed("predictions that are their reference, byte for byte", same))
    done = len(compared) - len(failed)
    alone = "" if record["patients_known"] else ", each case without a patient_id counted as one"
    lines.append(f"{done} of {len(compared)} cases compared, {summary.patients} patients{alone}")
    return Result(
        exit_code=MedsegError.exit_code if failed else 0,
        path=output,
        lines=tuple(lines),
        facts={
            "summary": summary.to_json(),
            "failed": {one.files.case_id: str(one.error) for one in failed},
        },
    )


def _names(paths: Sequence[Path]) -> list[str]:
    return [path.name for path in paths]


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"
