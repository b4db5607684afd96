"""`medseg serve --check` meets what a start would meet, and changes nothing."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
pytest.importorskip("fastapi", reason="needs medseg[node]")
from medseg.errors import ConfigError, StorageError
from medseg.node.clock import Clock
from medseg.node.home import SCHEMA_VERSION
from medseg.node.node_lock import node_lock
from medseg.node.options import NodeConfig
from medseg.node.service import running
from medseg.node.settings_check import check
from medseg.node.start_check import check_start

RULES = [{"name": "chest", "match": {"modality": ["DX"]}, "model": "chest-xray-lungs"}]


def looked_at(folder: Path, **changed: Any) -> list[str]:
    config = settings(folder, **changed)
    return check_start(config, check(config))


def settings(folder: Path, **changed: Any) -> NodeConfig:
    given = {"medseg_node": 1, "folder": folder, "http": None, "dimse": None, "rules": RULES}
    drop = {"use": "folder", "name": "drop", "folder": folder / "drop"}
    return NodeConfig.model_validate(given | {"sources": [drop]} | changed)


def ran(folder: Path, **changed: Any) -> None:
    with running(settings(folder, **changed)):
        pass


def key(path: Path, letter: bytes) -> dict[str, Any]:
    path.write_text(base64.b64encode(letter * 32).decode())
    path.chmod(0o600)
    return {"key": {"file": path}}


def test_a_new_folder_is_well_and_not_made(tmp_path: Path):
    assert looked_at(tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


def test_another_storage_key_is_found_without_a_start(tmp_path: Path):
    first, second = key(tmp_path / "first", b"a"), key(tmp_path / "second", b"b")
    ran(tmp_path / "node", storage=first)
    assert looked_at(tmp_path / "node", storage=first) == []
    with pytest.raises(StorageError, match=r"storage\.key is another one"):
        looked_at(tmp_path / "node", storage=second)
    with pytest.raises(StorageError, match=r"patients\.key is encrypted; set storage\.key"):
        looked_at(tmp_path / "node")


def test_a_database_of_another_version_is_found_without_a_start(tmp_path: Path, monkeypatch):
    ran(tmp_path)
    monkeypatch.setattr("medseg.node.home.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(ConfigError, match=f"tables of version {SCHEMA_VERSION}, this one has"):
        looked_at(tmp_path)


def test_a_folder_of_another_database_is_found_without_a_start(tmp_path: Path):
    ran(tmp_path)
    (tmp_path / "patients.key").write_bytes(bytes(32))
    with pytest.raises(ConfigError, match="the database belongs to another folder"):
        looked_at(tmp_path)


def test_files_without_their_database_are_found_without_a_start(tmp_path: Path):
    place = tmp_path / "instances" / "kept.dcm"
    place.parent.mkdir()
    place.touch()
    with pytest.raises(ConfigError, match="does not know in instances"):
        looked_at(tmp_path)


def test_a_port_in_use_is_found_without_a_start(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match=f"port {port}: Address already in use; .* change dimse.port"):
            looked_at(tmp_path, dimse={"port": port})
        # A node that runs has its own port.
        with node_lock(tmp_path, Clock()):
            (line,) = looked_at(tmp_path, dimse={"port": port})
        assert line.startswith("the node runs (process ")
    assert looked_at(tmp_path, dimse={"port": port}) == []


def test_a_database_server_that_does_not_answer_is_found_without_a_start(tmp_path: Path, monkeypatch):
    pytest.importorskip("psycopg", reason="needs medseg[postgresql]")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"postgresql://me:geheim@127.0.0.1:{silent.getsockname()[1]}/medseg"
        monkeypatch.setenv("MEDSEG_TEST_DATABASE", url)
        database = {"use": "postgresql", "url": {"env": "MEDSEG_TEST_DATABASE"}}
        with pytest.raises(StorageError, match=r"cannot read the database .*me:.*@127") as caught:
            looked_at(tmp_path, database=database)
    assert "geheim" not in str(caught.value)
