"""Label map of a volume -> RT Structure Set whose contours run along the edges of the voxels.

The contours lie in the planes of the source slices, oblique and tilted ones included, and hold
exactly the voxel centres of the mask: read back on the same grid they give the same mask. Holes
are joined to their outer contour (keyhole), which every reader of closed planar contours fills right.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage

from medseg import __version__
from medseg.errors import GeometryError, InputError, LabelError
from medseg.export.contour_sequence import ContourSequence, contour_sequences
from medseg.export.dicom_bytes import encoded
from medseg.export.identity import IMPLEMENTATION_CLASS_UID, derived_uid
from medseg.export.segments import describe_algorithm
from medseg.export.source_header import IDENTITY, SourceHeader, content_dates, header_errors, read_source
from medseg.export.written import WrittenObject
from medseg.labels import Code, Label, LabelTable
from medseg.provenance import whole_file
from medseg.volume import ImageGrid, Source

SERIES_NUMBER = 911
"""High, so that viewers list the result after the images; 912 where the source is series 911."""

_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"  # retired, but what PS3.3 C.8.8.5.4 wants for a study
_CONTOUR_SEQUENCE = 0x30060040
_SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right"), "both": ("51440002", "Right and left")}
_DEIDENTIFICATION = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
_COPIED = (
    "IssuerOfPatientID",
    "PatientBirthTime",
    "PatientIdentityRemoved",
    *_DEIDENTIFICATION,
    "StudyDescription",
)


def write_rtstruct(
    path: Path,
    label_map: NDArray[Any],
    grid: ImageGrid,
    table: LabelTable,
    *,
    algorithm_name: str,
    algorithm_version: str,
    weights_sha256: str,
    created: datetime | None = None,
) -> WrittenObject:
    """Write the structures of a CT, MR or PET volume, or of one slice, as an RT Structure Set.

    ROI n is class n of the table; a class without a voxel has no ROI. The UIDs are derived from the
    file's other bytes (and the bytes from source, label map, labels, model, version and dates), so
    the same result is the same instance and a changed one never takes its UID.

    Parameters
    ----------
    path : Path
        Written whole or not at all. An older file is removed where no structure was found.
    label_map : (I, J, K) or, for one slice, (I, J) integer array
        Class indices on `grid`; any memory order.
    grid : ImageGrid
        Of the DICOM image: affine, instances, and the files, of which the first one's patient and
        study are copied.
    table : LabelTable
        A label with a code gets it as its RT ROI Identification, with its side as modifier where
        both labels of a pair have one code.
    algorithm_name, algorithm_version, weights_sha256 : str
        Of the model bundle; name and version are cut at 64 characters.
    created : datetime or None
        When the result was made, local time. None: the source's own date, as in `write_dicom_seg`.

    Returns
    -------
    WrittenObject

    Raises
    ------
    InputError
        The image has no patient geometry (radiographs, pictures) or is not from DICOM files.
    ImageReadError
        The first source file is not a DICOM file, or its header is damaged.
    GeometryError
        The label map is not on the grid.
    LabelError
        A class index that the table does not have, or a code that DICOM cannot hold.
    StorageError
        The file cannot be written.

    References
    ----------
    DICOM PS3.3 A.19.3, C.8.8.5, C.8.8.6 and C.8.8.8.
    """
    _check_grid(grid)
    _check_label_map(label_map, grid, table)
    if not label_map.any():
        path.unlink(missing_ok=True)
        return WrittenObject(
            path=None, notes=("No RT structure set was written, because no structure was found.",)
        )
    source_path = grid.source.paths[0]
    contours = contour_sequences(label_map, grid)
    algorithm = describe_algorithm(algorithm_name, algorithm_version, weights_sha256)
    with header_errors(source_path):
        header = read_source(source_path)
        _check_header(header.dataset, grid.source)
        dates, notes = content_dates(header.dataset, created)
        dataset = _describe(header, grid.source, dates)
        dataset.SeriesDescription = f"medseg {algorithm_name} {algorithm_version}"[:54] + " [RTSTRUCT]"
        dataset.DeviceSerialNumber = weights_sha256[:16] or "none"
        for contour in contours:
            _add_roi(dataset, contour, table, algorithm)
        _set_texts(dataset, header)
        _derive_uids(dataset)
        with whole_file(path) as part:
            dataset.save_as(part, enforce_file_format=True)
    return WrittenObject(
        path=path,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        notes=(*notes, *_notes(contours, grid.source, table)),
    )


def _check_grid(grid: ImageGrid) -> None:
    if grid.affine is None:
        raise InputError(
            "an RT structure set needs patient geometry (where each slice lies), which a radiograph or "
            "picture does not have; use dicom_seg, or a presentation state with contours"
        )
    source, slices = grid.source, (*grid.shape, 1)[2]
    if source.format != "dicom" or not source.paths:
        raise InputError(
            f"an RT structure set must refer to DICOM instances, the image is from {source.format} files; "
            "give the DICOM series, or write NIfTI"
        )
    if len(source.sop_instance_uids) != slices or len(source.frame_numbers) not in (0, slices):
        raise InputError(
            f"the image has {slices} slices, but {len(source.sop_instance_uids)} SOP Instance UIDs and "
            f"{len(source.frame_numbers)} frame numbers to refer to"
        )
    uids = (source.sop_class_uid, source.series_instance_uid, source.study_instance_uid)
    if not all(UID(uid).is_valid for uid in (*uids, *set(source.sop_instance_uids))):
        raise InputError(
            "SOP class, study, series or instance UID of the source image is missing or malformed; "
            "an RT structure set cannot refer to it"
        )


def _check_label_map(label_map: NDArray[Any], grid: ImageGrid, table: LabelTable) -> None:
    if label_map.shape != grid.shape:
        raise GeometryError(f"the label map has shape {label_map.shape}, the image {grid.shape}")
    low, high = (int(label_map.min()), int(label_map.max())) if label_map.size else (0, 0)
    if not 0 <= low <= high < table.class_count:
        raise LabelError(
            f"the label map holds class indices {low} to {high}, the table has 0 to {table.class_count - 1}"
        )


def _check_header(header: Dataset, source: Source) -> None:
    found = str(header.get("SOPInstanceUID") or "")
    if found not in source.sop_instance_uids:
        raise InputError(
            f"{source.paths[0]}: the file holds another instance than when the image was read; read it again"
        )


def _describe(header: SourceHeader, source: Source, dates: dict[str, str]) -> Dataset:
    """All of the structure set but its ROIs, texts of persons and own UIDs."""
    dataset = Dataset()
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.Modality = "RTSTRUCT"
    dataset.StudyInstanceUID = source.study_instance_uid
    number = str(header.dataset.get("SeriesNumber") or "")
    dataset.SeriesNumber = SERIES_NUMBER + (number == str(SERIES_NUMBER))
    dataset.InstanceNumber = 1
    dataset.OperatorsName = None
    dataset.Manufacturer = dataset.ManufacturerModelName = "medseg"
    dataset.SoftwareVersions = __version__
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.StructureSetLabel = "medseg"
    dataset.StructureSetDate, dataset.StructureSetTime = dates["ContentDate"], dates["ContentTime"]
    for keyword in dates.keys() & {"SeriesDate", "SeriesTime"}:
        setattr(dataset, keyword, dates[keyword])
    dataset.FrameOfReferenceUID = _frame_of_reference(source)
    dataset.PositionReferenceIndicator = header.dataset.get("PositionReferenceIndicator")
    dataset.ReferencedFrameOfReferenceSequence = [_references(source)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    return dataset


def _frame_of_reference(source: Source) -> str:
    """The source's, or one for its series alone: the standard wants one, and a series has one space."""
    return source.frame_of_reference_uid or derived_uid("frame of reference", source.series_instance_uid)


