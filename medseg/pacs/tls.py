"""TLS as BCP 195 (RFC 9325) asks for it: 1.2 or newer, authenticated ciphers with forward secrecy."""

from __future__ import annotations

import ssl
from pathlib import Path

from medseg.errors import ConfigError
from medseg.pacs.certificates import check_authorities, check_certificate, check_key
from medseg.pacs.options import ClientTlsOptions

# RFC 9325 4.2: ECDHE with AEAD alone; TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def client_context(options: ClientTlsOptions, *, field: str) -> ssl.SSLContext:
    """For a connection that we open; the server's certificate and name are checked.

    Raises
    ------
    ConfigError
        A file is missing, expired or open to everybody, or certificate and key do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    _restrict(context)
    if options.authorities is not None:
        # Only those of the file, not the system's as well.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _restrict(context)
        _load_authorities(context, options.authorities, f"{field}.authorities")
    if options.certificate is not None:
        key = options.key or options.certificate
        _load_certificate(context, options.certificate, key, field)
    elif options.key is not None:
        raise ConfigError(f"{field}.key: expected {field}.certificate beside it")
    return context


def server_context(
    certificate: Path, key: Path, client_authorities: Path | None, *, field: str
) -> ssl.SSLContext:
    """For a listener; with `client_authorities` a caller without a certificate of theirs is refused.

    Raises
    ------
    ConfigError
        As `client_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    _load_certificate(context, certificate, key, field)
    if client_authorities is not None:
        _load_authorities(context, client_authorities, f"{field}.client_authorities")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)


def _load_authorities(context: ssl.SSLContext, path: Path, field: str) -> None:
    check_authorities(path, field=field)
    try:
        context.load_verify_locations(cafile=str(path))
    except (OSError, ssl.SSLError) as err:
        raise ConfigError(f"{field}: {path} is no PEM file of certificates ({_reason(err)})") from err


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path, field: str) -> None:
    check_certificate(certificate, field=f"{field}.certificate")
    check_key(key, field=f"{field}.key")
    try:
        # A key with a passphrase would ask on the terminal.
        context.load_cert_chain(str(certificate), str(key), password=lambda: b"")
    except (OSError, ssl.SSLError, ValueError) as err:
        reason = _reason(err)
        if reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{field}.key: {key} is not the key of the certificate {certificate}; give the two that belong together"
            ) from err
        raise ConfigError(
            f"{field}.certificate: {certificate} and {key} cannot be used as certificate and key ({reason})"
        ) from err


def _reason(err: Exception) -> str:
    return str(getattr(err, "reason", None) or getattr(err, "strerror", None) or type(err).__name__)
