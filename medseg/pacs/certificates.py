"""Certificates and keys as files, and what is wrong with them in words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ConfigError
from medseg.pacs.secret import read_bytes, refuse_open

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


def check_certificate(path: Path, *, field: str) -> None:
    """Look at a certificate of our own.

    Raises
    ------
    ConfigError
        The file cannot be read, holds no certificate, or one that holds no more, or not yet.
    """
    own = read_certificates(path, field=field)[0]
    _check_begin(own, path, field)
    if own.not_valid_after_utc < datetime.now(UTC):
        raise ConfigError(
            f"{field}: {path} expired on {_day(own.not_valid_after_utc)}; put a new certificate there, and its key"
        )


def check_authorities(path: Path, *, field: str) -> None:
    """Look at a file of authorities; one that expired may stand beside its successor.

    Raises
    ------
    ConfigError
        The file cannot be read, holds no certificate, or none that still holds.
    """
    ends = [one.not_valid_after_utc for one in read_certificates(path, field=field)]
    if max(ends) < datetime.now(UTC):
        raise ConfigError(f"{field}: {path} expired on {_day(max(ends))}; put the authorities of today there")


def check_key(path: Path, *, field: str) -> None:
    """Look at a private key.

    Raises
    ------
    ConfigError
        The file cannot be read, everybody may read it, or it holds no key without passphrase.
    """
    content = read_bytes(path, field=field)
    if b"ENCRYPTED" in content:
        raise ConfigError(
            f"{field}: the key in {path} has a passphrase, and nobody is there to type it; write it without one "
            f"(openssl pkey -in {path} -out KEY) and chmod 600 it"
        )
    if b"PRIVATE KEY-----" not in content:
        raise ConfigError(
            f"{field}: no private key in {path}{_instead(content)}; {_EXPECTED.format('PRIVATE KEY')}"
        )
    refuse_open(path, field=field)


def read_certificates(path: Path, *, field: str) -> list[Certificate]:
    """The certificates of a PEM file, as many as it holds.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds none.
    """
    from cryptography.x509 import load_pem_x509_certificates

    content = read_bytes(path, field=field)
    try:
        return load_pem_x509_certificates(content)
    except ValueError as err:
        raise ConfigError(
            f"{field}: no certificate in {path}{_instead(content)}; {_EXPECTED.format('CERTIFICATE')}"
        ) from err


_EXPECTED = "expected PEM, a text with -----BEGIN {}-----"


def _instead(content: bytes) -> str:
    """What a file holds instead, where it is something well known."""
    if b"PRIVATE KEY-----" in content:
        return " but a private key"
    if b"BEGIN CERTIFICATE-----" in content:
        return " but a certificate"
    return " but DER (openssl x509 -inform der makes PEM of it)" if content.startswith(b"\x30\x82") else ""


def _check_begin(certificate: Certificate, path: Path, field: str) -> None:
    if certificate.not_valid_before_utc > datetime.now(UTC):
        raise ConfigError(
            f"{field}: {path} holds from {_day(certificate.not_valid_before_utc)} on; is this machine's clock right?"
        )


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
