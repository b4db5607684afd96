"""Until when certificates hold that the settings name, for people and for monitoring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from medseg.node.options import NodeConfig
from medseg.node.source_options import FolderSource, UpsSource
from medseg.pacs.certificates import read_certificates
from medseg.pacs.options import ClientTlsOptions

SOON_S = 30 * 86400.0


def certificate_ends(config: NodeConfig) -> dict[str, float]:
    """Name of each setting that is a file of certificates -> when it expires, seconds since 1970.

    A chain ends with the first of its certificates, a list of authorities with the last.

    Raises
    ------
    ConfigError
        A file cannot be read, or holds no certificate.
    """
    found = {}
    for field, path in _files(config):
        ends = [one.not_valid_after_utc.timestamp() for one in read_certificates(path, field=field)]
        found[field] = max(ends) if field.endswith("authorities") else min(ends)
    return found


def expiring(ends: Mapping[str, float], now: float) -> list[str]:
    """A sentence for each certificate that expires soon."""
    return [
        f"{field} expires on {datetime.fromtimestamp(end, UTC):%Y-%m-%d}, in {(end - now) / 86400:.0f} days; replace "
        "the file and start the node again"
        for field, end in sorted(ends.items(), key=lambda item: item[1])
        if end < now + SOON_S
    ]


def _files(config: NodeConfig) -> Iterator[tuple[str, Path]]:
    listeners = {"dimse": config.dimse, "http": config.http}
    for name, listener in listeners.items():
        if listener is not None and listener.tls is not None:
            yield f"{name}.tls.certificate", listener.tls.certificate
            if listener.tls.client_authorities is not None:
                yield f"{name}.tls.client_authorities", listener.tls.client_authorities
    for name, tls in _peers(config):
        if tls is not None and tls.certificate is not None:
            yield f"{name}.tls.certificate", tls.certificate
        if tls is not None and tls.authorities is not None:
            yield f"{name}.tls.authorities", tls.authorities


def _peers(config: NodeConfig) -> Iterator[tuple[str, ClientTlsOptions | None]]:
    for name, destination in config.destinations.items():
        yield f"destinations.{name}", destination.tls
    for source in config.sources:
        if not isinstance(source, FolderSource):
            yield f"sources.{source.name}", source.tls
        if isinstance(source, UpsSource):
            for number, archive in enumerate(source.archives):
                yield f"sources.{source.name}.archives.{number}", archive.tls
