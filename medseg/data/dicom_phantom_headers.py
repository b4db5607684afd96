"""Header elements of synthetic CT, MR and PET images: the modules that every instance of a series shares."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.valuerep import format_number_as_ds

from medseg.errors import GeometryError
from medseg.geometry import affine_lps_to_ras, spacing_of, tilt_degrees

Modality = Literal["CT", "MR", "PT"]
MultiFrame = Literal["no", "enhanced", "legacy"]

DAY, TIME = "20240229", "101112"
_SOP_CLASSES = {
    ("CT", "no"): uid.CTImageStorage,
    ("MR", "no"): uid.MRImageStorage,
    ("PT", "no"): uid.PositronEmissionTomographyImageStorage,
    ("CT", "enhanced"): uid.EnhancedCTImageStorage,
    ("MR", "enhanced"): uid.EnhancedMRImageStorage,
    ("CT", "legacy"): uid.LegacyConvertedEnhancedCTImageStorage,
    ("MR", "legacy"): uid.LegacyConvertedEnhancedMRImageStorage,
    ("PT", "legacy"): uid.LegacyConvertedEnhancedPETImageStorage,
}
_RIGHT_ANGLE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the slices of a series lie, in DICOM's terms (LPS+ mm).

    Parameters
    ----------
    orientation : (6,) float64 array
        Image Orientation (Patient).
    positions : (K, 3) float64 array
        Image Position (Patient) of each slice.
    pixel_spacing_mm : (float, float)
        Between rows, then between columns.
    step_mm : float
        Distance of neighbouring slice planes along their normal.
    tilt_degrees : float
        Angle between the line of positions and the normal.
    """

    orientation: NDArray[np.float64]
    positions: NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]
    step_mm: float
    tilt_degrees: float

    @classmethod
    def of(cls, affine: NDArray[np.float64], slices: int) -> Placement:
        """Slices of a grid whose affine maps (i, j, k, 1) to RAS+ mm.

        Raises
        ------
        GeometryError
            Rows and columns that are not at right angles: DICOM has no words for such a grid.
        """
        lps = affine_lps_to_ras(affine)
        spacing = spacing_of(lps)
        row, column = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
        if abs(float(row @ column)) > _RIGHT_ANGLE_TOLERANCE:
            raise GeometryError(
                f"rows and columns of a DICOM slice are at right angles, found a cosine of {row @ column:.6f}"
            )
        steps = np.outer(np.arange(slices), lps[:3, 2])
        return cls(
            orientation=np.concatenate([row, column]),
            positions=lps[:3, 3] + steps,
            pixel_spacing_mm=(spacing[1], spacing[0]),
            step_mm=abs(float(np.cross(row, column) @ lps[:3, 2])),
            tilt_degrees=tilt_degrees(affine),
        )


def sop_class(modality: Modality, multiframe: MultiFrame) -> uid.UID | None:
    """The storage class, or None where there is none that the writer knows."""
    return _SOP_CLASSES.get((modality, multiframe))


def phantom_uid(root: str, *parts: object) -> str:
    """A UID under 2.25 from a text and what it names."""
    text = "/".join(["medseg phantom", root, *(str(part) for part in parts)])
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])}"


