"""What a YAML may say about archives that results are sent to. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from medseg.amounts import Duration

_AE_TITLE = r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$"


def _ae_title(text: str) -> str:
    if not re.fullmatch(_AE_TITLE, text):
        raise ValueError(
            f"an AE title is 1 to 16 printable ASCII characters, no backslash, no blank at either end; found {text!r}"
        )
    return text


AeTitle = Annotated[str, AfterValidator(_ae_title), WithJsonSchema({"type": "string", "pattern": _AE_TITLE})]
"""An AE title (DICOM PS3.5 6.2)."""


def _host(text: str) -> str:
    number = text.rpartition(":")[2]
    if "/" in text or re.search(r"\s", text) or (text.count(":") == 1 and number.isdigit()):
        raise ValueError(
            f"expected a name or an address alone, such as pacs.example.org or 10.1.2.3; found {text!r} (the port has "
            "a setting of its own)"
        )
    return text


Host = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_host)]
"""Name or address of a machine, without scheme, port or path."""

_URL = r"^https?://[^\s@/]+(/[^\s?#]*)?$"


def _url(text: str) -> str:
    if not re.fullmatch(_URL, text):
        raise ValueError(
            "expected a URL such as https://pacs.example.org/dicom-web, with http:// or https:// in front, and no "
            "user, password, ? or # in it"
        )
    return text


HttpUrl = Annotated[str, AfterValidator(_url), WithJsonSchema({"type": "string", "pattern": _URL})]
"""The base URL of a server."""
Port = Annotated[int, Field(ge=1, le=65535)]
_TIMEOUT = "Longest silence of the archive."
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class Options(BaseModel):
    """Settings: unknown keys are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretOptions(Options):
    """A secret: where it is found, never the secret itself."""

    env: EnvironmentName | None = Field(default=None, description="Environment variable that holds it.")
    file: Path | None = Field(
        default=None,
        description="File that holds it, readable by nobody else; blanks at its end do not count.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, value: Any) -> Any:
        if isinstance(value, str | int | float):
            raise ValueError(
                "expected {env: NAME} or {file: PATH}; the secret itself must not stand in the YAML"
            )
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either `env` or `file`")
        return self


class ClientTlsOptions(Options):
    """TLS towards a server (BCP 195: TLS 1.2 or newer)."""

    authorities: Path | None = Field(
        default=None,
        description="PEM file of the authorities that the server's certificate may come from; "
        "null: those of the system.",
    )
    certificate: Path | None = Field(
        default=None, description="Own certificate, PEM, where the server asks for one."
    )
    key: Path | None = Field(default=None, description="Its private key, PEM.")
    server_name: str | None = Field(
        default=None, description="Name that the server's certificate must bear; null: the host."
    )


class HttpServerOptions(Options):
    """An HTTP server, and how to log in."""

    url: HttpUrl = Field(description="Base URL; no user or password in it.")
    tls: ClientTlsOptions | None = Field(
        default=None, description="Own certificates and authorities, for https."
    )
    user: str | None = Field(default=None, description="User of basic authentication.")
    password: SecretOptions | None = Field(default=None, description="Its password.")
    token: SecretOptions | None = Field(default=None, description="Bearer token.")

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.tls is not None and not self.url.startswith("https://"):
            raise ValueError(
                f"`tls` is for https, and `url` is {self.url}; write https://, or take `tls` out"
            )
        if (self.user is None) != (self.password is None):
            raise ValueError("`user` and `password` go together")
        if self.token is not None and self.user is not None:
            raise ValueError("give `token` or `user`, not both")
        return self


class DimsePeer(Options):
    """An archive that speaks DIMSE, and how to reach it."""

    host: Host = Field(description="Name or address.")
    port: Port = Field(default=104, description="TCP port.")
    called_ae_title: AeTitle = Field(description="AE title of the archive.")
    calling_ae_title: AeTitle = Field(default="MEDSEG", description="AE title that we call with.")
    tls: ClientTlsOptions | None = Field(default=None, description="TLS; null: none.")

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return f"{self.called_ae_title} at {self.host} port {self.port}"


class DimseArchive(DimsePeer):
    """An archive that takes C-STORE, and how to reach it."""

    use: Literal["dimse"] = Field(default="dimse", description="DICOM upper layer, C-STORE.")
    timeout: Duration = Field(default=60.0, description=_TIMEOUT)


class DicomwebArchive(HttpServerOptions):
    """An archive that takes STOW-RS, and how to reach it."""

    use: Literal["dicomweb"] = Field(default="dicomweb", description="DICOMweb, STOW-RS.")
    url: HttpUrl = Field(
        description="Base URL, such as https://pacs.example.org/dicom-web; no user or password in it."
    )
    timeout: Duration = Field(default=60.0, description=_TIMEOUT)

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return self.url.rstrip("/")


Archive = Annotated[DimseArchive | DicomwebArchive, Field(discriminator="use")]
"""An archive by one of its protocols."""


SendName = Literal[
    "dicom_seg",
    "dicom_seg_labelmap",
    "rtstruct",
    "measurement_sr",
    "presentation_state",
    "secondary_capture",
    "encapsulated_pdf",
    "instance_seg",
    "instance_sr",
]
"""Exports that are DICOM objects."""


class _Delivery(Options):
    commitment: Literal["none", "ask"] = Field(
        default="none",
        description="ask: storage commitment is asked for after sending, and an instance counts as delivered when "
        "the archive has promised to keep it (dimse only).",
    )
    kinds: tuple[SendName, ...] = Field(
        default=("dicom_seg", "measurement_sr"),
        min_length=1,
        description="Exports that go there.",
    )
    first_wait: Duration = Field(
        default=10.0, description="Wait after the first failed try; it doubles with each."
    )
    longest_wait: Duration = Field(default=3600.0, description="Longest wait between two tries.")
    give_up_after: Duration = Field(
        default=7 * 86400.0, description="A delivery that is older is given up and waits for a person."
    )


class DimseDestination(_Delivery, DimseArchive):
    """An archive that takes C-STORE, and what goes there."""


class DicomwebDestination(_Delivery, DicomwebArchive):
    """An archive that takes STOW-RS, and what goes there."""

    @model_validator(mode="after")
    def _no_commitment(self) -> Self:
        if self.commitment == "ask":
            raise ValueError("storage commitment is for `use: dimse`")
        return self


Destination = Annotated[DimseDestination | DicomwebDestination, Field(discriminator="use")]
"""An archive by one of its protocols, and what goes there."""

DestinationName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class PacsOptions(Options):
    """Archives by name, for `medseg send --config`."""

    destinations: dict[DestinationName, Destination] = Field(min_length=1, description="Archives by name.")
