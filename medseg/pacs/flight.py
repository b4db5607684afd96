"""What is on its way to an archive: for the thread that sends, and for the one that wants to stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from medseg.pacs.sending import Sent

PATIENCE_S = 10.0
"""How long after its last byte an answer is waited for at a stop; what it would say is not known then, and the instance
is offered again under its own UID."""
_GRACE_S = 1.0


class Flight:
    """One thing at a time is in flight: its bytes may have reached the archive, and its answer is not there yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = self._flies = False
        self._moved_at = time.monotonic()
        self._answers: list[Sent] = []

    def begin(self, *, anyhow: bool = False) -> bool:
        """Whether something may be sent now; after `stop` no more, but what belongs to things that were sent."""
        with self._lock:
            if self._stopped and not anyhow:
                return False
            self._flies, self._moved_at = True, time.monotonic()
            return True

    def moved(self) -> None:
        """Some of its bytes have left."""
        self._moved_at = time.monotonic()

    def end(self, answers: Sequence[Sent] = ()) -> None:
        """It is in flight no more; what is known of it."""
        with self._lock:
            self._flies, self._moved_at = False, time.monotonic()
            self._answers += answers

    def taken(self) -> list[Sent]:
        """The answers since the last time."""
        with self._lock:
            answers, self._answers = self._answers, []
            return answers

    def stop(self) -> None:
        """Let nothing more begin."""
        with self._lock:
            self._stopped = True
            if not self._flies:
                self._moved_at = time.monotonic()

    def is_vain(self) -> bool:
        """After `stop`: whether it is waited for in vain, for an answer, or for an archive that takes no call."""
        with self._lock:
            patience = PATIENCE_S if self._flies else _GRACE_S
            return time.monotonic() - self._moved_at >= patience