def _references(source: Source) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.series_instance_uid
    series.ContourImageSequence = []
    for uid in dict.fromkeys(source.sop_instance_uids):
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.sop_class_uid, uid
        series.ContourImageSequence.append(image)
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _DETACHED_STUDY, source.study_instance_uid
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = _frame_of_reference(source)
    frame.RTReferencedStudySequence = [study]
    return frame


def _add_roi(
    dataset: Dataset,
    contours: ContourSequence,
    table: LabelTable,
    algorithm: hd.AlgorithmIdentificationSequence,
) -> None:
    label = table.labels[contours.number - 1]
    roi = Dataset()
    roi.ROINumber = contours.number
    roi.ReferencedFrameOfReferenceUID = dataset.FrameOfReferenceUID
    roi.ROIName = label.name.replace("\\", "/")[:64]
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIDerivationAlgorithmIdentificationSequence = algorithm
    outline = Dataset()
    outline.ROIDisplayColor = [int(label.colour[k : k + 2], 16) for k in (1, 3, 5)]
    # Already encoded. In Implicit VR a sequence and plain bytes look the same.
    outline[_CONTOUR_SEQUENCE] = DataElement(_CONTOUR_SEQUENCE, "OB", contours.encoded)
    outline.ReferencedROINumber = contours.number
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = contours.number
    if label.code is not None:
        observation.RTROIIdentificationCodeSequence = [_concept(label, label.code, table)]
    # The table does not say whether a structure is an organ or a target: left empty.
    observation.RTROIInterpretedType = ""
    observation.ROIInterpreter = None
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(outline)
    dataset.RTROIObservationsSequence.append(observation)


