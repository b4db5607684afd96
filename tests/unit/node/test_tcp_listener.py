"""Accepting connections, without DICOM."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
pytest.importorskip("cryptography", reason="needs medseg[node]")
from medseg.node.tcp_listener import TcpListener
from medseg.pacs.tls import server_context
from tests.unit.node.test_dimse_tls import Authority


class Opened:
    """A listener whose connections send back four bytes."""

    def __init__(self, *, most: int = 50, tls=None, handshake_s: float = 5.0) -> None:
        self.refused: list[str] = []
        self.served, self._most = 0, most
        self.listener = TcpListener(
            self._protocol,
            admit=lambda handshakes: self.served + handshakes < self._most,
            refused=lambda _address, reason: self.refused.append(reason),
            tls=tls,
            handshake_s=handshake_s,
        )

    async def begin(self) -> Opened:
        self.listener.bind("localhost", 0)
        await self.listener.begin()
        return self

    @property
    def port(self) -> int:
        return self.listener.port

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._echo)

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        try:
            writer.write(await reader.readexactly(4))
            await reader.read()
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.served -= 1
            writer.close()


async def ask(port: int, host: str = "localhost") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"ping")
    answer = await reader.read(4)
    writer.close()
    return answer


def test_all_addresses_of_a_host_are_listened_on_with_one_port():
    async def main() -> None:
        opened = await Opened().begin()
        listener = opened.listener
        for address in {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}:
            assert await ask(listener.port, address) == b"ping"
        assert listener.alive
        port = listener.port
        await listener.close()
        assert not listener.alive
        with pytest.raises(OSError, match="onnect"):
            await ask(port)

    asyncio.run(main())


def test_one_connection_too_many_is_cut_off_and_the_next_is_served():
    async def main() -> None:
        opened = await Opened(most=2).begin()
        listener = opened.listener
        held = [await asyncio.open_connection("localhost", listener.port) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises((ConnectionError, AssertionError)):
            assert await ask(listener.port) == b"ping"
        assert opened.served == 2
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.1)
        assert await ask(listener.port) == b"ping"
        assert opened.refused == []
        await listener.close()

    asyncio.run(main())


def test_no_descriptor_left_is_waited_out(monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        opened = await Opened().begin()
        listener = opened.listener
        loop, calls = asyncio.get_running_loop(), []
        real = loop.sock_accept

        async def accept(listening: socket.socket):
            calls.append(1)
            if len(calls) == 1:
                raise OSError(24, "Too many open files")
            return await real(listening)

        await ask(listener.port)
        monkeypatch.setattr(loop, "sock_accept", accept)
        monkeypatch.setattr("medseg.node.tcp_listener._OUT_OF_DESCRIPTORS_S", 0.01)
        # The accept that waits is still the real one; the next two go through ours.
        for _ in range(4):
            assert await ask(listener.port) == b"ping"
        assert listener.alive
        assert len(calls) > 1
        await listener.close()

    asyncio.run(main())


def test_a_silent_handshake_ends_at_its_deadline(tmp_path: Path):
    certificate, key, _ = Authority(tmp_path).sign("node")
    tls = server_context(certificate, key, None, field="dimse.tls")

    async def main() -> None:
        opened = await Opened(tls=tls, handshake_s=0.2).begin()
        listener, refused = opened.listener, opened.refused
        reader, writer = await asyncio.open_connection("localhost", listener.port)
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        await asyncio.sleep(0.05)
        assert refused == ["no TLS connection: its handshake took too long"]
        writer.close()
        await listener.close()

    asyncio.run(main())


def test_handshakes_at_a_time_are_limited(tmp_path: Path):
    certificate, key, _ = Authority(tmp_path).sign("node")
    tls = server_context(certificate, key, None, field="dimse.tls")

    async def main() -> None:
        opened = await Opened(tls=tls, most=3).begin()
        silent = [await asyncio.open_connection("localhost", opened.port) for _ in range(4)]
        async with asyncio.timeout(3):
            assert await silent[3][0].read() == b""
        for _, writer in silent:
            writer.close()
        await opened.listener.close()

    asyncio.run(main())


def test_an_address_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        Opened().listener.bind("127.0.0.1", taken.getsockname()[1])


def test_a_burst_of_plain_connections_is_not_taken_for_handshakes():
    async def main() -> None:
        opened = Opened()
        opened.listener = TcpListener(
            opened._protocol, admit=lambda handshakes: handshakes < 4, refused=lambda *_: None, tls=None
        )
        await opened.begin()
        # All of them wait before the first is accepted.
        peers = [socket.create_connection(("localhost", opened.port)) for _ in range(40)]
        for peer in peers:
            peer.setblocking(False)
        async with asyncio.timeout(5):
            for peer in peers:
                await asyncio.get_running_loop().sock_sendall(peer, b"ping")
                assert await asyncio.get_running_loop().sock_recv(peer, 4) == b"ping"
        for peer in peers:
            peer.close()
        await opened.listener.close()

    asyncio.run(main())