def decimals(values: NDArray[np.float64] | tuple[float, ...]) -> list[str]:
    """Numbers as DICOM decimal strings, as exact as 16 characters allow."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def plain(**elements: object) -> Dataset:
    """A data set from keywords and values."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded concept."""
    return plain(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def file_meta(*, storage: str, transfer_syntax: str) -> FileMetaDataset:
    """The meta header; the instance's UID is set when it is saved."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = uid.UID(storage)
    meta.TransferSyntaxUID = uid.UID(transfer_syntax)
    meta.ImplementationClassUID = uid.UID(phantom_uid("", "implementation"))
    meta.ImplementationVersionName = "MEDSEG_PHANTOM"
    return meta


def shared_modules(root: str, modality: Modality, multiframe: MultiFrame, *, description: str) -> Dataset:
    """Patient, study, series, equipment and frame of reference."""
    person = hashlib.sha256(root.encode()).hexdigest()[:8].upper()
    return plain(
        SpecificCharacterSet="ISO_IR 192", StudyInstanceUID=phantom_uid(root, "study"),
        SeriesInstanceUID=phantom_uid(root, "series", modality, multiframe), StudyDate=DAY, StudyTime=TIME,
        SeriesDate=DAY, SeriesTime=TIME, ContentDate=DAY, ContentTime=TIME,
        AccessionNumber=f"PH{person[:6]}", StudyID="1", SeriesNumber=3,
        Modality=modality, PatientName="Phantom^Asymmetric", PatientID=f"PHANTOM-{person}",
        PatientBirthDate="", PatientSex="O", ReferringPhysicianName="", StudyDescription="Phantom",
        SeriesDescription=description, Manufacturer="medseg phantom", ManufacturerModelName="Phantom",
        DeviceSerialNumber="1", SoftwareVersions="1", BodyPartExamined="ABDOMEN",
        FrameOfReferenceUID=phantom_uid(root, "frame of reference"), PositionReferenceIndicator="",
        AcquisitionNumber=1, BurnedInAnnotation="NO", LossyImageCompression="00",
    )  # fmt: skip


def single_frame_modules(modality: Modality, place: Placement, *, slices: int) -> Dataset:
    """What a single-frame image of the modality has beyond `shared_modules`, but for its own slice."""
    elements = plain(
        AcquisitionDate=DAY,
        AcquisitionTime=TIME,
        ImageOrientationPatient=decimals(place.orientation),
        PixelSpacing=decimals(place.pixel_spacing_mm),
        SliceThickness=decimals((place.step_mm,))[0],
    )
    if modality == "CT":
        elements.update(_ct(place))
    elif modality == "MR":
        elements.update(_mr(place))
    else:
        elements.update(_pet(slices))
    return elements


def _ct(place: Placement) -> Dataset:
    """PS3.3 C.8.2.1."""
    return plain(
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], PatientPosition="HFS", KVP="120",
        RescaleType="HU", ConvolutionKernel="STANDARD", GantryDetectorTilt=f"{place.tilt_degrees:.4g}",
    )  # fmt: skip


def _mr(place: Placement) -> Dataset:
    """PS3.3 C.8.3.1."""
    return plain(
        ImageType=["ORIGINAL", "PRIMARY", "OTHER"], PatientPosition="HFS",
        ScanningSequence="SE", SequenceVariant="NONE", ScanOptions="",
        MRAcquisitionType="2D", EchoTime="20", EchoTrainLength="1", RepetitionTime="800",
        MagneticFieldStrength="1.5", SpacingBetweenSlices=decimals((place.step_mm,))[0],
    )  # fmt: skip


def _pet(slices: int) -> Dataset:
    """PS3.3 C.8.9.1 to C.8.9.4, with what SUV by body weight needs."""
    dose = plain(
        Radiopharmaceutical="FDG", RadiopharmaceuticalStartTime="090000", RadionuclideTotalDose="350000000",
        RadionuclideHalfLife="6586.2", RadionuclidePositronFraction="0.9673",
        RadionuclideCodeSequence=[code("77004003", "SCT", "^18^Fluorine")],
        RadiopharmaceuticalCodeSequence=[code("35321007", "SCT", "Fluorodeoxyglucose F^18^")],
    )  # fmt: skip
    recumbent = code("102538003", "SCT", "recumbent")
    recumbent.PatientOrientationModifierCodeSequence = [code("40199007", "SCT", "supine")]
    return plain(
        ImageType=["ORIGINAL", "PRIMARY"], SeriesType=["STATIC", "IMAGE"], NumberOfSlices=slices,
        Units="BQML", CountsSource="EMISSION", CorrectedImage=["ATTN", "DECY", "SCAT"],
        DecayCorrection="START", CollimatorType="NONE", RandomsCorrectionMethod="NONE",
        AttenuationCorrectionMethod="measured", FrameReferenceTime="0", ActualFrameDuration="120000",
        DecayFactor="1", PatientWeight="75", PatientSize="1.75",
        RadiopharmaceuticalInformationSequence=[dose],
        # In place of Patient Position, which PET images with these codes must not have.
        PatientOrientationCodeSequence=[recumbent],
        PatientGantryRelationshipCodeSequence=[code("102540001", "SCT", "headfirst")],
    )  # fmt: skip
