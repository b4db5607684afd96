"""What every DICOM object made of a result has in common: patient, study, dates, equipment, texts, references."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from medseg import __version__
from medseg.errors import InputError
from medseg.export.identity import IMPLEMENTATION_CLASS_UID, derived_uid
from medseg.export.options import ContentQualification
from medseg.export.patient_study import copy_patient_and_study
from medseg.export.source_header import (
    IDENTITY,
    UNDATED,
    UNKNOWN_DATE,
    SourceHeader,
    content_dates,
    header_errors,
    read_source,
)
from medseg.export.written import WrittenObject
from medseg.provenance import sha256_json, whole_file
from medseg.volume import ImageGrid

BANNER = "RESEARCH, not for diagnosis"
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Name, version and weights of the model that made a result."""

    name: str
    version: str
    weights_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultObject:
    """One object to be: its source, what determines it, and so its UIDs.

    Parameters
    ----------
    kind : str
        Short name at the end of the series description, such as SR.
    header : SourceHeader
        First instance of the source.
    series_number : int
        High, so that viewers list it after the images; one more where the source has that number.
    digest : str
        Of all that determines the bytes: the same result is the same instance.
    dates : dict of str to str
        Content (and series) date and time by keyword.
    model : ModelFacts
    qualification : {"RESEARCH", "PRODUCT", "SERVICE"}
    """

    kind: str
    header: SourceHeader
    series_number: int
    digest: str
    dates: dict[str, str]
    model: ModelFacts
    qualification: ContentQualification

    @property
    def source(self) -> Dataset:
        """Header of the source."""
        return self.header.dataset

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the dates."""
        return (UNDATED,) if self.dates.get("ContentDate") == UNKNOWN_DATE else ()

    def common(self) -> dict[str, Any]:
        """Arguments that every class of highdicom takes."""
        return {
            "series_instance_uid": derived_uid("series", self.digest),
            "series_number": self.series_number + (self.source.get("SeriesNumber") == self.series_number),
            "sop_instance_uid": derived_uid("instance", self.digest),
            "instance_number": 1,
            "manufacturer": "medseg",
            "manufacturer_model_name": "medseg",
            "software_versions": __version__,
            "device_serial_number": self.model.weights_sha256[:16] or "none",
        }

    def plain(self, sop_class_uid: str, *, modality: str) -> hd.SOPClass:
        """An object with patient, study, series and equipment, for kinds that highdicom has no class for."""
        made = hd.SOPClass(
            study_instance_uid=self.source.StudyInstanceUID,
            sop_class_uid=sop_class_uid,
            modality=modality,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **self.common(),
        )
        return made

    def reference(self) -> Dataset:
        """The source for highdicom: neither its names, which are copied as they are, nor its patient geometry."""
        return _without_identity(self.source)

    def save(
        self,
        made: hd.SOPClass,
        path: Path,
        *,
        dates: dict[str, str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> WrittenObject:
        """Give an object its patient, study, dates (or others) and texts and write it, whole or not at all."""
        made.SeriesDescription = (
            f"medseg {self.model.name} {self.model.version}"[: 61 - len(self.kind)] + f" [{self.kind}]"
        )
        made.ContentQualification = self.qualification
        copy_patient_and_study(self.source, made)
        made.StudyInstanceUID = self.source.StudyInstanceUID
        for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
            made.pop(keyword, None)
        for keyword, value in (dates or self.dates).items():
            setattr(made, keyword, value)
        _still_equipment(made)
        made.file_meta, made.preamble = _file_meta(made), b"\0" * 128
        _set_character_set(made, self.header)
        with whole_file(path) as part:
            made.save_as(part, enforce_file_format=True)
        return WrittenObject(
            path=path,
            sop_instance_uid=str(made.SOPInstanceUID),
            series_instance_uid=str(made.SeriesInstanceUID),
            notes=(*self.notes, *notes),
        )


@contextlib.contextmanager
def result_object(
    kind: str,
    grid: ImageGrid,
    *,
    series_number: int,
    model: ModelFacts,
    determined_by: Any,
    created: datetime | None = None,
    dates: dict[str, str] | None = None,
    qualification: ContentQualification = "RESEARCH",
) -> Iterator[ResultObject]:
    """Read the source of a result and prepare an object of it; the block builds and saves the object.

    Parameters
    ----------
    kind : str
        SR, PR, SC or PDF.
    grid : ImageGrid
        Its source's first file gives patient and study.
    series_number : int
    model : ModelFacts
    determined_by : JSON value
        Whatever determines the content besides source, model, dates and versions.
    created : datetime or None
        When the result was made; None: the dates of the source.
    dates : dict, optional
        Instead, such as those of a SEG that the object refers to.
    qualification : {"RESEARCH", "PRODUCT", "SERVICE"}

    Raises
    ------
    InputError
        The source is not DICOM, or lacks a UID that an object must refer to.
    ImageReadError
        Its header is damaged, or has values that no object can be made with.
    """
    if grid.source.format != "dicom" or not grid.source.paths:
        raise InputError("the image is not a DICOM file, so there is no instance to refer to")
    path = grid.source.paths[0]
    with header_errors(path):
        header = read_source(path)
        source = header.dataset
        missing = [name for name in _NEEDED if not source.get(name)]
        if missing:
            raise InputError(
                f"the source image has no {', '.join(missing)}, to which a DICOM {kind} must refer"
            )
        when = dates or content_dates(source, created)[0]
        parts = {
            "kind": kind,
            "source": [str(source[name].value) for name in _NEEDED],
            "identity": [str(source.get(name) or "") for name in IDENTITY],
            "model": [model.name, model.version, model.weights_sha256],
            "software": [__version__, *(metadata.version(name) for name in ("highdicom", "pydicom"))],
            "dates": when,
            "qualification": qualification,
            "content": determined_by,
        }
        yield ResultObject(
            kind=kind,
            header=header,
            series_number=series_number,
            digest=sha256_json(parts),
            dates=when,
            model=model,
            qualification=qualification,
        )


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256, hex, of an array of whole numbers: values and shape, whatever its type and memory order."""
    values = np.ascontiguousarray(array, dtype="<u4")
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(values.data)
    return digest.hexdigest()


