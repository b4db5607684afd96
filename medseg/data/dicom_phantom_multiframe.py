"""Synthetic multi-frame images: Enhanced CT and MR, and Legacy Converted Enhanced CT, MR and PET."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from medseg.data.dicom_phantom_frames import Rescale
from medseg.data.dicom_phantom_headers import (
    DAY,
    TIME,
    Modality,
    MultiFrame,
    Placement,
    code,
    decimals,
    phantom_uid,
    plain,
    sop_class,
)

_IMAGE_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
_FRAME_TYPES = {
    "CT": "CTImageFrameTypeSequence",
    "MR": "MRImageFrameTypeSequence",
    "PT": "PETFrameTypeSequence",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiFrameModules:
    """What the one instance of a multi-frame series has beyond the modules of patient to equipment.

    Parameters
    ----------
    root : str
        Where UIDs are derived from.
    modality, multiframe : str
        The storage class.
    place : Placement
    rescale : Rescale
        One map per slice.
    frame_order : tuple of int
        Slice that each frame shows.
    window : (float, float)
        Centre and width, real values.

    References
    ----------
    PS3.3 A.36, A.38, A.70 to A.72 and C.7.6.16.
    """

    root: str
    modality: Modality
    multiframe: MultiFrame
    place: Placement
    rescale: Rescale
    frame_order: tuple[int, ...]
    window: tuple[float, float]

    def elements(self) -> Dataset:
        """The elements, functional groups included."""
        organisation = phantom_uid(self.root, "dimensions")
        dataset = plain(
            ImageType=_IMAGE_TYPE, InstanceNumber=1, PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE",
            NumberOfFrames=len(self.frame_order), PresentationLUTShape="IDENTITY",
            AcquisitionContextSequence=[], AcquisitionDateTime=DAY + TIME, PatientPosition="HFS",
            ContentQualification="RESEARCH",
            DimensionOrganizationSequence=[plain(DimensionOrganizationUID=organisation)],
            DimensionIndexSequence=_dimensions(organisation),
            SharedFunctionalGroupsSequence=[self._shared_groups()],
            PerFrameFunctionalGroupsSequence=[
                self._frame_groups(k, frame) for frame, k in enumerate(self.frame_order)
            ],
        )  # fmt: skip
        if self.multiframe == "legacy":
            dataset.ContributingEquipmentSequence = [_converter()]
        elif self.modality == "MR":
            dataset.update(_mr_pulse_sequence())
        return dataset

    def _shared_groups(self) -> Dataset:
        step = decimals((self.place.step_mm,))[0]
        window = decimals(self.window)
        groups = plain(
            PixelMeasuresSequence=[plain(
                PixelSpacing=decimals(self.place.pixel_spacing_mm), SliceThickness=step,
                SpacingBetweenSlices=step,
            )],
            PlaneOrientationSequence=[plain(ImageOrientationPatient=decimals(self.place.orientation))],
            FrameAnatomySequence=[plain(
                FrameLaterality="U", AnatomicRegionSequence=[code("818983003", "SCT", "Abdomen")]
            )],
            FrameVOILUTSequence=[plain(WindowCenter=window[0], WindowWidth=window[1])],
        )  # fmt: skip
        setattr(groups, _FRAME_TYPES[self.modality], [_frame_type(self.modality)])
        if self._one_rescale:
            groups.PixelValueTransformationSequence = [self._rescale_item(0)]
        if self.multiframe == "legacy":
            groups.UnassignedSharedConvertedAttributesSequence = [Dataset()]
        elif self.modality == "CT":
            event = phantom_uid(self.root, "irradiation event")
            groups.IrradiationEventIdentificationSequence = [plain(IrradiationEventUID=event)]
        return groups

    def _frame_groups(self, k: int, frame: int) -> Dataset:
        groups = plain(
            FrameContentSequence=[plain(
                StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1],
                FrameAcquisitionNumber=1,
            )],
            PlanePositionSequence=[plain(ImagePositionPatient=decimals(self.place.positions[k]))],
        )  # fmt: skip
        if not self._one_rescale:
            groups.PixelValueTransformationSequence = [self._rescale_item(k)]
        if self.multiframe == "legacy":
            groups.UnassignedPerFrameConvertedAttributesSequence = [plain(InstanceNumber=frame + 1)]
            groups.ConversionSourceAttributesSequence = [plain(
                ReferencedSOPClassUID=sop_class(self.modality, "no"),
                ReferencedSOPInstanceUID=phantom_uid(self.root, "instance", self.modality, k),
            )]  # fmt: skip
        return groups

    @property
    def _one_rescale(self) -> bool:
        return len(set(zip(self.rescale.slopes, self.rescale.intercepts, strict=True))) == 1

    def _rescale_item(self, k: int) -> Dataset:
        slope, intercept = decimals((self.rescale.slopes[k], self.rescale.intercepts[k]))
        kind = "HU" if self.modality == "CT" else "US"
        return plain(RescaleIntercept=intercept, RescaleSlope=slope, RescaleType=kind)


def _dimensions(organisation: str) -> list[Dataset]:
    """Stack, then position in the stack."""
    pointers = ((0x00209056, "Stack ID"), (0x00209057, "In-Stack Position Number"))
    return [
        plain(
            DimensionOrganizationUID=organisation, DimensionIndexPointer=tag,
            FunctionalGroupPointer=0x00209111, DimensionDescriptionLabel=label,
        )
        for tag, label in pointers
    ]  # fmt: skip


def _mr_pulse_sequence() -> Dataset:
    """Enhanced MR Image module, as far as derived images need it (PS3.3 C.8.13.1)."""
    return plain(
        ResonantNucleus="1H", KSpaceFiltering="NONE", MagneticFieldStrength=1.5,
        ApplicableSafetyStandardAgency="IEC", AcquisitionNumber=1, ComplexImageComponent="MAGNITUDE",
        AcquisitionContrast="UNKNOWN",
    )  # fmt: skip


def _converter() -> Dataset:
    """The conversion that a legacy converted image owes its reader (PS3.3 A.70)."""
    return plain(
        Manufacturer="medseg phantom", InstitutionName="", StationName="", ManufacturerModelName="Phantom",
        SoftwareVersions="1", ContributionDateTime=DAY + TIME, ContributionDescription="drawn as it is",
        PurposeOfReferenceCodeSequence=[code("109106", "DCM", "Enhanced Multi-frame Conversion Equipment")],
    )  # fmt: skip


def _frame_type(modality: Modality) -> Dataset:
    item = plain(
        FrameType=_IMAGE_TYPE, PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )  # fmt: skip
    if modality == "MR":
        item.update(plain(ComplexImageComponent="MAGNITUDE", AcquisitionContrast="UNKNOWN"))
    return item
