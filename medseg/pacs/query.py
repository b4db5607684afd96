"""C-FIND, C-GET and C-MOVE towards an archive, by pynetdicom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes, JPEGBaseline8Bit, RLELossless
from pynetdicom import DEFAULT_TRANSFER_SYNTAXES, StoragePresentationContexts, build_role, evt, sop_class
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as _FIND
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as _GET
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as _MOVE

from medseg.amounts import counted
from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.io.dicom_header import DicomHeader
from medseg.pacs.association import Context, Requestor
from medseg.pacs.dicom_json import valid_uid
from medseg.pacs.options import DimsePeer

IMAGES = (
    sop_class.BreastTomosynthesisImageStorage,
    sop_class.ComputedRadiographyImageStorage,
    sop_class.CTImageStorage,
    sop_class.DigitalMammographyXRayImageStorageForPresentation,
    sop_class.DigitalXRayImageStorageForPresentation,
    sop_class.DigitalXRayImageStorageForProcessing,
    sop_class.EnhancedCTImageStorage,
    sop_class.EnhancedMRImageStorage,
    sop_class.EnhancedPETImageStorage,
    sop_class.LegacyConvertedEnhancedCTImageStorage,
    sop_class.LegacyConvertedEnhancedMRImageStorage,
    sop_class.MRImageStorage,
    sop_class.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    sop_class.NuclearMedicineImageStorage,
    sop_class.PositronEmissionTomographyImageStorage,
    sop_class.SecondaryCaptureImageStorage,
    sop_class.UltrasoundImageStorage,
    sop_class.UltrasoundMultiFrameImageStorage,
    sop_class.XRayAngiographicImageStorage,
)
"""What C-GET hands on; the scanner's images, not what others made of them."""

_OTHERS = tuple(
    dict.fromkeys(
        uid
        for uid in (
            *(str(context.abstract_syntax) for context in StoragePresentationContexts),
            sop_class.AcquisitionContextSRStorage,
            sop_class.EnhancedXRayRadiationDoseSRStorage,
            sop_class.ExtensibleSRStorage,
            sop_class.LabelMapSegmentationStorage,
            sop_class.ParametricMapStorage,
            sop_class.PatientRadiationDoseSRStorage,
            sop_class.RadiopharmaceuticalRadiationDoseSRStorage,
        )
        if uid not in IMAGES
    )
)
"""What C-GET takes as well and passes over: a study with an object that nobody took is refused by some archives."""

# A context holds one answer, so each class is offered with the syntaxes that readers know, commonest first.
_SYNTAXES = [str(syntax) for syntax in AllTransferSyntaxes]
_SYNTAXES_OF_OTHERS = [*map(str, DEFAULT_TRANSFER_SYNTAXES), str(RLELossless), str(JPEGBaseline8Bit)]
_PENDING = (0xFF00, 0xFF01)
_PARTLY = 0xB000
_MESSAGE_IDS = 65535
_MOST_FOUND = 250_000
_LARGEST = 4 << 30

