"""C-FIND, C-GET and C-MOVE towards an archive, by pynetdicom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import build_role, evt, sop_class
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs.association import Context, Requestor
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
"""What C-GET asks for; the scanner's images, not what others made of them."""

# A context holds one answer, so each class is offered with the syntaxes that readers know, commonest first.
_SYNTAXES = [str(syntax) for syntax in AllTransferSyntaxes]
_PENDING = (0xFF00, 0xFF01)

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
    """

    def __init__(self, archive: DimsePeer, *, timeout_s: float) -> None:
        self._requestor = Requestor(archive, timeout_s=timeout_s)
        self._place = self._requestor.place

    def find_studies(self, keys: Mapping[str, str]) -> list[FoundStudy]:
        """C-FIND for studies.

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
        model = StudyRootQueryRetrieveInformationModelFind
        with self._requestor.associate([(model, None)]) as association:
            return list(self._found(association.send_c_find(query, model)))

    def count_instances(self, study_uid: str) -> int:
        """The number of instances of a study, by C-FIND for its series and for the images of each.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        model = StudyRootQueryRetrieveInformationModelFind
        with self._requestor.associate([(model, None)]) as association:
            query = _study(study_uid)
            query.QueryRetrieveLevel, query.SeriesInstanceUID = "SERIES", ""
            found = list(self._matches(association.send_c_find(query, model)))
            count = 0
            query.QueryRetrieveLevel, query.SOPInstanceUID = "IMAGE", ""
            for series in found:
                query.SeriesInstanceUID = series.SeriesInstanceUID
                count += sum(1 for _ in self._matches(association.send_c_find(query, model)))
        return count

    def get_study(self, study_uid: str, store: Store) -> int:
        """C-GET of a study; the number of instances that `store` took.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
            Some or all instances could not be had.
        """
        model, taken = StudyRootQueryRetrieveInformationModelGet, [0]
        contexts: list[Context] = [(model, None), *((image, _SYNTAXES) for image in IMAGES)]

        def stored(event: Any) -> int:
            status = store(
                event.request.DataSet.getvalue(),
                str(event.context.transfer_syntax),
                str(event.request.AffectedSOPClassUID),
                str(event.request.AffectedSOPInstanceUID),
            )
            taken[0] += status == 0
            return status

        roles = [build_role(image, scp_role=True) for image in IMAGES]
        handlers = [(evt.EVT_C_STORE, stored)]
        with self._requestor.associate(contexts, roles=roles, handlers=handlers) as association:
            self._retrieve(association.send_c_get(_study(study_uid), model), "C-GET")
        return taken[0]

    def move_study(self, study_uid: str, destination: str) -> None:
        """C-MOVE of a study to an AE title that the archive knows.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
            Some or all instances could not be moved.
        """
        model = StudyRootQueryRetrieveInformationModelMove
        with self._requestor.associate([(model, None)]) as association:
            self._retrieve(association.send_c_move(_study(study_uid), destination, model), "C-MOVE")

    def _found(self, answers: Iterator[Any]) -> Iterator[FoundStudy]:
        for found in self._matches(answers):
            if found.get("StudyInstanceUID"):
                count = found.get("NumberOfStudyRelatedInstances")
                yield FoundStudy(
                    study_uid=str(found.StudyInstanceUID), instances=None if count is None else int(count)
                )

    def _matches(self, answers: Iterator[Any]) -> Iterator[Dataset]:
        for status, found in answers:
            self._check(status, "C-FIND")
            if int(status.Status) in _PENDING and found is not None:
                yield found

    def _retrieve(self, answers: Iterator[Any], what: str) -> None:
        for status, _ in answers:
            self._check(status, what)
            failed = int(status.get("NumberOfFailedSuboperations") or 0)
            if int(status.Status) not in _PENDING and failed:
                raise PacsUnreachableError(f"{self._place}: {failed} instances could not be had by {what}")

    def _check(self, status: Any, what: str) -> None:
        if "Status" not in status:
            raise PacsUnreachableError(f"{self._place} ended {what} before it was done")
        code = int(status.Status)
        # B000: done, with some sub-operations failed; their number is looked at.
        if code not in (0x0000, 0xB000, *_PENDING):
            raise PacsRejectedError(f"{self._place} answered {what} with status {code:04X}")


def _study(study_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
    return query