def _concept(label: Label, code: Code, table: LabelTable) -> hd.sr.CodedConcept:
    try:
        concept = hd.sr.CodedConcept(code.value, code.scheme, code.meaning)
    except ValueError as err:
        raise LabelError(f"the code of label {label.name} cannot be written in DICOM: {err}") from err
    twin = next((other for other in table.labels if other.name == label.pair), None)
    if twin is not None and twin.code == code and label.side in _SIDES:
        value, meaning = _SIDES[label.side]
        concept.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(value, "SCT", meaning)]
    return concept


def _set_texts(dataset: Dataset, header: SourceHeader) -> None:
    """Patient and study as the source has them, byte for byte where our own texts fit its character set."""
    source = header.dataset
    for keyword in (*IDENTITY, *_COPIED):
        if keyword in IDENTITY or source.get(keyword):
            setattr(dataset, keyword, source.get(keyword))
    if not any(keyword in dataset for keyword in _DEIDENTIFICATION):
        # PS3.3 C.7.1.1: it may not stand without a method.
        dataset.pop("PatientIdentityRemoved", None)
    if not _is_ascii(dataset):
        dataset.SpecificCharacterSet = "ISO_IR 192"
        return
    if source.get("SpecificCharacterSet"):
        dataset.SpecificCharacterSet = source.SpecificCharacterSet
    for keyword in (*IDENTITY, *_COPIED):
        tag = Tag(keyword)
        if tag in dataset and tag in header.texts:
            # Implicit VR: the bytes go into the file as they are, whatever the VR.
            dataset[tag] = DataElement(tag, "OB", header.texts[tag].value)


def _is_ascii(dataset: Dataset) -> bool:
    rois, observations = dataset.StructureSetROISequence, dataset.RTROIObservationsSequence
    codes = [code for item in observations for code in item.get("RTROIIdentificationCodeSequence", ())]
    algorithms = [item.ROIDerivationAlgorithmIdentificationSequence[0].AlgorithmName for item in rois]
    texts = [*(item.ROIName for item in rois), *(code.CodeMeaning for code in codes), *algorithms]
    return all(text.isascii() for text in (*texts, dataset.SeriesDescription))


def _derive_uids(dataset: Dataset) -> None:
    """Own UIDs from all other bytes, and the file meta group."""
    digest = hashlib.sha256(encoded(dataset, implicit_vr=True, little_endian=True)).hexdigest()
    dataset.SOPInstanceUID = derived_uid("instance", digest)
    dataset.SeriesInstanceUID = derived_uid("series", digest)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    # Explicit VR has no room for coordinates of more than 65534 bytes, which contours often have.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"medseg {__version__}"[:16]
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128


def _notes(contours: list[ContourSequence], source: Source, table: LabelTable) -> list[str]:
    found = {item.number for item in contours}
    absent = [label.name for n, label in enumerate(table.labels, 1) if n not in found]
    plain = [table.labels[n - 1].name for n in sorted(found) if table.labels[n - 1].code is None]
    notes = []
    if absent:
        notes.append(f"Not found, and so without an ROI in the RT structure set: {', '.join(absent)}.")
    if plain:
        notes.append(f"Without a coded concept in the RT structure set: {', '.join(plain)}.")
    if not source.frame_of_reference_uid:
        notes.append(
            "The source image has no frame of reference; the RT structure set has one of its own and "
            "refers to the image's instances."
        )
    return notes
