"""`medseg send` and `medseg echo` as a user runs them: what is sent, what is said, with which exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pynetdicom.sop_class import MRImageStorage

from medseg.cli import main
from tests.unit.pacs.archives import dimse_archive, http_archive, outgoing


@pytest.fixture
def archive():
    with dimse_archive() as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two slices, one of them further down."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    (folder / "one.dcm").write_bytes(outgoing(1).content)
    (folder / "below" / "two").write_bytes(outgoing(2).content)
    return folder


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, capsys):
    """Runs the command; its exit code, what stands on stdout and what on stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def config(folder: Path, port: int, *, title: str = "ARCHIVE", more: str = "") -> Path:
    path = folder / "to.yaml"
    archive = f"{{use: dimse, host: 127.0.0.1, port: {port}, called_ae_title: {title}, timeout: 2s{more}}}"
    path.write_text(f"destinations:\n  archive: {archive}\n  other: {{use: dicomweb, url: 'http://h/x'}}\n")
    return path


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_files_and_folders_are_sent(medseg, tmp_path, files, archive):
    code, out, err = medseg("send", files, "--to", "archive", "-c", config(tmp_path, archive.port))
    assert (code, out) == (0, "sent 2 of 2 files\n")
    assert sorted(archive.taken) == sorted(outgoing(number).sop_instance_uid for number in (1, 2))
    assert [line.split()[0] for line in err.splitlines()] == ["sent", "sent"]


def test_json_tells_each_file(medseg, tmp_path, files, archive):
    to = config(tmp_path, archive.port)
    code, out, err = medseg("send", files / "one.dcm", "--to", "archive", "-c", to, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "exit_code": 0,
        "others": 0,
        "files": [{"path": str(files / "one.dcm"), "state": "sent", "reason": ""}],
    }


