"""Stage `send`: what is due reaches the archives once, flagged cases are held, failures are told in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")

from medseg.errors import ConfigError, InputError, PacsRejectedError, PacsUnreachableError
from medseg.export.options import ExportName
from medseg.pacs.options import DicomwebArchive, DimseArchive, SecretOptions
from medseg.pacs.send_options import SendName, SendOptions
from medseg.pipeline import case_files, send
from medseg.pipeline.context import Context
from medseg.pipeline.progress import SilentReporter
from medseg.pipeline.run_folder import RunFolder
from tests.unit.pacs.archives import dimse_archive, http_archive, outgoing


@pytest.fixture
def archive():
    with dimse_archive() as opened:
        yield opened


def reach(port: int) -> DimseArchive:
    return DimseArchive(host="127.0.0.1", port=port, called_ae_title="ARCHIVE", timeout=2.0)


class Run:
    """A run whose cases are exported."""

    def __init__(self, folder: Path, *archives, **options) -> None:
        self.folder, self.notes = folder, []
        self.exported: dict[str, dict[str, str]] = {}
        pacs = SendOptions(to=archives, **({"retry_for": 0.1} | options)) if archives else None
        shown = SimpleNamespace(cases="test")
        settings = SimpleNamespace(pacs=pacs, training=None, evaluation=shown, report=shown)
        reporter = SilentReporter()
        reporter.note = self.notes.append
        self.context = Context(settings=settings, run=RunFolder(folder), reporter=reporter)

    def case(self, number: int, *, verdict: str = "pass", names: tuple[str, ...] = (case_files.SEG,)) -> str:
        folder = self.folder / "cases" / f"c{number}"
        folder.mkdir(parents=True)
        files = [outgoing(10 * number + index) for index, _ in enumerate(names)]
        for name, file in zip(names, files, strict=True):
            (folder / name).write_bytes(file.content)
        (folder / case_files.RECORD).write_text(json.dumps({"verdict": verdict}))
        self.exported[f"c{number}"] = dict.fromkeys(names, "sha")
        (self.folder / "exports.json").write_text(json.dumps({"files": self.exported, "notes": {}}))
        return files[0].sop_instance_uid if files else ""

    def send(self):
        return send.run(self.context)


def test_what_was_sent_is_not_sent_again(tmp_path: Path, archive):
    run = Run(tmp_path, reach(archive.port))
    first = run.case(1)
    assert run.send()["text"] == f"1 object to ARCHIVE at 127.0.0.1 port {archive.port}"
    second = run.case(2)
    assert run.send()["text"].endswith("1 were sent before")
    assert archive.taken == [first, second]
    record = json.loads((tmp_path / send.RECORD).read_text())
    assert [item["file"] for item in record[f"ARCHIVE at 127.0.0.1 port {archive.port}"].values()] == [
        "cases/c1/segmentation.dcm",
        "cases/c2/segmentation.dcm",
    ]


def test_flagged_cases_are_held_unless_the_settings_let_them_go(tmp_path: Path, archive):
    run = Run(tmp_path / "held", reach(archive.port))
    good = run.case(1)
    run.case(2, verdict="review")
    run.case(3, verdict="fail")
    assert run.send()["held"] == ["c2", "c3"]
    assert archive.taken == [good]
    assert run.notes == [
        f"c{n}: held for its verdict; look at it, then send its files by medseg send" for n in (2, 3)
    ]
    free = Run(tmp_path / "free", reach(archive.port), hold_on=("fail",))
    reviewed = free.case(4, verdict="review")
    free.case(5, verdict="fail")
    free.send()
    assert archive.taken == [good, reviewed]


def test_only_the_named_exports_go(tmp_path: Path, archive):
    run = Run(tmp_path, reach(archive.port), send=("dicom_seg", "measurement_sr"))
    run.case(1, names=("segmentation.dcm", "measurements.dcm", "secondary_capture.dcm"))
    run.case(2, names=("secondary_capture.dcm",))
    summary = run.send()
    assert len(archive.taken) == 2
    assert summary["without"] == ["c2"]
    assert "without such a file: c2" in summary["text"]


def test_each_archive_gets_everything_though_another_is_down(tmp_path: Path, archive):
    with http_archive(lambda body: (200, b"", {})) as web:
        down = reach(1)
        run = Run(tmp_path, down, reach(archive.port), DicomwebArchive(url=web.options().url))
        run.case(1)
        sentence = (
            "2 of 3 objects are sent, 1 wait; cases/c1/segmentation.dcm: ARCHIVE at 127.0.0.1 port 1 does not"
        )
        with pytest.raises(PacsUnreachableError, match=sentence) as left:
            run.send()
        assert left.value.exit_code == 4
        assert "the same command goes on with the others" in str(left.value)
        with pytest.raises(PacsUnreachableError):
            run.send()
        assert (len(archive.taken), len(web.bodies)) == (1, 1)


def test_a_refusal_is_told_and_the_rest_goes_on(tmp_path: Path):
    with dimse_archive(lambda event: 0xA900 if not archive.taken else 0) as archive:
        run = Run(tmp_path, reach(archive.port))
        run.case(1)
        with pytest.raises(PacsRejectedError, match=r"0 of 1 objects are sent, 1 were refused.*A900"):
            run.send()
        archive.taken.append("another")
        assert run.send()["sent"] == 1


def test_nothing_to_send_is_an_error(tmp_path: Path, archive):
    run = Run(tmp_path, reach(archive.port))
    run.case(1, names=())
    with pytest.raises(InputError, match=r"no case has dicom_seg; exports\.json says why"):
        run.send()


def test_the_dry_run_names_what_goes_where(tmp_path: Path):
    web = DicomwebArchive(url="https://pacs.example.org/dicom-web/")
    run = Run(tmp_path, reach(104), web, send=("dicom_seg", "rtstruct"))
    assert send.plan(run.context) == (
        "dicom_seg, rtstruct of the all cases, except those to review or fail, "
        "to ARCHIVE at 127.0.0.1 port 104 and https://pacs.example.org/dicom-web"
    )


def test_a_missing_secret_is_found_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    web = DicomwebArchive(url="http://127.0.0.1:1/x", token=SecretOptions(env="NOT_SET"))
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        send.require(Run(tmp_path, web).context)
    send.require(Run(tmp_path).context)


def test_what_can_be_sent_is_an_export():
    assert set(get_args(SendName)) <= set(get_args(ExportName))
    assert all(case_files.FILES[name][0].endswith(".dcm") for name in get_args(SendName))
