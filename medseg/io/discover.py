"""Find the images in any mess of files and folders, without decoding a pixel."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from medseg.errors import MedsegError
from medseg.io.case_names import Candidate, case_ids, stem_of
from medseg.io.dicom_file import parse_header
from medseg.io.dicom_header import DicomHeader, modality_of, uid_name
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits, open_regular, reason_of
from medseg.io.sniff import EXPECTED, Kind, describe, kind_of, read_head
from medseg.privacy import pseudonym
from medseg.provenance import sha256_file

_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "PatientBirthDate",
    "AccessionNumber",
    "Rows",
    "Columns",
)
_MASK_ENDINGS = (
    "_mask",
    "-mask",
    "_masks",
    "_seg",
    "-seg",
    "_segmentation",
    "_label",
    "-label",
    "_labels",
    "_labelmap",
)
_MASK_FOLDER = re.compile(r"(masks?|labels?|segmentations?)([_-].*|tr|ts)?", re.IGNORECASE)
_DICOMDIR = "1.2.840.10008.1.3.10"
_SEGMENTATIONS = frozenset(f"1.2.840.10008.5.1.4.1.1.66.{n}" for n in (4, 5, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One image file.

    Parameters
    ----------
    paths : tuple of Path
        The file, as `read.read_image` takes it.
    kind : str
        dicom, nifti, png, jpeg, tiff or bmp.
    modality : str
        As `dicom.read_radiograph` gives it; "" for files that do not say.
    patient_id : str
        Pseudonym of the Patient ID and its issuer, of the study where there is no Patient ID; the
        case id for pictures and NIfTI. The same person has the same one in every run.
    study_instance_uid, series_instance_uid, sop_instance_uid : str
        "" where the file has none.
    case_id : str
        Unique over the run and safe as a file name; never the patient's name or number.
    """

    paths: tuple[Path, ...]
    kind: Kind
    modality: str
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    case_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file or folder that is no image, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Images in order of their paths, and everything that was passed over."""

    images: tuple[Found, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class _Sighting:
    path: Path
    relative: PurePath
    kind: Kind
    header: DicomHeader | None


def discover(paths: Sequence[Path], *, limits: ReadLimits = DEFAULT_LIMITS) -> Discovery:
    """Walk files and folders and list the images in them.

    Links to folders are followed once; pipes and devices are not opened. Hidden files, masks (by the
    end of the name or the name of the folder), archives, DICOMDIR and DICOM objects without an image
    are skipped. A file that is named itself, not found in a folder, is taken whatever its name.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders, in any order.
    limits : ReadLimits, optional

    Returns
    -------
    Discovery
        The same for the same files, whatever the order of `paths` or of the file system. A second
        copy of a DICOM instance or of a file is skipped.
    """
    skipped: list[Skipped] = []
    sightings: list[_Sighting] = []
    for path, relative in _unique(_walk([Path(path) for path in paths], skipped), skipped):
        outcome = _look(path, relative, limits)
        (sightings if isinstance(outcome, _Sighting) else skipped).append(outcome)  # type: ignore[arg-type]
    sightings = _without_copies(sightings, skipped)
    ids = case_ids([_candidate(sighting) for sighting in sightings])
    images = [_found(sighting, case_id) for sighting, case_id in zip(sightings, ids, strict=True)]
    return Discovery(
        images=tuple(sorted(images, key=lambda found: str(found.paths[0]))),
        skipped=tuple(sorted(skipped, key=lambda item: (str(item.path), item.reason))),
    )


def _walk(paths: Sequence[Path], skipped: list[Skipped]) -> Iterator[tuple[Path, PurePath]]:
    """Every file with its path below the folder that was named, in order of names."""
    seen: set[tuple[int, int]] = set()
    for path in sorted(set(paths), key=str):
        if _is_folder(path):
            yield from _walk_folder(path, PurePath(), seen, skipped)
        else:
            yield path, PurePath(path.name)


def _walk_folder(
    root: Path, below: PurePath, seen: set[tuple[int, int]], skipped: list[Skipped]
) -> Iterator[tuple[Path, PurePath]]:
    pending = [(root, below)]
    while pending:
        folder, relative = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                skipped.append(Skipped(path=folder, reason="a folder that was searched already"))
                continue
            seen.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(folder))
        except OSError as err:
            skipped.append(Skipped(path=folder, reason=f"the folder cannot be read: {reason_of(err)}"))
            continue
        folders = []
        for name in names:
            path = folder / name
            if name.startswith(".") or name == "__MACOSX":
                skipped.append(Skipped(path=path, reason="hidden"))
            elif _is_folder(path):
                folders.append((path, relative / name))
            elif (reason := _mask_reason(relative / name)) is not None:
                skipped.append(Skipped(path=path, reason=reason))
            else:
                yield path, relative / name
        pending.extend(reversed(folders))


def _is_folder(path: Path) -> bool:
    """Whether this is a folder; False where the system does not let us look."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _mask_reason(relative: PurePath) -> str | None:
    if stem_of(relative.name).casefold().endswith(_MASK_ENDINGS):
        return "a mask by its name"
    folder = next((part for part in relative.parts[:-1] if _MASK_FOLDER.fullmatch(part)), None)
    return None if folder is None else f"in a folder of masks ({folder})"


