"""Work that is done again and again, each kind by a thread of its own; a failure is logged and ends nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from medseg.errors import MedsegError

_log = logging.getLogger(__name__)


class Periodic:
    """Threads that work at intervals."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def run(self, name: str, work: Callable[[], object], every_s: float, *, until: threading.Event) -> None:
        """Begin to do a piece of work, until the event is set."""

        def loop() -> None:
            while not until.wait(every_s):
                try:
                    work()
                except MedsegError as err:
                    _log.error("%s: %s", name, err)
                except Exception:
                    _log.exception("%s failed", name)

        thread = threading.Thread(target=loop, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def ended(self) -> list[str]:
        """Names of the threads that live no longer."""
        return [thread.name for thread in self._threads if not thread.is_alive()]

    def join(self, each_s: float) -> None:
        """Wait for the threads; their events are set."""
        for thread in self._threads:
            thread.join(each_s)
