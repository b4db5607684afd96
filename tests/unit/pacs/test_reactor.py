"""While a message is under way, the reactor stands."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")

from medseg.pacs.reactor import Checkpoint


class Reactor(threading.Thread):
    """Goes round as pynetdicom's does, and is slow behind its checkpoint."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.checkpoint, self.rounds, self.ended = Checkpoint(self), 0, False

    def run(self) -> None:
        while not self.ended:
            self.checkpoint.wait()
            time.sleep(0.002)
            self.rounds += 1


@pytest.fixture
def reactor():
    running = Reactor()
    running.start()
    yield running
    running.ended = True
    running.checkpoint.set()
    running.join(5)
    assert not running.is_alive()


def test_a_reactor_that_was_asked_to_stand_does_nothing_more(reactor: Reactor):
    for number in range(50):
        time.sleep(0.0003 * (number % 7))
        reactor.checkpoint.clear()
        rounds = reactor.rounds
        time.sleep(0.004)
        assert reactor.rounds == rounds
        reactor.checkpoint.set()
    time.sleep(0.02)
    assert reactor.rounds > rounds


def test_nobody_waits_for_a_reactor_that_has_ended(reactor: Reactor):
    reactor.ended = True
    reactor.join(5)
    reactor.checkpoint.clear()


def test_a_reactor_does_not_wait_for_itself():
    reactor = Checkpoint(threading.current_thread())
    reactor.clear()
