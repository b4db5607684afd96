"""Picture of a result -> DICOM Secondary Capture, for archives and viewers that show nothing else.

One true-colour image of one frame, which every viewer shows: a radiograph with its contours, or the
key slices of a volume side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage

from medseg.export.key_slices import ResultPicture, result_picture
from medseg.export.options import ContentQualification
from medseg.export.patient_study import patient_orientation
from medseg.export.result_object import (
    BANNER,
    ModelFacts,
    ResultObject,
    array_digest,
    result_object,
)
from medseg.export.written import WrittenObject
from medseg.labels import LabelTable
from medseg.volume import Source, Volume

SERIES_NUMBER = 931


def write_secondary_capture(
    path: Path,
    volume: Volume,
    label_map: NDArray[Any],
    *,
    table: LabelTable,
    model: ModelFacts,
    captions: Mapping[str, str] | None = None,
    created: datetime | None = None,
    content_qualification: ContentQualification = "RESEARCH",
) -> WrittenObject:
    """Write an RGB picture with burned-in contours, sides, legend and a banner "RESEARCH, not for diagnosis".

    Parameters
    ----------
    path : Path
        Written whole or not at all.
    volume : Volume
        A radiograph, or a volume of which at most twelve slices are shown: those that show each
        structure near its largest area.
    label_map : (I, J) or (I, J, K) integer array
        Class indices on the volume's grid.
    table : LabelTable
    model : ModelFacts
    captions : mapping of str to str, optional
        Text after a label's name in the legend, such as its volume.
    created : datetime or None
        When the result was made; None: the dates of the source.
    content_qualification : {"RESEARCH", "PRODUCT", "SERVICE"}
        The banner stays in every case.

    Returns
    -------
    WrittenObject

    Raises
    ------
    InputError
        The source is not DICOM, or lacks a UID.
    GeometryError
        Volume and label map of different grids.
    ImageReadError, StorageError
        The source is damaged; the file cannot be written.

    References
    ----------
    DICOM PS3.3 A.8.1, C.8.6.1, C.8.6.2.
    """
    banner = f"{BANNER}  ·  medseg {model.name} {model.version}"
    picture = result_picture(volume, label_map, table, banner=banner, captions=captions)
    pixels = np.asarray(picture.image, dtype=np.uint8)
    with result_object(
        "SC",
        volume.grid,
        series_number=SERIES_NUMBER,
        model=model,
        determined_by=[array_digest(pixels), list(picture.slices)],
        created=created,
        qualification=content_qualification,
    ) as made:
        capture = made.plain(SecondaryCaptureImageStorage, modality="OT")
        _describe(capture, made, picture, volume.source)
        _add_pixels(capture, pixels)
        return made.save(capture, path, notes=picture.notes)


def _describe(capture: hd.SOPClass, made: ResultObject, picture: ResultPicture, source: Source) -> None:
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.ConversionType = "WSD"
    capture.BurnedInAnnotation = "YES"
    capture.DerivationDescription = "Contours of a segmentation burned in"
    # Of a sheet of slices no single orientation is true of the whole image.
    flat = not picture.slices
    capture.PatientOrientation = patient_orientation(made.source) if flat else None
    # Empty where a body part is not named: it might be a paired one, and then must have a side.
    side = made.source.get("Laterality") if made.source.get("Laterality") in ("R", "L") else None
    if side or not made.source.get("BodyPartExamined"):
        capture.Laterality = side
    if made.source.get("BodyPartExamined"):
        capture.BodyPartExamined = made.source.BodyPartExamined
    if made.source.get("LossyImageCompression") == "01":
        capture.LossyImageCompression = "01"
    capture.DateOfSecondaryCapture = made.dates["ContentDate"]
    capture.TimeOfSecondaryCapture = made.dates["ContentTime"]
    capture.SourceImageSequence = _sources(made.source, source, picture.slices)


def _sources(header: Dataset, source: Source, slices: tuple[int, ...]) -> list[Dataset]:
    """References to the instances, or frames, that the picture shows."""
    shown: dict[str, list[int]] = {}
    for k in slices or (0,):
        uid = source.sop_instance_uids[k] if source.sop_instance_uids else str(header.SOPInstanceUID)
        shown.setdefault(uid, []).extend(source.frame_numbers[k : k + 1])
    items = []
    for uid, frames in shown.items():
        item = Dataset()
        item.ReferencedSOPClassUID = source.sop_class_uid or header.SOPClassUID
        item.ReferencedSOPInstanceUID = uid
        if frames:
            item.ReferencedFrameNumber = frames
        purpose = codes.DCM.SourceImageForImageProcessingOperation
        item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(purpose)]
        items.append(item)
    return items


def _add_pixels(capture: hd.SOPClass, pixels: NDArray[np.uint8]) -> None:
    capture.SamplesPerPixel, capture.PhotometricInterpretation = 3, "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = int(pixels.shape[0]), int(pixels.shape[1])
    capture.BitsAllocated, capture.BitsStored, capture.HighBit = 8, 8, 7
    capture.PixelRepresentation = 0
    values = np.ascontiguousarray(pixels).tobytes()
    capture.PixelData = values + b"\0" * (len(values) % 2)
