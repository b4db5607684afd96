"""What `/ready` is told by the parts of a node."""

from __future__ import annotations

from tests.unit.node.listening import Listener


def test_a_listener_tells_whether_it_listens(tmp_path):
    listener = Listener(tmp_path)
    assert listener.server.alive
    listener.stop()
    assert not listener.server.alive
