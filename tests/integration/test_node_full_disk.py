"""A small disk that fills: senders are refused politely, nothing is lost, and the node goes on when there is room."""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("httpx", reason="needs medseg[node]")
pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from medseg.bench.node_site import write_slices
from tests.integration.served_node import ServedNode
from tests.integration.test_node_service import wait

pytestmark = pytest.mark.slow
DISK_BYTES, BALLAST_BYTES = 24 << 20, 8 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of which a file takes 8."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={DISK_BYTES}".encode()
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options) != 0:
        pytest.skip("no right to mount a tmpfs")
    try:
        (folder / "ballast").write_bytes(bytes(BALLAST_BYTES))
        yield folder
    finally:
        # Lazily: nothing of a node that was killed may hold it.
        libc.umount2(bytes(folder), 2)


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    """More CT slices of half a MiB than the disk takes, also when the ballast is gone."""
    write_slices(tmp_path / "slices", count=60, size=512, study="2.25.1", seed=1)
    return sorted((tmp_path / "slices").iterdir())


@pytest.mark.parametrize("reserve", ["4MB", "1kB"], ids=["reserve", "no space left"])
def test_a_full_disk_refuses_politely_and_is_left_alone(
    disk: Path, slices: list[Path], tmp_path, reserve: str
):
    node = ServedNode(disk / "node", settings=tmp_path / "node.yaml", storage={"reserve": reserve})
    try:
        stored, refused = fill(node, slices)
        assert stored
        assert refused
        first = pydicom.dcmread(refused[0])
        assert node.c_store([first, first]) == [0xA700, 0xA700]
        assert (node.get("/health").status_code, node.process.poll()) == (200, None)
        if reserve == "4MB":
            (disk / "more").write_bytes(bytes(1 << 20))
            wait("its word for it", lambda: node.get("/ready").status_code == 503, 30)
            assert "storage.reserve" in node.get("/ready").text
        rest = (disk / "node").rglob("*medseg-part*")
        assert not list(rest)

        (disk / "ballast").unlink()
        wait("room", lambda: node.stow(refused[0].read_bytes()).status_code == 200, 30)
        assert node.c_store([first]) == [0]
        names = {path.stem for path in [*stored, refused[0]]}
        assert kept(disk / "node") >= names
    finally:
        node.end()


def fill(node: ServedNode, slices: list[Path]) -> tuple[list[Path], list[Path]]:
    """What STOW-RS answered 200 and 507 to; there is no other answer."""
    stored, refused = [], []
    for path in slices:
        status = node.stow(path.read_bytes()).status_code
        assert status in (200, 507)
        (stored if status == 200 else refused).append(path)
    return stored, refused


def kept(folder: Path) -> set[str]:
    """UIDs of the rows whose files can be read."""
    connection = sqlite3.connect(folder / "node.db")
    try:
        rows = connection.execute("SELECT sop_instance_uid, path FROM instances").fetchall()
    finally:
        connection.close()
    return {uid for uid, path in rows if str(pydicom.dcmread(folder / path).SOPInstanceUID) == uid}