Store = Callable[[bytes, str, str, str], int]
"""Encoded data set, transfer syntax, SOP class and instance UID -> status of C-STORE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundStudy:
    """A study of the archive; `instances` is None where the archive does not say how many it has."""

    study_uid: str
    instances: int | None


class QueryClient:
    """Asks one archive; every question has an association of its own.

    Parameters
    ----------
    archive : DimsePeer
    timeout_s : float
        Longest silence.
    instance_limit : int, optional
        Most bytes of an instance that comes by C-GET.
    """

    def __init__(self, archive: DimsePeer, *, timeout_s: float, instance_limit: int = _LARGEST) -> None:
        self._requestor = Requestor(archive, timeout_s=timeout_s)
        self._place, self._limit = self._requestor.place, instance_limit

    def find_studies(self, keys: Mapping[str, str]) -> list[FoundStudy]:
        """C-FIND for studies; answers without a valid UID are passed over.

        Parameters
        ----------
        keys : mapping of str to str
            Matching keys by DICOM keyword.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID, query.NumberOfStudyRelatedInstances = "", None
        for keyword, value in keys.items():
            setattr(query, keyword, value)
        with self._requestor.associate([(_FIND, None)]) as association:
            found = map(_header, self._matches(association, query, 1))
            return [
                FoundStudy(study_uid=uid, instances=_count(header))
                for header in found
                if (uid := _uid(header, "StudyInstanceUID"))
            ]

    def count_instances(self, study_uid: str) -> int:
        """The number of instances of a study, by C-FIND for its series and for the images of each.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        with self._requestor.associate([(_FIND, None)]) as association:
            query = _study(study_uid)
            query.QueryRetrieveLevel, query.SeriesInstanceUID = "SERIES", ""
            series = self._uids(association, query, 1)
            query.QueryRetrieveLevel, query.SOPInstanceUID = "IMAGE", ""
            images: set[str] = set()
            for number, query.SeriesInstanceUID in enumerate(sorted(series), 1):
                images |= self._uids(association, query, 1 + number % _MESSAGE_IDS)
        return len(images)

    def get_study(self, study_uid: str, store: Store) -> int:
        """C-GET of a study; how many of its instances came, those that are no images included.

        Parameters
        ----------
        study_uid : str
        store : callable
            Takes the images; with another status than success an instance has not come.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
            Some or all instances could not be had.
        """
        came: set[str] = set()

        def stored(event: Any) -> int:
            request = event.request
            sop_class_uid, uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
            status = 0
            if sop_class_uid in IMAGES:
                syntax = str(event.context.transfer_syntax)
                status = store(request.DataSet.getvalue(), syntax, sop_class_uid, uid)
            if status == 0:
                came.add(uid)
            return status

        contexts: list[Context] = [(_GET, None), *((image, _SYNTAXES) for image in IMAGES)]
        contexts += [(other, _SYNTAXES_OF_OTHERS) for other in _OTHERS]
        with self._requestor.associate(
            contexts,
            roles=[build_role(each, scp_role=True) for each in (*IMAGES, *_OTHERS)],
            handlers=[(evt.EVT_C_STORE, stored)],
            longest_message=self._limit,
        ) as association:
            self._retrieve(association.send_c_get(_study(study_uid), _GET), "C-GET")
        return len(came)

    def move_study(self, study_uid: str, destination: str) -> int | None:
        """C-MOVE of a study to an AE title that the archive knows.

        Returns
        -------
        int or None
            Instances that were moved, as the archive says; None where it does not.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
            Some or all instances could not be moved.
        """
        with self._requestor.associate([(_MOVE, None)]) as association:
            return self._retrieve(association.send_c_move(_study(study_uid), destination, _MOVE), "C-MOVE")

    def _uids(self, association: Any, query: Dataset, message_id: int) -> set[str]:
        """Those of the level that a query asks for."""
        keyword = "SeriesInstanceUID" if query.QueryRetrieveLevel == "SERIES" else "SOPInstanceUID"
        matches = self._matches(association, query, message_id)
        return {_uid(_header(found), keyword) for found in matches} - {""}

    def _matches(self, association: Any, query: Dataset, message_id: int) -> Iterator[Dataset]:
        # With an id of its own no query is given late answers to the one before.
        answers = association.send_c_find(query, _FIND, msg_id=message_id)
        for number, (status, found) in enumerate(answers):
            if number > _MOST_FOUND:
                association.abort()
                raise PacsRejectedError(
                    f"{self._place} answers C-FIND with more than {_MOST_FOUND} matches; ask for fewer days"
                )
            self._check(status, "C-FIND")
            if int(status.Status) in _PENDING and found is not None:
                yield found

    def _retrieve(self, answers: Iterator[Any], what: str) -> int | None:
        """Instances that were sent, as the last answer says."""
        status = Dataset()
        for status, _ in answers:
            self._check(status, what)
        failed = int(status.get("NumberOfFailedSuboperations") or 0)
        if failed:
            lost = counted(failed, "instance")
            raise PacsUnreachableError(f"{self._place}: {lost} could not be had by {what}")
        done = (status.get(f"NumberOf{how}Suboperations") for how in ("Completed", "Warning"))
        known = [int(number) for number in done if number is not None]
        if int(status.Status) == _PARTLY and not known:
            raise PacsUnreachableError(f"{self._place}: some instances could not be had by {what}")
        return sum(known) if known else None

    def _check(self, status: Any, what: str) -> None:
        if "Status" not in status:
            raise PacsUnreachableError(f"{self._place} ended {what} before it was done")
        code = int(status.Status)
        # B000: done, with some sub-operations failed; their number is looked at.
        if code not in (0x0000, _PARTLY, *_PENDING):
            raise PacsRejectedError(f"{self._place} answered {what} with status {code:04X}")


def _study(study_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
    return query


def _header(found: Dataset) -> DicomHeader:
    return DicomHeader.of(found, Path("an answer to C-FIND"))


def _uid(header: DicomHeader, keyword: str) -> str:
    """A UID; "" where there is none, several, or a wildcard, which would fetch everything."""
    texts = header.texts(keyword)
    return valid_uid(texts[0]) if len(texts) == 1 else ""


def _count(header: DicomHeader) -> int | None:
    found = header.numbers("NumberOfStudyRelatedInstances")
    return int(found[0]) if len(found) == 1 and 0 <= found[0] < 2**31 else None
