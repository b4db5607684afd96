"""Unified Procedure Steps: what is read of a work item, and what its performer writes into it.

References
----------
DICOM PS3.3 C.30 (modules of the UPS), PS3.4 table CC.2.5-3 (what must be there in a final state).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from medseg.pacs.dicom_json import JsonDataSet, data_set, element, items_of, text_of, uid_of

_MOST_INPUTS = 1000
_MOST_INSTANCES = 200_000
_MAX_URL = 4096

DiscontinuationReason = Literal[
    "equipment_failure", "unspecified", "objects_unsupported", "objects_incomplete"
]
# PS3.16 CID 9300, all of them of scheme DCM.
_DISCONTINUED: dict[str, tuple[str, str]] = {
    "equipment_failure": ("110501", "Equipment failure"),
    "unspecified": ("110513", "Discontinued for unspecified reason"),
    "objects_unsupported": ("110522", "Object Types not supported"),
    "objects_incomplete": ("110523", "Object Set incomplete"),
}


class MalformedWorkitemError(ValueError):
    """A work item that cannot be performed as it stands; the text names no identifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept."""

    value: str
    scheme: str
    meaning: str = ""

    @classmethod
    def read(cls, item: JsonDataSet) -> Code:
        """An item of a code sequence; empty texts where it says nothing (PS3.3 table 8.8-1)."""
        names = ("CodeValue", "LongCodeValue", "URNCodeValue")
        value = next((text for name in names if (text := text_of(item, name))), "")
        return cls(
            value=value, scheme=text_of(item, "CodingSchemeDesignator"), meaning=text_of(item, "CodeMeaning")
        )

    def sequence(self, keyword: str) -> dict[str, Any]:
        """A code sequence with it alone."""
        name = "CodeValue" if len(self.value) <= 16 else "LongCodeValue"
        item = data_set(
            element(name, self.value),
            element("CodingSchemeDesignator", self.scheme),
            element("CodeMeaning", self.meaning or self.value),
        )
        return element(keyword, item)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReference:
    """Instances that a work item is about: some of a series, or all of a series or study.

    Parameters
    ----------
    study_uid : str
    series_uid : str
        "" for the whole study.
    instances : tuple of str
        SOP Instance UIDs; empty: all.
    urls, ae_titles : tuple of str
        Where the item says that they can be retrieved.
    """

    study_uid: str
    series_uid: str = ""
    instances: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    ae_titles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRequest:
    """What a work item asks for."""

    codes: tuple[Code, ...]
    priority: str
    inputs: tuple[InputReference, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> WorkRequest:
        """What `to_json` gave."""
        codes = tuple(Code(**code) for code in found["codes"])
        lists = ("instances", "urls", "ae_titles")
        inputs = tuple(
            InputReference(**(one | {name: tuple(one[name]) for name in lists})) for one in found["inputs"]
        )
        return cls(codes=codes, priority=found["priority"], inputs=inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Result instances of one series, and where they can be retrieved."""

    study_uid: str
    series_uid: str
    instances: tuple[tuple[str, str], ...]
    ae_titles: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


def codes_of(item: JsonDataSet) -> tuple[Code, ...]:
    """Scheduled Workitem Codes."""
    return tuple(Code.read(one) for one in items_of(item, "ScheduledWorkitemCodeSequence"))


def cancel_is_requested(item: JsonDataSet) -> bool:
    """Whether a server shows in an item in progress that its cancellation was asked for.

    The standard tells it to subscribers alone (PS3.4 CC.2.4); what stands here is otherwise written by the performer,
    when he cancels.
    """
    keywords = ("ProcedureStepCancellationDateTime", "ReasonForCancellation")
    return any(
        text_of(progress, keyword)
        for progress in items_of(item, "ProcedureStepProgressInformationSequence")
        for keyword in keywords
    )


def read_request(item: JsonDataSet) -> WorkRequest:
    """What a work item asks for.

    Raises
    ------
    MalformedWorkitemError
        It names no DICOM instances, too many, or malformed UIDs.
    """
    inputs = tuple(_inputs(item))
    if not inputs:
        raise MalformedWorkitemError("its Input Information Sequence names no DICOM instances")
    if len(inputs) > _MOST_INPUTS or sum(len(one.instances) for one in inputs) > _MOST_INSTANCES:
        raise MalformedWorkitemError(
            f"its input is more than {_MOST_INPUTS} series or {_MOST_INSTANCES} instances"
        )
    priority = text_of(item, "ScheduledProcedureStepPriority")
    return WorkRequest(codes=codes_of(item), priority=priority, inputs=inputs)


