"""What a YAML may say about where studies are fetched from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medseg.amounts import Duration
from medseg.pacs.options import AeTitle, DimsePeer, HttpServerOptions, HttpUrl, Options


class _Source(Options):
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,15}$", description="Shown as sender of what it brings."
    )
    every: Duration = Field(default=30.0, description="Time between two looks.")


class FolderSource(_Source):
    """A folder that files are dropped into."""

    use: Literal["folder"] = Field(default="folder", description="A watched folder.")
    folder: Path = Field(description="Files in it, also in folders below.")
    quiet: Duration = Field(
        default=10.0, description="A file is taken when it has not changed for that long."
    )
    after: Literal["keep", "remove"] = Field(
        default="keep",
        description="What becomes of a file that was taken. keep: it stays, and is not taken again.",
    )


class OrthancSource(_Source, HttpServerOptions):
    """An Orthanc that stands in front; its feed of changes is followed."""

    use: Literal["orthanc"] = Field(default="orthanc", description="Orthanc's REST interface.")
    url: HttpUrl = Field(description="Base URL of Orthanc.")


class QueryOptions(Options):
    """Which studies of an archive are fetched."""

    modality: tuple[str, ...] = Field(default=(), description="Modalities in the study; empty: any.")
    description: str | None = Field(default=None, description="Study Description, with * and ?.")
    days: int = Field(default=1, ge=1, le=3650, description="Study Date within that many days.")


class DicomwebSource(_Source, HttpServerOptions):
    """An archive that is asked by QIDO-RS and WADO-RS."""

    use: Literal["dicomweb"] = Field(default="dicomweb", description="DICOMweb.")
    url: HttpUrl = Field(description="Base URL of DICOMweb.")
    query: QueryOptions = Field(default=QueryOptions(), description="Which studies.")


class DimseSource(_Source, DimsePeer):
    """An archive that is asked by C-FIND, and by C-MOVE or C-GET."""

    use: Literal["dimse"] = Field(default="dimse", description="DICOM queries.")
    calling_ae_title: AeTitle = Field(
        default="MEDSEG", description="Own AE title, also the destination of C-MOVE."
    )
    retrieve: Literal["move", "get"] = Field(
        default="get", description="C-MOVE to the node's listener, or C-GET."
    )
    query: QueryOptions = Field(default=QueryOptions(), description="Which studies.")


class CodeOptions(Options):
    """A coded concept."""

    value: str = Field(pattern=r"^[^\s\\,&](.{0,14}[^\s\\,&])?$", description="Code Value.")
    scheme: str = Field(pattern=r"^[^\s\\,&](.{0,14}[^\s\\,&])?$", description="Coding Scheme Designator.")


class NamedCodeOptions(CodeOptions):
    """A coded concept that is also written into work items."""

    meaning: str = Field(min_length=1, max_length=64, description="Code Meaning.")


class WorkitemOptions(CodeOptions):
    """A kind of work, and what does it."""

    rule: str = Field(min_length=1, description="Name of the rule that runs for it.")


class WorklistQueryOptions(Options):
    """Which scheduled work items are asked for; all that is given must match."""

    label: str | None = Field(
        default=None, pattern=r"^[^*?\\]{1,64}$", description="Worklist Label; null: any."
    )
    station: CodeOptions | None = Field(
        default=None, description="Scheduled Station Name Code; null: any, also none."
    )
    by_code: bool = Field(
        default=True,
        description="Whether the server is asked for each code of `workitems`; false, for a server that cannot match "
        "Scheduled Workitem Code: all scheduled items are read and the node picks.",
    )


class ArchiveOptions(HttpServerOptions):
    """An archive that the input of work items is retrieved from by WADO-RS."""

    ae_title: AeTitle | None = Field(
        default=None, description="AE title that work items call it by (Retrieve AE Title)."
    )


class UpsSource(_Source, HttpServerOptions):
    """A work list (UPS-RS) whose items the node performs."""

    use: Literal["ups"] = Field(default="ups", description="UPS-RS, as in IHE AI Workflow for Imaging.")
    workitems: tuple[WorkitemOptions, ...] = Field(
        min_length=1, max_length=100, description="Which Scheduled Workitem Code asks for which rule."
    )
    query: WorklistQueryOptions = Field(default=WorklistQueryOptions(), description="Which items.")
    archives: tuple[ArchiveOptions, ...] = Field(
        default=(),
        description="Where the input is retrieved: the one that an item names by URL or AE title, else each in turn; "
        "empty: the server of the work list.",
    )
    station: NamedCodeOptions = Field(
        default=NamedCodeOptions(value="MEDSEG", scheme="99MEDSEG", meaning="medseg"),
        description="Performed Station Name Code, which finished items bear.",
    )
    at_most: int = Field(
        default=4, ge=1, le=1000, description="Work items that are claimed and not finished at a time."
    )
    tries: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Looks at which the input of an item is not whole, before the item is canceled.",
    )
    transaction_uid: Literal["named", "bare"] = Field(
        default="named",
        description="How an update tells its Transaction UID. named: `?transaction-uid=UID`, and in the body; bare: "
        "`?UID`, for servers that take the whole query for it.",
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        codes = [(item.value, item.scheme) for item in self.workitems]
        if doubled := sorted({code for code in codes if codes.count(code) > 1}):
            raise ValueError(f"workitems: the code {', '.join(doubled[0])} is there twice")
        return self


Source = Annotated[
    FolderSource | OrthancSource | DicomwebSource | DimseSource | UpsSource, Field(discriminator="use")
]
