"""The listener itself: headers that drip, too many at a time, TLS versions, a port in use."""

from __future__ import annotations

import datetime
import http.client
import socket
import ssl
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


def test_one_connection_too_many_ends_the_one_that_waited_longest(listening):
    held = [socket.create_connection(("127.0.0.1", listening.port)) for _ in range(3)]
    time.sleep(0.1)
    connection = http.client.HTTPConnection("127.0.0.1", listening.port, timeout=5)
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b"ok"
    assert _closed(held[0], 0.1)
    assert not any(_open(one) for one in held[:1])
    assert all(_open(one) for one in held[1:])
    for one in held:
        one.close()
    connection.close()


def _open(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True


def test_a_flood_of_half_open_connections_does_not_keep_a_monitor_out(listening):
    held = []
    for _ in range(20):
        held += [socket.create_connection(("127.0.0.1", listening.port)) for _ in range(3)]
        connection = http.client.HTTPConnection("127.0.0.1", listening.port, timeout=5)
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b"ok"
        connection.close()
    for one in held:
        one.close()


def test_who_goes_on_with_the_body_of_an_answered_request_keeps_nobody_out(listening):
    held = []
    for _ in range(4):
        held.append(socket.create_connection(("127.0.0.1", listening.port), timeout=5))
        held[-1].sendall(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        assert held[-1].recv(100).startswith(b"HTTP/1.1 200")
    connection = http.client.HTTPConnection("127.0.0.1", listening.port, timeout=5)
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b"ok"
    connection.close()
    for one in held:
        one.close()


def test_a_port_in_use_is_one_sentence(listening):
    other = server.HttpServer(app, HttpListenOptions(port=listening.port))
    with pytest.raises(
        StorageError,
        match=f"cannot listen on 127.0.0.1 port {listening.port}: Address already in use; stop what",
    ):
        other.start()


def _certificate(folder):
    """A certificate for localhost that signs itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1))
    built = built.not_valid_after(now + datetime.timedelta(hours=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = built.add_extension(names, critical=True).sign(key, hashes.SHA256())
    (folder / "own.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "own.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "own.key").chmod(0o600)
    return {"certificate": folder / "own.pem", "key": folder / "own.key"}


def test_https_is_spoken_in_tls_1_2_and_newer_alone(tmp_path):
    tls = _certificate(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told: list[str] = []
    options = HttpListenOptions(port=port, tls=tls)
    secured = server.HttpServer(
        Guard(app, secure=True), options, refused=lambda _address, reason: told.append(reason)
    )
    secured.start()
    try:
        context = ssl.create_default_context(cafile=str(tls["certificate"]))
        connection = http.client.HTTPSConnection("localhost", secured.port, timeout=5, context=context)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.getheader("strict-transport-security")
        assert connection.sock.version() == "TLSv1.3"
        connection.close()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(tls["certificate"])
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection(("localhost", secured.port)) as plain, pytest.raises(ssl.SSLError):
            old.wrap_socket(plain, server_hostname="localhost")
        with socket.create_connection(("localhost", secured.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            _closed(plain)
        end = time.monotonic() + 5
        while len(told) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert told == [
            "no TLS connection: it offers only old versions of TLS",
            "no TLS connection: it speaks HTTP without TLS",
        ]
    finally:
        secured.stop(5.0)


def test_a_handshake_that_stands_still_keeps_no_other_out(tmp_path):
    tls = _certificate(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secured = server.HttpServer(Guard(app, secure=True), HttpListenOptions(port=port, tls=tls))
    secured.start()
    address = ("localhost", secured.port)
    silent = [socket.create_connection(address, timeout=3) for _ in range(20)]
    try:
        # The head of a ClientHello, and no more.
        silent[0].sendall(bytes.fromhex("1603010200010001fc0303"))
        context = ssl.create_default_context(cafile=str(tls["certificate"]))
        begin = time.monotonic()
        connection = http.client.HTTPSConnection(*address, timeout=5, context=context)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
        assert time.monotonic() - begin < 2.0
        connection.close()
    finally:
        for one in silent:
            one.close()
        secured.stop(5.0)
