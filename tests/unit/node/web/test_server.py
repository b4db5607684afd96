"""The listener itself: headers that drip, too many at a time, TLS versions, a port in use."""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from medseg.errors import StorageError
from medseg.node.listen_options import HttpListenOptions
from medseg.node.web import server
from medseg.node.web.guard import Guard


async def app(scope, receive, send):
    body = (await receive()).get("body", b"")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok" if len(body) < 9 else b"no"})


@pytest.fixture
def listening(monkeypatch):
    monkeypatch.setattr(server, "_HEADER_S", 0.3)
    monkeypatch.setattr(server, "_CONNECTIONS", 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    http_server = server.HttpServer(Guard(app), HttpListenOptions(port=port))
    http_server.start()
    yield http_server
    http_server.stop(5.0)


def _closed(connection: socket.socket, within_s: float = 5.0) -> bool:
    connection.settimeout(within_s)
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_who_drips_his_header_is_cut_off_and_others_are_served(listening):
    with (
        socket.create_connection(("127.0.0.1", listening.port)) as silent,
        socket.create_connection(("127.0.0.1", listening.port)) as dripping,
    ):
        begin = time.monotonic()
        dripping.sendall(b"GET / HTTP/1.1\r\n")
        connection = http.client.HTTPConnection("127.0.0.1", listening.port, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
        time.sleep(0.2)
        dripping.sendall(b"Host: localhost\r\n")
        assert _closed(dripping)
        assert _closed(silent)
        assert time.monotonic() - begin < 3.0
        # The second request of a connection has a deadline as well.
        connection.sock.sendall(b"GET / HT")
        assert _closed(connection.sock)
        connection.close()


def test_one_connection_too_many_is_closed(listening):
    held = [socket.create_connection(("127.0.0.1", listening.port)) for _ in range(3)]
    time.sleep(0.1)
    with socket.create_connection(("127.0.0.1", listening.port)) as more:
        assert _closed(more, 0.2)
    for connection in held:
        connection.close()


def test_a_port_in_use_is_one_sentence(listening):
    other = server.HttpServer(app, HttpListenOptions(port=listening.port))
    with pytest.raises(
        StorageError, match=f"cannot listen on 127.0.0.1 port {listening.port}: Address already in use"
    ):
        other.start()
