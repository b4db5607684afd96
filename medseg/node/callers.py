"""Who may call the DICOM listener."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.errors import ConfigError
from medseg.node.listen_options import CallerOptions, DimseListenOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: AE title, address, SHA-256 of the certificate ("" without one)."""

    ae_title: str
    address: str
    certificate: str


def may_call(caller: Caller, allowed: Sequence[CallerOptions]) -> bool:
    """Whether one of the entries matches; without entries everybody may."""
    return not allowed or any(_matches(caller, entry) for entry in allowed)


def _matches(caller: Caller, entry: CallerOptions) -> bool:
    if entry.ae_title is not None and entry.ae_title != caller.ae_title:
        return False
    if entry.certificate is not None and entry.certificate != caller.certificate:
        return False
    return entry.address is None or _address(caller.address) in ipaddress.ip_network(entry.address)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; an IPv4 one that an IPv6 socket shows as ::ffff:a.b.c.d is itself."""
    address = ipaddress.ip_address(text.split("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_open(options: DimseListenOptions, callers: Sequence[CallerOptions]) -> None:
    """Refuse a DICOM listener that everybody in the network may call.

    Raises
    ------
    ConfigError
        It listens beyond loopback with neither a list of callers nor certificates; an AE title alone is no proof.
    """
    if is_loopback(options.host):
        return
    certificates = options.tls is not None and options.tls.client_authorities is not None
    told = bool(callers) and all(entry.address or entry.certificate for entry in callers)
    if not certificates and not told:
        raise ConfigError(
            f"dimse.host {options.host} is open to the network; expected dimse.tls.client_authorities, or `callers` "
            "with an address or certificate each (an AE title alone can be claimed by anybody)"
        )
