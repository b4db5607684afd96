"""`medseg calibrate`: a bundle with the temperature and intervals that held-out cases give it; weights unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.calibration.look import CaseLook, fit_record, look_at, summarise_looks
from medseg.data.encoding import encode_mask
from medseg.data.manifest import Case, read_manifest
from medseg.errors import ConfigError, ManifestError, MedsegError, StorageError
from medseg.io.read import read_image, read_label
from medseg.models.bundle import Bundle, read_bundle
from medseg.models.bundle_writer import update_bundle, whole_folder
from medseg.models.calibration_record import CalibrationRecord
from medseg.pipeline.calibrating import loading, record_text, write_summary
from medseg.pipeline.looks import seed_of
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result

STAGE = "calibrate"
Groups = list[tuple[Bundle, list[Case]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateRequest:
    """What a user asks for.

    Parameters
    ----------
    manifest : Path
        CSV of cases with masks that no network of the bundle was trained on.
    root : Path or None
        Folder that its paths start from; the manifest's unless given.
    split : str
        Value of its column `split`, or ``all``.
    out_of_fold : bool
        Each case by the one network of an ensemble that never saw its fold, as the column `fold` tells.
    level : float
        Coverage of the intervals.
    data : str or None
        Which cases these are, in words; the name of the manifest unless given.
    device : str
        cpu or cuda.
    """

    manifest: Path
    root: Path | None = None
    split: str = "validation"
    out_of_fold: bool = False
    level: float = 0.9
    data: str | None = None
    device: str = "cpu"


def calibrate_model(
    model: str, output: Path, request: CalibrateRequest, *, reporter: Reporter | None = None
) -> Result:
    """Write a calibrated copy of a bundle, and the tables of its reliability.

    `output` gets `model/` (the bundle), calibration.json, calibration.csv and calibration_bins.csv.

    Raises
    ------
    ConfigError
        Out of fold is asked for, and the bundle is no ensemble; a level outside of 0..1.
    ManifestError
        No case with a mask is left.
    MedsegError
        What concerns all cases: bundle, disk.
    """
    reporter = reporter or SilentReporter()
    if not 0.5 <= request.level < 1:
        raise ConfigError(f"--level {request.level:g}: expected 0.5 or more, and below 1")
    bundle = read_bundle(model)
    bundle.check_weights()
    groups = _groups(bundle, _cases(request), request)
    looks, failed = _looks(groups, request, reporter)
    if not looks:
        raise ManifestError(
            f"none of the cases of {request.manifest} could be read with its mask; first: {failed[0]}"
        )
    scaling = LoadedModel(groups[0][0], device=request.device).predictor.scaling
    data = request.data or f"{request.split} cases of {request.manifest.name}"
    record = fit_record(
        looks,
        scaling,
        bundle.table,
        data=data,
        of="members" if request.out_of_fold else "model",
        level=request.level,
    )
    copy = _write(bundle, output / "model", record)
    summary = summarise_looks(looks, temperature=groups[0][0].record.temperature, data=record.data)
    write_summary(output, summary)
    lines = [record_text(record), *(f"left out: {text}" for text in failed)]
    return Result(
        exit_code=MedsegError.exit_code if failed else 0,
        path=copy.folder,
        lines=tuple(lines),
        facts={"model": copy.facts, "calibration": record.model_dump(mode="json"), "failed": failed},
    )


def _cases(request: CalibrateRequest) -> list[Case]:
    cases = read_manifest(request.manifest, root=request.root, check_files=False)
    chosen = [
        case
        for case in cases
        if case.label is not None and (request.split == "all" or case.split == request.split)
    ]
    if not chosen:
        raise ManifestError(
            f"{request.manifest}: no case of split {request.split!r} has a mask; name another with --split, or all"
        )
    return chosen


def _groups(bundle: Bundle, cases: Sequence[Case], request: CalibrateRequest) -> Groups:
    """Cases by the bundle that predicts them."""
    if not request.out_of_fold:
        return [(bundle, list(cases))]
    if not bundle.members:
        raise ConfigError(
            f"--out-of-fold needs an ensemble; {bundle.name} is a single network, so leave it out"
        )
    lacking = sum(case.fold is None for case in cases)
    if lacking:
        raise ManifestError(
            f"{request.manifest}: {lacking} of {len(cases)} cases have no fold, which --out-of-fold needs; add the "
            "column, as the network was trained"
        )
    groups = [
        (bundle.member(m.fold), [case for case in cases if case.fold == m.fold]) for m in bundle.members
    ]
    return [group for group in groups if group[1]]


def _looks(groups: Groups, request: CalibrateRequest, reporter: Reporter) -> tuple[list[CaseLook], list[str]]:
    load = loading(lambda bundle: LoadedModel(bundle, device=request.device))
    total, looks, failed = sum(len(cases) for _, cases in groups), [], []
    for bundle, cases in groups:
        for case in cases:
            try:
                looks.append(_look(load(bundle), case))
            except StorageError:
                raise
            except MedsegError as err:
                failed.append(f"{case.case_id}: {err}")
            reporter.advanced(STAGE, len(looks) + len(failed), total, case.case_id)
    return looks, failed


def _look(model: LoadedModel, case: Case) -> CaseLook:
    volume = read_image(case.images)
    if case.label is None:
        raise ValueError("a case without a mask has no reference")
    mask = read_label(case.label, volume)
    return look_at(
        model.predictor,
        volume,
        encode_mask(mask, scheme=case.scheme, like=volume, table=model.table),
        cleaning=model.cleaning,
        patient_id=case.patient_id,
        seed=seed_of(case.case_id),
    )


def _write(bundle: Bundle, folder: Path, record: CalibrationRecord) -> Bundle:
    """A copy of the bundle with the calibration; the bundle itself, where that is its folder."""
    if folder.absolute() != bundle.folder.absolute():
        with whole_folder(folder) as part:
            for path in sorted(bundle.folder.iterdir()):
                if path.is_file():
                    shutil.copyfile(path, part / path.name)
    return update_bundle(read_bundle(folder), calibration=record)
