"""Find the images in any mess of files and folders, without decoding a pixel of those it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path, PurePath

from medseg.errors import MedsegError
from medseg.io.case_names import Candidate, case_ids
from medseg.io.dicom_file import ScannedFile, scan_file
from medseg.io.dicom_grid import PROJECTION
from medseg.io.dicom_header import DicomHeader, uid_name
from medseg.io.dicom_slice import HeaderReader, SliceHeader
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.series import SeriesVolume, find_volumes, natural
from medseg.io.sniff import EXPECTED, Kind, describe, kind_of, read_head
from medseg.io.walk import Skipped, unique, walk
from medseg.privacy import pseudonym
from medseg.provenance import sha256_file

_DICOMDIR = "1.2.840.10008.1.3.10"
SEGMENTATIONS = frozenset(f"1.2.840.10008.5.1.4.1.1.66.{n}" for n in (4, 5, 7))
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One image: a file, or the files of a DICOM series.

    Parameters
    ----------
    paths : tuple of Path
        As `read.read_image` takes them; of a series one file per slice, in stacking order.
    kind : str
        dicom, nifti, png, jpeg, tiff, ...: what `sniff.kind_of` says.
    modality : str
        As DICOM gives it; "" for files that do not say.
    patient_id : str
        Pseudonym of the Patient ID and its issuer, of the study where there is no Patient ID; the
        case id for pictures and NIfTI. The same person has the same one in every run.
    study_instance_uid, series_instance_uid, sop_instance_uid : str
        "" where the file has none; of a series the instance of its first slice.
    case_id : str
        Unique over the run and safe as a file name; never the patient's name or number.
    volume : SeriesVolume or None
        For slices of CT, MR, PT and the like; None for projection images and files that are not DICOM.
    """

    paths: tuple[Path, ...]
    kind: Kind
    modality: str
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    case_id: str
    volume: SeriesVolume | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLabel:
    """A DICOM object that holds masks: a SEG or an RTSTRUCT."""

    path: Path
    kind: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Images in order of their paths, everything that was passed over, and of that the masks in DICOM."""

    images: tuple[Found, ...]
    skipped: tuple[Skipped, ...]
    labels: tuple[FoundLabel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sighting:
    path: Path
    relative: PurePath
    kind: Kind
    patient_id: str = ""
    person: frozenset[str] = frozenset()
    slices: tuple[SliceHeader, ...] = ()

    @property
    def instance(self) -> str:
        return self.slices[0].sop_instance_uid if self.slices else ""

    @property
    def in_patient(self) -> bool:
        """Whether the file belongs into a stack of slices; else it is an image of its own."""
        if not self.slices or self.slices[0].modality in PROJECTION:
            return False
        first = self.slices[0]
        return first.frames > 1 or first.position_lps is not None or first.modality in ("CT", "MR", "PT")


def discover(paths: Sequence[Path], *, limits: ReadLimits = DEFAULT_LIMITS) -> Discovery:
    """Walk files and folders and list the images in them.

    Slices of CT, MR, PT and other images with a place in the patient are put together to volumes; a
    volume that cannot be read (a missing slice, say) is listed with its problem. Links to folders are
    followed once; pipes and devices are not opened. Hidden files, masks (by the end of the name or the
    name of the folder), archives, DICOMDIR and DICOM objects without an image are skipped. A file that
    is named itself, not found in a folder, is taken whatever its name.

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
    labels: list[FoundLabel] = []
    sightings: list[_Sighting] = []
    look = _Look(limits)
    for path, relative in unique(walk([Path(path) for path in paths], skipped), skipped):
        outcome = look(path, relative)
        {_Sighting: sightings, FoundLabel: labels, Skipped: skipped}[type(outcome)].append(outcome)  # type: ignore[attr-defined]
    skipped += [
        Skipped(path=label.path, reason=f"a DICOM object that holds a mask: {label.kind}") for label in labels
    ]
    single = _without_copies([s for s in sightings if not s.in_patient], skipped)
    images = [_Image(paths=(s.path,), relative=s.relative, sighting=s) for s in single]
    images += _volumes([s for s in sightings if s.in_patient], skipped, limits)
    ids = case_ids([_candidate(image) for image in images])
    found = [_found(image, case_id) for image, case_id in zip(images, ids, strict=True)]
    return Discovery(
        images=_ordered(found),
        skipped=tuple(sorted(skipped, key=lambda item: (str(item.path), item.reason))),
        labels=tuple(labels),
    )


def _ordered(found: Sequence[Found]) -> tuple[Found, ...]:
    """By path, the volumes of one series together and in the order of their keys."""
    first: dict[int, str] = {}
    for image in found:
        if image.volume is not None:
            series = natural(image.volume.key)[0]
            first[series] = min(first.get(series, str(min(image.paths))), str(min(image.paths)))

    def place(image: Found) -> tuple[str, tuple[int, ...]]:
        if image.volume is None:
            return str(image.paths[0]), ()
        key = natural(image.volume.key)
        return first[key[0]], key

    return tuple(sorted(found, key=place))


