"""C-FIND, C-GET and C-MOVE towards an archive, by pynetdicom."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    BreastTomosynthesisImageStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
)

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs.options import ClientTlsOptions
from medseg.pacs.tls import client_context

IMAGES = (
    BreastTomosynthesisImageStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
)
"""What C-GET asks for; the scanner's images, not what others made of them."""

# A context holds one answer, so each class is offered with the syntaxes that readers know, commonest first.
_SYNTAXES = [str(syntax) for syntax in AllTransferSyntaxes]
_PENDING = (0xFF00, 0xFF01)

Store = Callable[[bytes, str, str, str], int]
"""Encoded data set, transfer syntax, SOP class and instance UID -> status of C-STORE."""


class Archive(Protocol):
    """The settings that say how to reach an archive."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def called_ae_title(self) -> str: ...
    @property
    def calling_ae_title(self) -> str: ...
    @property
    def tls(self) -> ClientTlsOptions | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundStudy:
    """A study of the archive; `instances` is None where the archive does not say how many it has."""

    study_uid: str
    instances: int | None


class QueryClient:
    """Asks one archive; every question has an association of its own.

    Parameters
    ----------
    archive : Archive
    timeout_s : float
        Longest silence.
    """

    def __init__(self, archive: Archive, *, timeout_s: float) -> None:
        self._archive, self._timeout_s = archive, timeout_s
        self._tls: tuple[ssl.SSLContext, str] | None = None
        if archive.tls is not None:
            context = client_context(archive.tls, field="tls")
            self._tls = (context, archive.tls.server_name or archive.host)

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
        ae = self._entity()
        ae.add_requested_context(model)
        with self._association(ae) as association:
            return list(self._found(association.send_c_find(query, model)))

    def count_instances(self, study_uid: str) -> int:
        """The number of instances of a study, by C-FIND for its series and for the images of each.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        model = StudyRootQueryRetrieveInformationModelFind
        ae = self._entity()
        ae.add_requested_context(model)
        with self._association(ae) as association:
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
        ae, model, taken = self._entity(), StudyRootQueryRetrieveInformationModelGet, [0]
        ae.add_requested_context(model)
        for image in IMAGES:
            ae.add_requested_context(image, _SYNTAXES)

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
        with self._association(ae, roles, [(evt.EVT_C_STORE, stored)]) as association:
            self._retrieve(association.send_c_get(_study(study_uid), model), "C-GET")
        return taken[0]

    def move_study(self, study_uid: str, destination: str) -> None:
        """C-MOVE of a study to an AE title that the archive knows.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
            Some or all instances could not be moved.
        """
        ae, model = self._entity(), StudyRootQueryRetrieveInformationModelMove
        ae.add_requested_context(model)
        with self._association(ae) as association:
            self._retrieve(association.send_c_move(_study(study_uid), destination, model), "C-MOVE")

    def _entity(self) -> Any:
        ae = AE(ae_title=self._archive.calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = self._timeout_s
        return ae

    def _place(self) -> str:
        archive = self._archive
        return f"{archive.called_ae_title} at {archive.host} port {archive.port}"

    def _association(self, ae: Any, roles: Any = None, handlers: Any = None) -> _Released:
        archive = self._archive
        association = ae.associate(
            archive.host,
            archive.port,
            ae_title=archive.called_ae_title,
            ext_neg=roles or [],
            evt_handlers=handlers or [],
            tls_args=self._tls,
        )
        if association.is_established:
            return _Released(association)
        if association.is_rejected and int(association.acceptor.primitive.result) == 1:
            raise PacsRejectedError(
                f"{self._place()} refused the association: {association.acceptor.primitive.reason_str}"
            )
        raise PacsUnreachableError(f"{self._place()} does not answer, or ended the connection")

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
                raise PacsUnreachableError(f"{self._place()}: {failed} instances could not be had by {what}")

    def _check(self, status: Any, what: str) -> None:
        if "Status" not in status:
            raise PacsUnreachableError(f"{self._place()} ended {what} before it was done")
        code = int(status.Status)
        # B000: done, with some sub-operations failed; their number is looked at.
        if code not in (0x0000, 0xB000, *_PENDING):
            raise PacsRejectedError(f"{self._place()} answered {what} with status {code:04X}")


class _Released:
    """An association that is released when the block ends."""

    def __init__(self, association: Any) -> None:
        self._association = association

    def __enter__(self) -> Any:
        return self._association

    def __exit__(self, *_: object) -> None:
        self._association.release()


def _study(study_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
    return query
