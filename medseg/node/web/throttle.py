"""Wrong log-ins from one place: a few are free, then each makes the next wait longer."""

from __future__ import annotations

import ipaddress
import re
import threading

from medseg.node.clock import Clock

FREE = 5
LONGEST_S = 300.0
_FORGET_S = 900.0
_MOST = 10_000
_PORT = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]{2,45})\](:\d{1,5})?\Z|(?P<v4>[0-9.]{7,15}):\d{1,5}\Z")


class Throttle:
    """Counts failed log-ins by network address; IPv6 addresses by their /64.

    Not by account: who knows a name must not be able to lock its owner out.

    Parameters
    ----------
    clock : Clock
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> float:
        """How long an address has to wait before it is heard again; 0 where it is."""
        with self._lock:
            count, last = self._failed.get(_place(address), (0, 0.0))
        since = self._clock.monotonic() - last
        if count < FREE or since > _FORGET_S:
            return 0.0
        return max(0.0, min(2.0 ** (count - FREE + 1), LONGEST_S) - since)

    def failed(self, address: str) -> None:
        """Count a failure."""
        place, now = _place(address), self._clock.monotonic()
        with self._lock:
            count, last = self._failed.pop(place, (0, now))
            self._failed[place] = (1 if now - last > _FORGET_S else count + 1, now)
            while len(self._failed) > _MOST:
                del self._failed[next(iter(self._failed))]

    def passed(self, address: str) -> None:
        """Forget the failures of an address."""
        with self._lock:
            self._failed.pop(_place(address), None)


def _place(address: str) -> str:
    """Who counts as one; what is no address, which a careless proxy lets a client write, is all one."""
    # Some proxies tell the port as well, another one for each connection.
    bare = _PORT.sub(lambda found: found["v6"] or found["v4"], address)
    try:
        known = ipaddress.ip_address(bare)
    except ValueError:
        return ""
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is None:
        return str(ipaddress.ip_network((known, 64), strict=False))
    return str(known)