def test_pictures_and_tables_beside_results_are_passed_over(medseg, tmp_path, files, archive):
    (files / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    (files / "measurements.json").write_text('{"a": 1}')
    to = config(tmp_path, archive.port)
    code, out, err = medseg("send", files, "--to", "archive", "-c", to)
    assert (code, out) == (0, "sent 2 of 2 files; passed over 2 that are no DICOM\n")
    assert len(err.splitlines()) == 2
    # Who names one means it.
    code, out, err = medseg("send", files, files / "mask.png", "--to", "archive", "-c", to)
    assert (code, out) == (1, "sent 2 of 3 files; passed over 2 that are no DICOM\n")
    assert f"no DICOM {files / 'mask.png'}: expected a DICOM file, found a PNG picture\n" in err


def test_a_bad_file_holds_no_good_one_up(medseg, tmp_path, files, archive):
    (files / "page.dcm").write_text("<!doctype html>")
    (files / "cut.dcm").write_bytes(outgoing(3).content[:400])
    (files / "empty.dcm").write_bytes(b"")
    to = config(tmp_path, archive.port)
    code, out, err = medseg("send", files, "--to", "archive", "-c", to)
    assert (code, out) == (1, "sent 2 of 5 files\n")
    assert len(archive.taken) == 2
    for name in ("page.dcm", "cut.dcm", "empty.dcm"):
        (line,) = [line for line in err.splitlines() if name in line]
        assert line.startswith("no DICOM")


def test_a_name_cannot_speak_to_the_terminal(medseg, tmp_path, files, archive):
    (files / "one.dcm").rename(files / "x\nsent     y\x1b[2J.dcm")
    _, _, err = medseg("send", files, "--to", "archive", "-c", config(tmp_path, archive.port))
    assert len(err.splitlines()) == 2
    assert "\x1b" not in err


def test_what_the_archive_refuses_is_told_apart(medseg, tmp_path, files, archive):
    (files / "mr.dcm").write_bytes(outgoing(3, sop_class=MRImageStorage).content)
    code, out, _ = medseg("send", files, "--to", "archive", "-c", config(tmp_path, archive.port), "--json")
    states = {Path(each["path"]).name: each for each in json.loads(out)["files"]}
    assert code == 1
    assert {name: each["state"] for name, each in states.items()} == {
        "one.dcm": "sent",
        "two": "sent",
        "mr.dcm": "refused",
    }
    assert "does not take MR Image Storage" in states["mr.dcm"]["reason"]


def test_an_archive_that_is_down_is_an_environment_failure(medseg, tmp_path, files):
    (files / "empty.dcm").write_bytes(b"")
    to = config(tmp_path, closed_port())
    code, out, err = medseg("send", files, "--to", "archive", "-c", to, "--retry-for", "1s")
    assert (code, out) == (4, "sent 0 of 3 files\n")
    assert "ARCHIVE at 127.0.0.1 port" in err
    assert "does not answer" in err
    code, _, err = medseg("echo", "archive", "-c", to)
    assert code == 4
    assert err.startswith("error: ARCHIVE at 127.0.0.1 port")


def test_what_is_not_taken_at_first_is_tried_again(medseg, tmp_path, files):
    statuses = iter([0xA700, 0x0000, 0x0000])
    with dimse_archive(lambda event: next(statuses)) as archive:
        to = config(tmp_path, archive.port, more=", first_wait: 0.1s")
        code, out, _ = medseg("send", files, "--to", "archive", "-c", to, "--retry-for", "20s")
    assert (code, out) == (0, "sent 2 of 2 files\n")
    assert len(archive.taken) == 2


def test_a_wrong_ae_title_is_told(medseg, tmp_path, files, archive):
    to = config(tmp_path, archive.port, title="OTHER")
    code, _, err = medseg("echo", "archive", "-c", to)
    assert code == 1
    assert "OTHER at 127.0.0.1" in err
    assert "refused the association" in err
    code, _, err = medseg("send", files, "--to", "archive", "-c", to, "--retry-for", "1s")
    assert code == 4
    assert "refused the association" in err


def test_echo_says_that_it_answers(medseg, tmp_path, archive):
    code, out, _ = medseg("echo", "archive", "-c", config(tmp_path, archive.port))
    assert code == 0
    assert out.startswith("archive answers (")


@pytest.mark.parametrize("command", [["send", "FILES", "--to", "nowhere"], ["echo", "nowhere"]])
def test_an_unknown_destination_is_told_with_those_there_are(medseg, tmp_path, files, command):
    arguments = [files if word == "FILES" else word for word in command]
    code, _, err = medseg(*arguments, "-c", config(tmp_path, 1))
    assert code == 2
    assert "has no destination 'nowhere'; expected one of archive, other" in err


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({"files": "absent"}, 4, "absent does not exist; correct the path"),
        ({"files": "empty"}, 3, "no file in "),
        ({"retry": "soon"}, 2, "--retry-for 'soon'"),
        ({"config": "absent.yaml"}, 2, "absent.yaml"),
    ],
)
def test_mistakes_on_the_command_line(medseg, tmp_path, files, change, code, sentence):
    (tmp_path / "empty").mkdir()
    named = tmp_path / change["files"] if "files" in change else files
    to = tmp_path / change["config"] if "config" in change else config(tmp_path, 1)
    arguments = ["send", named, "--to", "archive", "-c", to, "--retry-for", change.get("retry", "1s")]
    got, _, err = medseg(*arguments)
    assert got == code
    assert sentence in err
    got, out, _ = medseg(*arguments, "--json")
    assert json.loads(out)["exit_code"] == got == code


def test_stow_is_used_where_the_destination_says_so(medseg, tmp_path, files):
    with http_archive(lambda body: (200, b"", {})) as archive:
        to = tmp_path / "web.yaml"
        to.write_text(f"destinations: {{web: {{use: dicomweb, url: '{archive.options().url}'}}}}\n")
        code, out, _ = medseg("send", files, "--to", "web", "-c", to)
        assert (code, out) == (0, "sent 2 of 2 files\n")
        assert len(archive.bodies) == 1
        code, out, _ = medseg("echo", "web", "-c", to)
        assert code == 0
        assert out.startswith("web answers (")


@pytest.mark.parametrize("command", [["send", ".", "--to", "archive"], ["echo", "archive"]])
def test_a_missing_extra_is_named(tmp_path, command):
    code = f"""
import sys
sys.modules["pynetdicom"] = None
sys.argv = ["medseg", *{command!r}, "-c", {str(config(tmp_path, 1))!r}]
from medseg.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr == "error: sending needs pynetdicom; pip install 'medseg[pacs]'\n"
