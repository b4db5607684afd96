"""What a YAML may say about where studies are fetched from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medseg.amounts import Duration
from medseg.pacs.options import AeTitle, ClientTlsOptions, Options, Port, SecretOptions


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


class _HttpSource(_Source):
    tls: ClientTlsOptions | None = Field(
        default=None, description="Own certificates and authorities, for https."
    )
    user: str | None = Field(default=None, description="User of basic authentication.")
    password: SecretOptions | None = Field(default=None, description="Its password.")
    token: SecretOptions | None = Field(default=None, description="Bearer token.")


class OrthancSource(_HttpSource):
    """An Orthanc that stands in front; its feed of changes is followed."""

    use: Literal["orthanc"] = Field(default="orthanc", description="Orthanc's REST interface.")
    url: str = Field(pattern=r"^https?://[^\s@/]+(/[^\s?#]*)?$", description="Base URL of Orthanc.")


class QueryOptions(Options):
    """Which studies of an archive are fetched."""

    modality: tuple[str, ...] = Field(default=(), description="Modalities in the study; empty: any.")
    description: str | None = Field(default=None, description="Study Description, with * and ?.")
    days: int = Field(default=1, ge=1, le=3650, description="Study Date within that many days.")


class DicomwebSource(_HttpSource):
    """An archive that is asked by QIDO-RS and WADO-RS."""

    use: Literal["dicomweb"] = Field(default="dicomweb", description="DICOMweb.")
    url: str = Field(pattern=r"^https?://[^\s@/]+(/[^\s?#]*)?$", description="Base URL of DICOMweb.")
    query: QueryOptions = Field(default=QueryOptions(), description="Which studies.")


class DimseSource(_Source):
    """An archive that is asked by C-FIND, and by C-MOVE or C-GET."""

    use: Literal["dimse"] = Field(default="dimse", description="DICOM queries.")
    host: str = Field(min_length=1, max_length=253, description="Name or address.")
    port: Port = Field(default=104, description="TCP port.")
    called_ae_title: AeTitle = Field(description="AE title of the archive.")
    calling_ae_title: AeTitle = Field(
        default="MEDSEG", description="Own AE title, also the destination of C-MOVE."
    )
    retrieve: Literal["move", "get"] = Field(
        default="get", description="C-MOVE to the node's listener, or C-GET."
    )
    tls: ClientTlsOptions | None = Field(default=None, description="TLS; null: none.")
    query: QueryOptions = Field(default=QueryOptions(), description="Which studies.")


Source = Annotated[FolderSource | OrthancSource | DicomwebSource | DimseSource, Field(discriminator="use")]