def _inputs(item: JsonDataSet) -> Iterator[InputReference]:
    """PS3.3 table 10-3b, Referenced Instances and Access."""
    for one in items_of(item, "InputInformationSequence"):
        # CDA documents and others are no images.
        if text_of(one, "TypeOfInstances") not in ("", "DICOM"):
            continue
        study, series = uid_of(one, "StudyInstanceUID"), uid_of(one, "SeriesInstanceUID")
        if not study or (text_of(one, "SeriesInstanceUID") and not series):
            raise MalformedWorkitemError("its input has a Study or Series Instance UID that is none")
        references = items_of(one, "ReferencedSOPSequence")
        instances = tuple(uid_of(reference, "ReferencedSOPInstanceUID") for reference in references)
        if not all(instances):
            raise MalformedWorkitemError("its input has a Referenced SOP Instance UID that is none")
        yield InputReference(
            study_uid=study,
            series_uid=series,
            instances=tuple(dict.fromkeys(instances)),
            urls=tuple(_places(one, "WADORSRetrievalSequence", "RetrieveURL")),
            ae_titles=tuple(_places(one, "DICOMRetrievalSequence", "RetrieveAETitle")),
        )


def _places(item: JsonDataSet, sequence: str, keyword: str) -> Iterator[str]:
    for place in items_of(item, sequence)[:20]:
        if 0 < len(text := text_of(place, keyword)) <= _MAX_URL:
            yield text


def progress(percent: int, text: str) -> dict[str, Any]:
    """Attributes that tell how far the work is."""
    item = data_set(
        element("ProcedureStepProgress", percent), element("ProcedureStepProgressDescription", text)
    )
    return data_set(element("ProcedureStepProgressInformationSequence", item))


def cancellation(reason: DiscontinuationReason, text: str, *, at: float) -> dict[str, Any]:
    """Attributes that CANCELED requires (final state code X), with why."""
    value, meaning = _DISCONTINUED[reason]
    item = data_set(
        element("ProcedureStepCancellationDateTime", date_time(at)),
        Code(value=value, scheme="DCM", meaning=meaning).sequence(
            "ProcedureStepDiscontinuationReasonCodeSequence"
        ),
        element("ReasonForCancellation", text),
    )
    return data_set(element("ProcedureStepProgressInformationSequence", item))


def performed(
    *, station: Code, workitem: Code, began: float, ended: float, description: str, outputs: Sequence[Output]
) -> dict[str, Any]:
    """Attributes that COMPLETED requires (final state code P): who did what, when, and what came of it."""
    item = data_set(
        station.sequence("PerformedStationNameCodeSequence"),
        workitem.sequence("PerformedWorkitemCodeSequence"),
        element("PerformedProcedureStepStartDateTime", date_time(began)),
        element("PerformedProcedureStepEndDateTime", date_time(ended)),
        element("PerformedProcedureStepDescription", description[:64]),
        element("OutputInformationSequence", *map(_output, outputs)),
    )
    return data_set(
        element("UnifiedProcedureStepPerformedProcedureSequence", item), progress(100, "finished")
    )


def _output(output: Output) -> dict[str, Any]:
    references = [
        data_set(element("ReferencedSOPClassUID", sop_class), element("ReferencedSOPInstanceUID", instance))
        for sop_class, instance in output.instances
    ]
    places: list[dict[str, Any]] = []
    if output.ae_titles:
        titles = [data_set(element("RetrieveAETitle", title)) for title in output.ae_titles]
        places.append(element("DICOMRetrievalSequence", *titles))
    if output.urls:
        urls = [data_set(element("RetrieveURL", url)) for url in output.urls]
        places.append(element("WADORSRetrievalSequence", *urls))
    return data_set(
        element("TypeOfInstances", "DICOM"),
        element("StudyInstanceUID", output.study_uid),
        element("SeriesInstanceUID", output.series_uid),
        element("ReferencedSOPSequence", *references),
        *places,
    )


def date_time(at: float) -> str:
    """Seconds since 1970 as DT, in UTC (PS3.5 6.2)."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%d%H%M%S.%f+0000")
