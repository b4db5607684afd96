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
from sqlalchemy import Connection, select

from medseg.errors import InputError, StorageError
from medseg.export.options import ExportName
from medseg.io.foreign import PARSER_ERRORS, recorded_warnings
from medseg.node.job_queue import Finished, ResultFile
from medseg.node.part10 import data_set_of
from medseg.node.result_check import ResultError, ResultObject, SourceStudy, check_objects
from medseg.node.rule_options import ReviewOptions
from medseg.node.tables import instances, results
from medseg.node.vault import Vault
from medseg.pipeline.case_files import FILES, MASK, RECORD

_VERDICTS = ("pass", "note", "review", "fail")
_HOLD_FROM = {"never": 4, "fail": 3, "review": 2, "always": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A file that the worker wrote, and where in the vault it goes."""

    kind: str
    path: Path
    place: str


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
        A DICOM object cannot be read back, or is not about the source; see `check_objects`.
    StorageError
        The vault cannot take a file.
    """
    files: list[_Made] = []
    flags, verdicts, notes = [], [], []
    if len(case_folders) > 1:
        notes.append(
            f"The instances do not make one image, but {len(case_folders)}: each has a result of its own."
        )
    for index, name in enumerate(case_folders):
        place = home if len(case_folders) == 1 else f"{home}/{index + 1}"
        case = folder / name
        record = json.loads((case / RECORD).read_text())
        verdicts.append(str(record["verdict"]))
        flags += record["flags"]
        notes += record["export_notes"]
        files += [_Made(kind=kind, path=path, place=f"{place}/{path.name}") for kind, path in _files(case)]
    objects = _checked(files, source)
    worst = max(verdicts, key=_VERDICTS.index)
    return Finished(
        folder=home,
        files=_take_all(files, objects, vault),
        verdict=worst,
        flags=tuple(flags),
        reason=" ".join(dict.fromkeys(notes)),
        held=_VERDICTS.index(worst) >= _HOLD_FROM[review.hold],
        peak_bytes=peak_bytes,
    )


def check_new(connection: Connection, files: Sequence[ResultFile], vault: Vault) -> None:
    """Refuse results whose UIDs other bytes have already, as a result or as an image.

    The same bytes as an image are no clash: another node, or this one before its folder was lost, has sent the result
    to the archive that it was fetched from.

    Raises
    ------
    ResultError
        An archive would keep one of the two, and nobody could say which.
    """
    made = {file.sop_instance_uid: file for file in files if file.sop_instance_uid}
    uids = list(made)
    if len(uids) < sum(bool(file.sop_instance_uid) for file in files):
        raise ResultError("two results of the job have the same UID")
    same = select(results.c.sop_instance_uid, results.c.sha256).where(results.c.sop_instance_uid.in_(uids))
    for sop_instance_uid, digest in connection.execute(same):
        if digest != made[sop_instance_uid].sha256:
            name = Path(made[sop_instance_uid].path).name
            raise ResultError(f"{name} has the UID of an earlier result with other content")
    image = select(instances.c.sop_instance_uid, instances.c.sha256)
    for sop_instance_uid, digest in connection.execute(image.where(instances.c.sop_instance_uid.in_(uids))):
        path = made[sop_instance_uid].path
        if digest != hashlib.sha256(data_set_of(vault.read(path))).hexdigest():
            raise ResultError(f"{Path(path).name} has the UID of a received image with other content")


def _files(case: Path) -> Iterator[tuple[str, Path]]:
    """The files of a case with the names of their exports; what belongs to none is the record's."""
    kinds: dict[str, ExportName] = {name: kind for kind, names in FILES.items() for name in names}
    for path in sorted(case.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            yield (kinds.get(path.name, "record" if path.name != MASK else "nifti"), path)


def _checked(files: Sequence[_Made], source: SourceStudy) -> dict[str, ResultObject]:
    """The DICOM objects of a job by their place; none of its files is taken where one of them is not right."""
    objects = {
        made.place: ResultObject(
            name=made.path.name, kind=made.kind, data_set=_read_back(made.path.read_bytes(), made.path.name)
        )
        for made in files
        if made.path.suffix == ".dcm"
    }
    check_objects(tuple(objects.values()), source)
    return objects


def _take_all(
    files: Sequence[_Made], objects: dict[str, ResultObject], vault: Vault
) -> tuple[ResultFile, ...]:
    """All files, or none where one cannot be taken."""
    taken: list[ResultFile] = []
    try:
        for made in files:
            taken.append(_take(made, objects.get(made.place), vault))
    except StorageError:
        for file in taken:
            vault.remove(file.path)
        raise
    return tuple(taken)


def _take(made: _Made, found: ResultObject | None, vault: Vault) -> ResultFile:
    content = made.path.read_bytes()
    uids = {}
    if found is not None:
        uids = {
            "sop_class_uid": str(found.data_set.SOPClassUID),
            "sop_instance_uid": str(found.data_set.SOPInstanceUID),
        }
    vault.write(made.place, content)
    digest = hashlib.sha256(content).hexdigest()
    return ResultFile(kind=made.kind, path=made.place, size=len(content), sha256=digest, **uids)


def _read_back(content: bytes, name: str) -> Dataset:
    if content[:128].strip(b"\0"):
        raise ResultError(f"{name}: its preamble is not empty")
    try:
        with recorded_warnings():
            return dcmread(io.BytesIO(content))
    except (*PARSER_ERRORS, InputError) as err:
        raise ResultError(f"{name} cannot be read back ({type(err).__name__})") from err
