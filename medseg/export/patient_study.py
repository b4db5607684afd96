"""Patient, study and acquisition equipment of a source image, for objects that join its study."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from medseg.io.dicom_header import DicomHeader
from medseg.io.orientation import letters_of_header

# PS3.3 C.7.1.1, C.7.1.3, C.7.2.1, C.7.2.2, C.7.2.3: the modules of patient and study that any image or
# segmentation has, elements at their root. The Study Instance UID is set by the caller, who checked it.
PATIENT_AND_STUDY = (
    # Patient.
    "ReferencedPatientSequence",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "PatientSex",
    "QualityControlSubject",
    "StrainDescription",
    "StrainNomenclature",
    "StrainStockSequence",
    "StrainAdditionalInformation",
    "StrainCodeSequence",
    "GeneticModificationsSequence",
    "OtherPatientNames",
    "OtherPatientIDsSequence",
    "ReferencedPatientPhotoSequence",
    "EthnicGroupCodeSequence",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # Clinical trial subject.
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "IssuerOfClinicalTrialProtocolID",
    "OtherClinicalTrialProtocolIDsSequence",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "IssuerOfClinicalTrialSiteID",
    "ClinicalTrialSubjectID",
    "IssuerOfClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "IssuerOfClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    # General study.
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence",
    "ReferencedStudySequence",
    "StudyID",
    "RequestingService",
    "RequestingServiceCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    # Patient study.
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientSizeCodeSequence",
    "PatientBodyMassIndex",
    "MeasuredAPDimension",
    "MeasuredLateralDimension",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "Occupation",
    "SmokingStatus",
    "AdditionalPatientHistory",
    "PregnancyStatus",
    "LastMenstrualDate",
    "PatientSexNeutered",
    "ReasonForVisit",
    "ReasonForVisitCodeSequence",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence",
    "PatientState",
    # Clinical trial study.
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "LongitudinalTemporalOffsetFromEvent",
    "LongitudinalTemporalEventType",
    "ClinicalTrialTimePointTypeCodeSequence",
    "IssuerOfClinicalTrialTimePointID",
    "ConsentForClinicalTrialUseSequence",
)
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "InstitutionalDepartmentName",
    "InstitutionAddress",
    "StationName",
)


def copy_patient_and_study(source: Dataset, target: Dataset) -> None:
    """Put the source's elements, the very same ones, into `target`; those of type 2 that it lacks are empty."""
    for keyword in _TYPE_2:
        setattr(target, keyword, None)
    for keyword in PATIENT_AND_STUDY:
        if keyword in source:
            target.add(source[keyword])


def patient_orientation(source: Dataset) -> list[str] | None:
    """Patient Orientation of the source; None where it has none, or one that is no direction (PS3.3 C.7.6.1.1.1).

    Those of animals, which have letters of their own, are as they are.
    """
    header = DicomHeader(Path(), (source,))
    found = header.texts("PatientOrientation")
    animal = header.code("AnatomicalOrientationType") == "QUADRUPED"
    return list(found) if animal or letters_of_header(found) else None


def acquisition_equipment(source: Dataset) -> Dataset | None:
    """Item of the Contributing Equipment Sequence for the device of the source; None where it is not named.

    References
    ----------
    DICOM PS3.3 C.12.1, table C.12-1; CID 7005.
    """
    if not source.get("Manufacturer"):
        return None
    purpose, equipment = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109101", "DCM"
    purpose.CodeMeaning = "Acquisition Equipment"
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    for keyword in _EQUIPMENT:
        if source.get(keyword):
            setattr(equipment, keyword, source[keyword].value)
    equipment.ContributionDescription = "Acquisition equipment of the source image(s)"
    return equipment
