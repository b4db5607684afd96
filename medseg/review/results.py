"""The results that are reviewed: a run folder, or what `medseg predict` wrote."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medseg.config.label_file import read_label_file
from medseg.config.load import load_run_config
from medseg.config.schema import PipelineConfig
from medseg.errors import ConfigError, InputError, StorageError
from medseg.labels import LabelTable
from medseg.pipeline import case_files
from medseg.pipeline.cohort_table import PREDICTIONS
from medseg.pipeline.run_folder import RUN_FILE, RunFolder
from medseg.privacy import safe_name
from medseg.provenance import sha256_file

SIDECAR = "segmentation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultCase:
    """One result.

    Parameters
    ----------
    case_id : str
    folder : Path
        With segmentation.nii.gz and measurements.json.
    record : mapping
        The measurements.json.
    """

    case_id: str
    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the case's folder, safe in any file system."""
        return safe_name(self.case_id)

    @property
    def mask(self) -> Path:
        """The predicted mask."""
        return self.folder / case_files.MASK

    @property
    def seg(self) -> Path | None:
        """Its DICOM SEG, where there is one."""
        path = self.folder / case_files.SEG
        return path if path.is_file() else None

    @property
    def image_sha256(self) -> str:
        """Of the image's files as they were segmented; "" where the record does not tell."""
        return str(self.record.get("image", {}).get("file_sha256") or "")

    def mask_sha256(self) -> str:
        """Of the predicted mask's bytes."""
        return sha256_file(self.mask)

    def require_prediction(self) -> None:
        """Refuse a mask that is not the one that was predicted: then there is nothing to compare a correction with.

        Raises
        ------
        InputError
            The mask has another digest than its sidecar says.
        """
        said = json.loads((self.folder / SIDECAR).read_text(encoding="utf-8")).get("sha256")
        if said != self.mask_sha256():
            raise InputError(
                f"{self.mask} was changed where it lies; move your mask into another folder named by case, predict the "
                "case again, and import that folder"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a run folder or a folder of predictions holds.

    Parameters
    ----------
    path : Path
    kind : {"run", "predictions"}
    cases : mapping of str to ResultCase
        By case id.
    table : LabelTable
        What the values of the masks mean.
    failures : mapping of str to str
        Case id -> why there is no result.
    config : PipelineConfig or None
        Settings of a run.
    """

    path: Path
    kind: Literal["run", "predictions"]
    cases: Mapping[str, ResultCase]
    table: LabelTable
    failures: Mapping[str, str] = field(default_factory=dict)
    config: PipelineConfig | None = None

    @property
    def model(self) -> dict[str, Any]:
        """Name, version and hash of the weights of the model that made the masks."""
        return dict(next(iter(self.cases.values())).record["model"])

    def named(self, case_ids: Sequence[str]) -> tuple[ResultCase, ...]:
        """The cases of these ids.

        Raises
        ------
        ConfigError
            There is no such result; the message says why, where that is known.
        """
        for case_id in case_ids:
            if case_id in self.failures:
                raise ConfigError(f"--case {case_id}: it has no result: {self.failures[case_id]}")
            if case_id not in self.cases:
                known = ", ".join(sorted(self.cases)[:20])
                raise ConfigError(f"--case {case_id}: {self.path} has no such case; it has {known}")
        return tuple(self.cases[case_id] for case_id in dict.fromkeys(case_ids))


def read_results(path: Path) -> Results:
    """Read the records of a run or of predictions; no image and no mask is opened.

    Parameters
    ----------
    path : Path
        Folder of a run (with run.json) or the output of `medseg predict` (with predictions.json).

    Raises
    ------
    StorageError
        No such folder, neither of the two, or a damaged record.
    ConfigError
        No result in it.
    """
    if not path.is_dir():
        raise StorageError(f"{path} is no folder; name a run folder or the output of medseg predict")
    if (path / RUN_FILE).is_file():
        return _run(path)
    if (path / PREDICTIONS).is_file():
        return _predictions(path)
    raise StorageError(
        f"{path}: neither {RUN_FILE} nor {PREDICTIONS} in it; name a run folder (runs/<pipeline>/<time>-<hash>) or "
        "the output of medseg predict"
    )


def _run(path: Path) -> Results:
    run = RunFolder(path)
    settings = path / "pipeline.yaml"
    failures: dict[str, str] = {}
    for state in (run.stage(name) for name in run.record.get("stages", {})):
        failures |= {str(k): str(v) for k, v in state.summary.get("failed", {}).items()}
    folders = sorted(run.cases.iterdir()) if run.cases.is_dir() else []
    cases = _cases(folders)
    return Results(
        path=path,
        kind="run",
        cases=cases,
        table=_table(path, cases),
        failures={case_id: text for case_id, text in failures.items() if case_id not in cases},
        config=load_run_config(settings).config if settings.is_file() else None,
    )


def _predictions(path: Path) -> Results:
    try:
        listed = json.loads((path / PREDICTIONS).read_text(encoding="utf-8"))["cases"]
        failures = {str(c["case_id"]): str(c["error"]) for c in listed if "error" in c}
        folders = [path / safe_name(str(c["case_id"])) for c in listed if "error" not in c]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StorageError(
            f"{path / PREDICTIONS} cannot be read: {err}; repeat medseg predict, finished cases are kept"
        ) from err
    cases = _cases(folders)
    return Results(path=path, kind="predictions", cases=cases, table=_table(path, cases), failures=failures)


def _cases(folders: Sequence[Path]) -> dict[str, ResultCase]:
    """The finished results among folders, by case id."""
    found: dict[str, ResultCase] = {}
    for folder in folders:
        record = case_files.read_record(folder) if folder.is_dir() else None
        if record is not None and (folder / case_files.MASK).is_file():
            case_id = str(record["case_id"])
            found[case_id] = ResultCase(case_id=case_id, folder=folder, record=record)
    return dict(sorted(found.items()))


def _table(path: Path, cases: Mapping[str, ResultCase]) -> LabelTable:
    """The label table that the sidecars of all masks share."""
    if not cases:
        raise ConfigError(f"{path}: no finished case in it; run the stage predict first")
    first, *others = cases.values()
    table = read_label_file(first.folder / SIDECAR)
    for case in others:
        if read_label_file(case.folder / SIDECAR).labels != table.labels:
            raise ConfigError(
                f"{path}: the masks of {first.case_id} and {case.case_id} have different labels; predict all cases "
                "with one model"
            )
    return table


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV that medseg wrote into a run, such as cases.csv; none where it is not there."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as err:
        raise StorageError(f"{path} cannot be read: {err}; repeat the stage check") from err
    return list(csv.DictReader(io.StringIO(text, newline="")))