def _unique(
    files: Iterator[tuple[Path, PurePath]], skipped: list[Skipped]
) -> Iterator[tuple[Path, PurePath]]:
    """Each file once, whichever of its links or names comes first."""
    seen: dict[tuple[int, int], Path] = {}
    for path, relative in files:
        try:
            status = path.stat()
        except OSError as err:
            skipped.append(Skipped(path=path, reason=f"cannot be read: {reason_of(err)}"))
            continue
        key = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            skipped.append(Skipped(path=path, reason="a pipe, socket or device"))
        elif key in seen:
            skipped.append(Skipped(path=path, reason=f"the same file as {seen[key]}"))
        else:
            seen[key] = path
            yield path, relative


def _look(path: Path, relative: PurePath, limits: ReadLimits) -> _Sighting | Skipped:
    try:
        head = read_head(path)
        kind = kind_of(head)
        if kind is None:
            return Skipped(path=path, reason=f"no image: {EXPECTED}, found {describe(head)}")
        if kind != "dicom":
            return _Sighting(path, relative, kind, None)
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            dataset, _ = parse_header(stream, size, path, limits, _TAGS)
    except MedsegError as err:
        return Skipped(path=path, reason=str(err).removeprefix(f"{path}: "))
    header = DicomHeader(path, (dataset,))
    reason = _no_image(header)
    return _Sighting(path, relative, kind, header) if reason is None else Skipped(path=path, reason=reason)


def _no_image(header: DicomHeader) -> str | None:
    kind = header.uid("SOPClassUID")
    if kind == _DICOMDIR or header.path.name.upper() == "DICOMDIR":
        return "a DICOMDIR, an index of other files"
    if kind in _SEGMENTATIONS:
        return f"a DICOM object that holds a mask: {uid_name(kind)}"
    if not header.numbers("Rows") or not header.numbers("Columns"):
        return f"a DICOM object without an image: {uid_name(kind)}"
    return None


def _without_copies(sightings: list[_Sighting], skipped: list[Skipped]) -> list[_Sighting]:
    """The first file of each DICOM instance."""
    kept: list[_Sighting] = []
    first: dict[str, Path] = {}
    for sighting in sightings:
        instance = sighting.header.uid("SOPInstanceUID") if sighting.header else ""
        if instance and instance in first:
            skipped.append(Skipped(path=sighting.path, reason=_copy_reason(sighting.path, first[instance])))
            continue
        if instance:
            first[instance] = sighting.path
        kept.append(sighting)
    return kept


def _copy_reason(path: Path, first: Path) -> str:
    if sha256_file(path) == sha256_file(first):
        return f"a copy of {first}"
    return f"has the SOP Instance UID of {first} but other content; remove one of them"


def _candidate(sighting: _Sighting) -> Candidate:
    header = sighting.header
    if header is None:
        return Candidate(relative=sighting.relative, identity=str(sighting.path))
    identity = header.uid("SOPInstanceUID") or str(sighting.path)
    return Candidate(relative=sighting.relative, identity=identity, identifiers=header.person())


def _found(sighting: _Sighting, case_id: str) -> Found:
    header = sighting.header
    return Found(
        paths=(sighting.path,),
        kind=sighting.kind,
        modality=modality_of(header) if header else "",
        patient_id=_patient(header, case_id) if header else case_id,
        study_instance_uid=header.uid("StudyInstanceUID") if header else "",
        series_instance_uid=header.uid("SeriesInstanceUID") if header else "",
        sop_instance_uid=header.uid("SOPInstanceUID") if header else "",
        case_id=case_id,
    )


def _patient(header: DicomHeader, case_id: str) -> str:
    number = next(iter(header.texts("PatientID")), "")
    if number:
        issuer = next(iter(header.texts("IssuerOfPatientID")), "")
        return pseudonym(f"{number}|{issuer}" if issuer else number)
    study = header.uid("StudyInstanceUID")
    return pseudonym(study) if study else case_id
