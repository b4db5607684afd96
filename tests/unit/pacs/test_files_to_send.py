"""Folders with odd files in them: each is sent or said why not, and none holds another up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")

from medseg.errors import StorageError
from medseg.pacs import files_to_send
from medseg.pacs import send_files as send_files_module
from medseg.pacs.files_to_send import found_files
from medseg.pacs.send_files import send_files
from tests.unit.pacs.archives import dimse_archive, http_archive, outgoing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    (made / "a.dcm").write_bytes(outgoing(1).content)
    return made


def config(tmp_path: Path, archive) -> Path:
    path = tmp_path / "to.yaml"
    options = archive.options(first_wait=0.1)
    values = {"use": options.use} | json.loads(options.model_dump_json(exclude_unset=True))
    # JSON is YAML.
    path.write_text(json.dumps({"destinations": {"archive": values}}))
    return path


def looked_at(folder: Path) -> dict[str, tuple[str, str]]:
    return {str(file.path.relative_to(folder)): (file.state, file.reason) for file in found_files([folder])}


def test_links_pipes_and_loops_are_said(folder: Path):
    (folder / "above").symlink_to(folder.parent)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere").symlink_to(folder / "absent")
    os.mkfifo(folder / "pipe")
    found = looked_at(folder)
    states = {name: state for name, (state, _) in found.items()}
    assert states == {
        "a.dcm": "",
        "above": "unread",
        "loop": "unread",
        "nowhere": "no DICOM",
        "pipe": "no DICOM",
    }
    assert "name the folder itself" in found["above"][1]


def test_what_may_not_be_read_is_said_and_holds_no_other_up(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "closed").mkdir()
    (folder / "secret.dcm").write_bytes(outgoing(2).content)
    scandir, scan_file = os.scandir, files_to_send.scan_file

    def no_folder(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def no_file(path: Path, limits):
        if path.name == "secret.dcm":
            raise StorageError(f"{path} cannot be read: permission denied")
        return scan_file(path, limits)

    # Root may read everything.
    monkeypatch.setattr(os, "scandir", no_folder)
    monkeypatch.setattr(files_to_send, "scan_file", no_file)
    found = looked_at(folder)
    assert found["a.dcm"] == ("", "")
    assert found["closed"] == ("unread", "the folder cannot be read: permission denied")
    assert found["secret.dcm"][0] == "unread"


def test_one_instance_is_sent_once(tmp_path: Path, folder: Path):
    (folder / "b.dcm").write_bytes(outgoing(1).content)
    os.link(folder / "a.dcm", folder / "c.dcm")
    (folder / "d.dcm").write_bytes(outgoing(1).content[:-2] + b"\1\1")
    with dimse_archive() as archive:
        to = config(tmp_path, archive)
        report = send_files([folder, folder / "a.dcm"], to="archive", config=to, retry_for="1s")
    assert archive.taken == [outgoing(1).sop_instance_uid]
    states = [(file.path.name, file.state) for file in report.files]
    sent = [(name, "sent") for name in ("a.dcm", "b.dcm", "c.dcm")]
    assert states == [*sent, ("d.dcm", "refused"), ("a.dcm", "sent")]
    assert "other content" in report.files[3].reason
    assert report.exit_code == 1


def test_doubles_share_what_became_of_the_first(tmp_path: Path, folder: Path):
    (folder / "b.dcm").write_bytes(outgoing(1).content)
    with dimse_archive(lambda event: 0xA900) as archive:
        to = config(tmp_path, archive)
        report = send_files([folder], to="archive", config=to, retry_for="1s")
    assert [file.state for file in report.files] == ["refused", "refused"]
    assert "A900" in report.files[1].reason


def test_a_file_that_is_gone_or_cut_meanwhile_holds_no_other_up(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    for number, name in ((2, "b.dcm"), (3, "c.dcm")):
        (folder / name).write_bytes(outgoing(number).content)
    found = found_files

    def then_gone(inputs):
        yield from found(inputs)
        (folder / "a.dcm").unlink()
        (folder / "b.dcm").write_bytes(b"")

    monkeypatch.setattr(send_files_module, "found_files", then_gone)
    with dimse_archive() as archive:
        report = send_files([folder], to="archive", config=config(tmp_path, archive), retry_for="1s")
    assert [file.state for file in report.files] == ["unread", "unread", "sent"]
    assert report.exit_code == 1


def test_hundreds_of_files_arrive(tmp_path: Path, folder: Path):
    for number in range(2, 401):
        (folder / f"{number}.dcm").write_bytes(outgoing(number).content)
    with dimse_archive() as archive:
        report = send_files([folder], to="archive", config=config(tmp_path, archive), retry_for="1s")
    assert len(set(archive.taken)) == len(archive.taken) == 400
    assert report.exit_code == 0


def test_an_archive_that_says_when_to_come_again_is_not_asked_before(tmp_path: Path, folder: Path):
    with http_archive(lambda body: (503, b"", {"Retry-After": "3600"})) as archive:
        report = send_files([folder], to="archive", config=config(tmp_path, archive), retry_for="2s")
    assert len(archive.bodies) == 1
    assert [file.state for file in report.files] == ["again"]
    assert report.exit_code == 4


def test_a_time_to_come_again_within_the_given_one_is_waited_for(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    waited: list[float] = []
    monkeypatch.setattr(send_files_module.time, "sleep", waited.append)
    answers = [(503, b"", {"Retry-After": "7"}), (200, b"", {})]
    with http_archive(lambda body: answers.pop(0)) as archive:
        report = send_files([folder], to="archive", config=config(tmp_path, archive), retry_for="1min")
    assert (report.exit_code, waited) == (0, [7.0])
