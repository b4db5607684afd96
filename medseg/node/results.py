"""Result files of a job: checked against their source, taken into the vault, told to the queue."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.errors import InputError, MedsegError
from medseg.export.options import ExportName
from medseg.io.foreign import PARSER_ERRORS, recorded_warnings
from medseg.node.job_queue import Finished, ResultFile
from medseg.node.rule_options import ReviewOptions
from medseg.node.vault import Vault
from medseg.pipeline.case_files import FILES, MASK, RECORD

_VERDICTS = ("pass", "note", "review", "fail")
_HOLD_FROM = {"never": 4, "fail": 3, "review": 2, "always": 0}
_MAX_ITEMS = 5_000_000


class ResultError(MedsegError):
    """A result does not belong to its source; it never leaves the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStudy:
    """What every result must refer to."""

    study_uid: str
    patient_id: str
    sop_instance_uids: frozenset[str]


def gather(
    folder: Path,
    case_folders: Sequence[str],
    *,
    vault: Vault,
    home: str,
    source: SourceStudy,
    review: ReviewOptions,
    peak_bytes: int | None = None,
) -> Finished:
    """Check the files of the cases of a job and take them into the vault.

    Parameters
    ----------
    folder : Path
        Output of the worker.
    case_folders : sequence of str
        Names in it.
    vault : Vault
    home : str
        Where in the vault they go; no other try of a job has the same.
    source : SourceStudy
    review : ReviewOptions
        Which verdicts are held.
    peak_bytes : int or None
        Memory that the job took.

    Raises
    ------
    ResultError
        A DICOM object cannot be read back, or refers to another study, patient or instance.
    StorageError
        The vault cannot take a file.
    """
    files, flags, verdicts, notes = [], [], [], []
    for index, name in enumerate(case_folders):
        place = home if len(case_folders) == 1 else f"{home}/{index + 1}"
        case = folder / name
        record = json.loads((case / RECORD).read_text())
        verdicts.append(str(record["verdict"]))
        flags += record["flags"]
        notes += record["export_notes"]
        files += [_take(path, kind, f"{place}/{path.name}", vault, source) for kind, path in _files(case)]
    worst = max(verdicts, key=_VERDICTS.index)
    return Finished(
        folder=home,
        files=tuple(files),
        verdict=worst,
        flags=tuple(flags),
        reason=" ".join(dict.fromkeys(notes)),
        held=_VERDICTS.index(worst) >= _HOLD_FROM[review.hold],
        peak_bytes=peak_bytes,
    )


def _files(case: Path) -> Iterator[tuple[str, Path]]:
    """The files of a case with the names of their exports; what belongs to none is the record's."""
    kinds: dict[str, ExportName] = {name: kind for kind, names in FILES.items() for name in names}
    for path in sorted(case.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            yield (kinds.get(path.name, "record" if path.name != MASK else "nifti"), path)


def _take(path: Path, kind: str, name: str, vault: Vault, source: SourceStudy) -> ResultFile:
    content = path.read_bytes()
    uids = {}
    if path.suffix == ".dcm":
        data_set = _read_back(content, path.name)
        check_object(data_set, source, path.name)
        uids = {
            "sop_class_uid": str(data_set.SOPClassUID),
            "sop_instance_uid": str(data_set.SOPInstanceUID),
        }
    vault.write(name, content)
    digest = hashlib.sha256(content).hexdigest()
    return ResultFile(kind=kind, path=name, size=len(content), sha256=digest, **uids)


def _read_back(content: bytes, name: str) -> Dataset:
    if content[:128].strip(b"\0"):
        raise ResultError(f"{name}: its preamble is not empty")
    try:
        with recorded_warnings():
            return dcmread(io.BytesIO(content))
    except (*PARSER_ERRORS, InputError) as err:
        raise ResultError(f"{name} cannot be read back ({type(err).__name__})") from err


def check_object(data_set: Dataset, source: SourceStudy, name: str) -> None:
    """Refuse an object that is not about its source.

    Raises
    ------
    ResultError
        Another study or patient, references to instances that the job did not have, or none at all.
    """
    if str(data_set.get("StudyInstanceUID") or "") != source.study_uid:
        raise ResultError(f"{name} is of another study than its source")
    if str(data_set.get("PatientID") or "") != source.patient_id:
        raise ResultError(f"{name} is of another patient than its source")
    if data_set.get("ContentQualification", "RESEARCH") != "RESEARCH":
        raise ResultError(f"{name} is not marked RESEARCH")
    referred = set(_referred(data_set)) - {str(data_set.SOPInstanceUID)}
    # An SR also refers to the SEG of the same job, which no source has.
    if not referred & source.sop_instance_uids:
        raise ResultError(f"{name} refers to none of the instances that it was made from")
    if data_set.Modality == "SEG" and not referred <= source.sop_instance_uids:
        raise ResultError(f"{name} refers to instances that it was not made from")


def _referred(data_set: Dataset) -> Iterator[str]:
    """Referenced SOP Instance UIDs at any depth."""
    waiting: list[Dataset] = [data_set]
    seen = 0
    while waiting:
        for element in waiting.pop():
            seen += 1
            if seen > _MAX_ITEMS:
                raise ResultError(
                    f"a result of more than {_MAX_ITEMS} elements, whose references cannot all be checked"
                )
            if element.VR == "SQ":
                waiting += element.value
            elif element.keyword == "ReferencedSOPInstanceUID":
                yield str(element.value)
