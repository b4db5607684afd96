"""The thread of pynetdicom that looks after an association, kept from taking answers that others wait for."""

from __future__ import annotations

import threading
import time
from typing import Any

_LOOK_EVERY_S = 0.0001


class Checkpoint(threading.Event):
    """Where the reactor of an association stands while a message is under way.

    pynetdicom clears an event and goes on when the reactor's flag says that it is paused. The flag is raised before
    the reactor looks at the event and lowered after, so it may be just past it, take the answer from the queue, and
    leave the sender to its time-out. Here, `clear` returns when the reactor really stands.

    Parameters
    ----------
    association : Association
        Of pynetdicom; its thread is the reactor.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association, self._lock, self._stands = association, threading.Lock(), False
        self.served = threading.Event()
        """Set when a request of the archive has been answered, such as a report of storage commitment."""
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Stand still until it is set; for the reactor alone."""
        while True:
            with self._lock:
                self._stands = not self.is_set()
                if not self._stands:
                    return True
            super().wait(timeout)

    def clear(self) -> None:
        """Let the reactor stand still; returns when it does, or has ended."""
        with self._lock:
            super().clear()
        reactor = self._association
        while not self._stands and reactor.is_alive() and threading.current_thread() is not reactor:
            time.sleep(_LOOK_EVERY_S)


def stand_still(association: Any) -> Checkpoint:
    """Give an association a checkpoint at which its reactor can be relied upon to stand."""
    checkpoint, serve = Checkpoint(association), association._serve_request

    def served(message: Any, context_id: int) -> None:
        try:
            serve(message, context_id)
        finally:
            # Reports are served by another thread, which says at its end that the reactor goes on, though it may stand:
            # whoever waits for that flag would wait for ever. The checkpoint alone is to be believed.
            association._is_paused = True
            checkpoint.served.set()

    association._serve_request, association._reactor_checkpoint = served, checkpoint
    return checkpoint