def _without_identity(source: Dataset) -> Dataset:
    """Copy for highdicom: type 2 elements there but empty, and nothing that it takes for patient geometry."""
    geometry = ("PixelSpacing", "ImagerPixelSpacing", "FrameOfReferenceUID")
    left_out = {*IDENTITY, *geometry, "SpecificCharacterSet", "Modality"}
    plain = Dataset()
    plain.update({e.tag: e for e in source if e.tag.group <= 0x0028 and e.keyword not in left_out})
    # New elements: setting one that both data sets hold would empty the source's as well.
    for keyword in IDENTITY:
        setattr(plain, keyword, None)
    plain.Modality = source.get("Modality") or "OT"
    return plain


def _still_equipment(made: Dataset) -> None:
    """The contributing equipment without the moment of writing, and without makers that are not named."""
    equipment = [i for i in made.get("ContributingEquipmentSequence") or () if i.get("Manufacturer")]
    for item in equipment:
        item.pop("ContributionDateTime", None)
    made.pop("ContributingEquipmentSequence", None)
    if equipment:
        made.ContributingEquipmentSequence = equipment


def _file_meta(made: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"medseg {__version__}"[:16]
    return meta


def _set_character_set(made: Dataset, header: SourceHeader) -> None:
    """The source's character set and the very bytes of its names; UTF-8 where our own texts do not fit it."""
    source = header.dataset
    # Only what was copied: other texts under these tags are our own.
    copied = [tag for tag in header.texts if tag in made and made.get_item(tag) is source.get_item(tag)]
    if not all(str(element.value or "").isascii() for element in _own_texts(made, frozenset(copied))):
        made.SpecificCharacterSet = "ISO_IR 192"
        return
    made.pop("SpecificCharacterSet", None)
    if "SpecificCharacterSet" in source:
        made.SpecificCharacterSet = source.SpecificCharacterSet
    for tag in copied:
        made[tag] = header.texts[tag]
    # Else pydicom takes them for elements of another encoding and decodes them after all.
    correct_ambiguous_vr(made, True)
    made.set_original_encoding(False, True, source.original_character_set)


def _own_texts(made: Dataset, copied: frozenset[Any]) -> Iterator[Any]:
    for element in made:
        if element.VR == "SQ":
            for item in element.value:
                yield from _own_texts(item, frozenset())
        elif element.VR in CUSTOMIZABLE_CHARSET_VR and element.tag not in copied:
            yield element
