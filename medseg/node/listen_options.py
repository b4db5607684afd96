"""What a YAML may say about who may reach the node, and how. Imports nothing heavy."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator

from medseg.amounts import Duration, MemorySize
from medseg.pacs.options import AeTitle, Host, Options, Port, SecretOptions

_FINGERPRINT = r"^[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}$"


def _fingerprint(text: str) -> str:
    if not re.fullmatch(_FINGERPRINT, text):
        raise ValueError(
            "expected the SHA-256 of a certificate, 64 hex digits with or without colons, as `openssl x509 -noout "
            f"-fingerprint -sha256 -in CERTIFICATE` prints it; found {text!r}"
        )
    return text.replace(":", "").lower()


Fingerprint = Annotated[
    str, AfterValidator(_fingerprint), WithJsonSchema({"type": "string", "pattern": _FINGERPRINT})
]
Role = Literal["viewer", "operator", "sender", "admin"]
"""viewer: sees the queue and reports; sender: delivers by STOW-RS; operator: also retries, holds, releases;
admin: all of it."""


class ServerTlsOptions(Options):
    """TLS of a listener (BCP 195: TLS 1.2 or newer, authenticated ciphers)."""

    certificate: Path = Field(description="Own certificate with its chain, PEM.")
    key: Path = Field(description="Its private key, PEM.")
    client_authorities: Path | None = Field(
        default=None,
        description="PEM file of the authorities that callers' certificates come from; with it, who has "
        "none is refused. null: callers need no certificate.",
    )


def _meant(text: str) -> str:
    """The network that an address with a mask lies in."""
    try:
        return f", did you mean '{ipaddress.ip_network(text, strict=False)}'?"
    except ValueError:
        return ""


class CallerOptions(Options):
    """A peer that may call the DICOM listener; what is given must all match."""

    ae_title: AeTitle | None = Field(default=None, description="Calling AE title; null: any.")
    address: str | None = Field(
        default=None, description="Address or network, such as 10.1.2.0/24; null: any."
    )
    certificate: Fingerprint | None = Field(
        default=None,
        description="SHA-256 of its certificate (DER), hex, colons allowed; null: any that the authorities vouch for.",
    )

    @field_validator("address")
    @classmethod
    def _network(cls, value: str | None) -> str | None:
        if value is None:
            return value
        try:
            ipaddress.ip_network(value)
        except ValueError as err:
            raise ValueError(
                "expected an address such as 10.1.2.3, or a network such as 10.1.2.0/24; "
                f"found {value!r}{_meant(value)}"
            ) from err
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.ae_title is None and self.address is None and self.certificate is None:
            raise ValueError("give `ae_title`, `address` or `certificate`, or several")
        return self


class DimseListenOptions(Options):
    """The DICOM listener."""

    host: Host = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0: all.")
    port: Port = Field(default=11112, description="TCP port.")
    ae_title: AeTitle = Field(default="MEDSEG", description="Own AE title; a call for another is refused.")
    tls: ServerTlsOptions | None = Field(default=None, description="TLS; null: none.")
    max_associations: int = Field(
        default=30, ge=1, le=1000, description="At a time; more are refused for the moment."
    )
    max_pdu: MemorySize = Field(default=128 * 1024, description="Longest PDU that is taken.")
    idle_timeout: Duration = Field(
        default=60.0, description="A silent or dripping connection is closed after it."
    )


class TokenOptions(Options):
    """An account of the HTTP side."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Who it is, for the audit log."
    )
    role: Role = Field(description="What the account may do.")
    token: SecretOptions = Field(description="Token or password, at least 16 characters.")


class HttpListenOptions(Options):
    """The HTTP listener: page, API, STOW-RS, health, metrics."""

    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=8080, description="TCP port.")
    tls: ServerTlsOptions | None = Field(default=None, description="HTTPS; null: none.")
    behind_proxy: bool = Field(
        default=False,
        description="Whether a proxy on this machine or in the same pod ends TLS in front of it.",
    )
    accounts: tuple[TokenOptions, ...] = Field(
        default=(), description="Who may come in; none: loopback only."
    )
    hosts: tuple[Host, ...] = Field(
        default=(),
        description="Names that browsers and senders call the node by, such as medseg.example.org; a request for "
        "another name is refused. Addresses, localhost and the machine's own name are known.",
    )
    stow: bool = Field(default=True, description="Whether studies are taken by STOW-RS.")
    body_limit: MemorySize = Field(default=4 * 10**9, description="Largest request.")
    session: Duration = Field(default=8 * 3600.0, description="How long a log-in of the page lasts.")