class _Look:
    """What each file is."""

    def __init__(self, limits: ReadLimits) -> None:
        self.limits, self.reader = limits, HeaderReader(limits)

    def __call__(self, path: Path, relative: PurePath) -> _Sighting | FoundLabel | Skipped:
        try:
            head = read_head(path)
            kind = kind_of(head)
            if kind is None:
                return Skipped(path=path, reason=f"no image: {EXPECTED}, found {describe(head)}")
            if kind != "dicom":
                return _Sighting(path=path, relative=relative, kind=kind)
            return self._dicom(scan_file(path, self.limits), relative)
        except MedsegError as err:
            return Skipped(path=path, reason=str(err).removeprefix(f"{path}: "))

    def _dicom(self, scanned: ScannedFile, relative: PurePath) -> _Sighting | FoundLabel | Skipped:
        path, header = scanned.path, DicomHeader(scanned.path, (scanned.dataset,))
        kind = header.uid("SOPClassUID")
        if kind in SEGMENTATIONS or kind == RTSTRUCT:
            return FoundLabel(
                path=path,
                kind="RTSTRUCT" if kind == RTSTRUCT else "SEG",
                series_instance_uid=header.uid("SeriesInstanceUID"),
                study_instance_uid=header.uid("StudyInstanceUID"),
            )
        if kind == _DICOMDIR or path.name.upper() == "DICOMDIR":
            return Skipped(path=path, reason="a DICOMDIR, an index of other files")
        if "Rows" not in scanned.dataset or "Columns" not in scanned.dataset:
            return Skipped(path=path, reason=f"a DICOM object without an image: {uid_name(kind)}")
        slices = self.reader.slices(scanned)
        return _Sighting(
            path=path,
            relative=relative,
            kind="dicom",
            patient_id=_patient(slices),
            person=self.reader.once(scanned, ("PatientName", "PatientBirthDate"), lambda h: h.person()),
            slices=slices,
        )


def _without_copies(sightings: list[_Sighting], skipped: list[Skipped]) -> list[_Sighting]:
    """The first file of each DICOM instance."""
    kept: list[_Sighting] = []
    first: dict[str, Path] = {}
    for sighting in sightings:
        if sighting.instance and sighting.instance in first:
            known = first[sighting.instance]
            skipped.append(Skipped(path=sighting.path, reason=_copy_reason(sighting.path, known)))
            continue
        if sighting.instance:
            first[sighting.instance] = sighting.path
        kept.append(sighting)
    return kept


def _copy_reason(path: Path, first: Path) -> str:
    if sha256_file(path) == sha256_file(first):
        return f"a copy of {first}"
    return f"has the SOP Instance UID of {first} but other content; remove one of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    paths: tuple[Path, ...]
    relative: PurePath
    sighting: _Sighting
    volume: SeriesVolume | None = None


def _volumes(sightings: list[_Sighting], skipped: list[Skipped], limits: ReadLimits) -> list[_Image]:
    """The volumes that slices make up, with the file that names each; copies of slices are skipped."""
    by_path = {sighting.path: sighting for sighting in sightings}
    slices = [header for sighting in sightings for header in sighting.slices]
    volumes = find_volumes(slices, same_pixels=_same_pixels, limits=limits)
    used = {header.path for volume in volumes for header in volume.slices}
    skipped += [
        Skipped(path=sighting.path, reason="a copy of another file of its series")
        for sighting in sightings
        if sighting.path not in used
    ]
    return [
        _Image(
            paths=volume.grid.source.paths,
            relative=_name_of(volume, volumes, by_path),
            sighting=by_path[volume.slices[0].path],
            volume=volume,
        )
        for volume in volumes
    ]


def _same_pixels(one: SliceHeader, other: SliceHeader) -> bool:
    # Decoders load only where two files claim to be one image.
    from medseg.io.dicom_series import same_pixels

    return same_pixels(one, other)


def _name_of(
    volume: SeriesVolume, volumes: Sequence[SeriesVolume], by_path: dict[Path, _Sighting]
) -> PurePath:
    """What a case id is made from: the file of a single image, the folder of a series that has it alone."""
    own = by_path[volume.slices[0].path]
    if len(volume.grid.source.paths) == 1 and volume.parts == 1:
        return own.relative
    folder = Path(commonpath([str(path.parent) for path in volume.grid.source.paths]))
    below = own.relative.parent
    for _ in range(len(own.path.parent.parts) - len(folder.parts)):
        below = below.parent
    # A search that began in the very folder of the series has no name for it but the folder's own.
    home = below if below.name else PurePath(folder.name or "series")
    alone = all(other is volume or folder not in _parents(other) for other in volumes)
    return home if alone else home / f"series-{volume.key}"


def _parents(volume: SeriesVolume) -> set[Path]:
    return {path.parent for path in volume.grid.source.paths}


def _candidate(image: _Image) -> Candidate:
    identity = image.sighting.instance or str(image.sighting.path)
    if image.volume is not None and image.volume.parts > 1:
        identity += f" {image.volume.part}"
    return Candidate(relative=image.relative, identity=identity, identifiers=image.sighting.person)


def _found(image: _Image, case_id: str) -> Found:
    first = image.volume.slices[0] if image.volume else next(iter(image.sighting.slices), None)
    return Found(
        paths=image.paths,
        kind=image.sighting.kind,
        modality=first.modality if first else "",
        patient_id=image.sighting.patient_id or case_id,
        study_instance_uid=first.study_instance_uid if first else "",
        series_instance_uid=first.series_instance_uid if first else "",
        sop_instance_uid=first.sop_instance_uid if first else "",
        case_id=case_id,
        volume=image.volume,
    )


def _patient(slices: Sequence[SliceHeader]) -> str:
    """Pseudonym of the person, "" where neither a Patient ID nor a study tells them apart."""
    study = slices[0].study_instance_uid
    return slices[0].patient or (pseudonym(study) if study else "")
