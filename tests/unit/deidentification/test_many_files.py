"""Folders in, clean copies out: names, refusals, what is never replaced, the table that leads back."""

from __future__ import annotations

import csv
import json
import os
import random
import stat
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from medseg.cli import app
from medseg.deidentification import many_files, whole_files
from medseg.deidentification.many_files import Work, clean_files
from medseg.deidentification.one_file import FileCleaner
from medseg.deidentification.options import ProfileOptions
from medseg.deidentification.whole_files import OutputConflictError, write_new
from medseg.errors import ConfigError, InputError, MedsegError, StorageError
from medseg.io.foreign import recorded_warnings
from medseg.pipeline.deidentify_files import RANDOM_KEY, FilesOptions, deidentify_files

KEY = "0123456789abcdef0123456789abcdef"


def slice_file(path: Path, number: int, *, patient: str = "Doe-4711", **elements) -> Path:
    data_set = Dataset()
    data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data_set.SOPInstanceUID = generate_uid(entropy_srcs=[patient, str(number)])
    data_set.StudyInstanceUID = generate_uid(entropy_srcs=[patient])
    data_set.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, "series"])
    data_set.PatientID, data_set.PatientName, data_set.Modality = patient, "Doe^Jane", "CT"
    data_set.InstanceNumber = number
    for name, value in elements.items():
        setattr(data_set, name, value)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        slice_file(tmp_path / f"in/Doe Jane/IM{number}", number)
    slice_file(tmp_path / "in/roe_mask.dcm", 1, patient="Roe-1")
    slice_file(
        tmp_path / "in/.hidden/sc",
        9,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
        BitsAllocated=8,
        PixelData=b"\0\0",
    )
    (tmp_path / "in/notes.txt").write_text("Doe was here")
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    return tmp_path


def options(folder: Path, **changed) -> FilesOptions:
    return FilesOptions(key={"file": folder / "key"}, **changed)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder(folder):
    before = files(folder / "in")
    result = deidentify_files([folder / "in"], folder / "out", options(folder))
    assert files(folder / "in") == before
    assert result.exit_code == 1
    assert (result.facts["written"], result.facts["same"], result.facts["patients"]) == (4, 0, 2)
    assert [Path(entry["path"]).name for entry in result.facts["refused"]] == ["notes.txt", "sc"]
    assert "expected a DICOM file, found text" in result.facts["refused"][0]["reason"]
    assert "secondary capture" in result.facts["refused"][1]["reason"]
    made = files(folder / "out")
    assert len(made) == 4
    assert all(name.count("/") == 3 and name.startswith("P-") for name in made)
    for name, content in made.items():
        assert not any(word in name + content.decode("latin-1") for word in ("Doe", "Roe", "4711"))
    assert {dcmread(folder / "out" / name).PatientID for name in made} == {
        name.split("/")[0] for name in made
    }
    again = deidentify_files([folder / "in"], folder / "out", options(folder))
    assert (again.facts["written"], again.facts["same"]) == (0, 4)
    assert files(folder / "out") == made


def test_processes_do_the_same(folder, monkeypatch):
    monkeypatch.setattr(many_files, "_ALONE", 1)
    monkeypatch.setattr(many_files, "_CHUNK", 2)
    alone = deidentify_files([folder / "in"], folder / "one", options(folder))
    many = deidentify_files([folder / "in"], folder / "two", options(folder), workers=2)
    assert files(folder / "one") == files(folder / "two")
    assert alone.facts == many.facts


def test_a_file_that_is_there_with_other_content_stays(folder):
    deidentify_files([folder / "in"], folder / "out", options(folder))
    other = deidentify_files([folder / "in"], folder / "out", options(folder, retain=("uids",)))
    assert other.facts["written"] == 0
    assert sum("is there with other content" in entry["reason"] for entry in other.facts["refused"]) == 4
    assert other.exit_code == 3


def test_two_files_of_one_instance(tmp_path):
    slice_file(tmp_path / "in/a", 1)
    slice_file(tmp_path / "in/b", 1)
    slice_file(tmp_path / "in/c", 1, InstanceNumber=77)
    result = deidentify_files([tmp_path / "in"], tmp_path / "out", FilesOptions())
    assert (result.facts["written"], result.facts["same"]) == (1, 1)
    assert [Path(entry["path"]).name for entry in result.facts["refused"]] == ["c"]


def test_dry_run_writes_nothing(folder):
    result = deidentify_files(
        [folder / "in"], folder / "out", options(folder), dry_run=True, key_table=folder / "k.csv"
    )
    assert (result.facts["checked"], result.path) == (4, None)
    assert not (folder / "out").exists()
    assert not (folder / "k.csv").exists()
    assert "4 would be written, 2 refused; nothing was written" in result.lines[-1]


def test_without_a_key_each_run_is_its_own(folder):
    one, two = (deidentify_files([folder / "in"], folder / name, FilesOptions()) for name in ("one", "two"))
    assert RANDOM_KEY in one.lines
    assert one.facts["key"] == "random"
    assert not set(files(folder / "one")) & set(files(folder / "two"))
    assert one.facts["written"] == two.facts["written"] == 4


def test_the_key_table_leads_back(folder):
    table = folder / "secret/keys.csv"
    deidentify_files([folder / "in"], folder / "out", options(folder), key_table=table)
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert Counter(row["kind"] for row in rows) == {"patient": 2, "study": 2, "series": 2, "instance": 4}
    patients = {row["original"]: row["replacement"] for row in rows if row["kind"] == "patient"}
    assert set(patients) == {"Doe-4711", "Roe-1"}
    assert set(patients.values()) == {name.split("/")[0] for name in files(folder / "out")}
    with pytest.raises(ConfigError, match="exists; it is not replaced"):
        deidentify_files([folder / "in"], folder / "out", options(folder), key_table=table)


def test_what_is_wrong_is_said_before_anything_is_done(folder):
    for output in (folder / "in/out", folder / "in", folder):
        with pytest.raises(ConfigError, match="lie in each other"):
            deidentify_files([folder / "in"], output, options(folder))
    with pytest.raises(StorageError, match="does not exist"):
        deidentify_files([folder / "nowhere"], folder / "out", options(folder))
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="there is no file"):
        deidentify_files([folder / "empty"], folder / "out", options(folder))
    (folder / "key").write_text("short")
    with pytest.raises(ConfigError, match="5 characters"):
        deidentify_files([folder / "in"], folder / "out", options(folder))
    assert not (folder / "out").exists()


def test_links_to_folders_are_told(folder):
    (folder / "in/link").symlink_to(folder / "in/Doe Jane")
    result = deidentify_files([folder / "in"], folder / "out", options(folder))
    assert any("link to a folder" in entry["reason"] for entry in result.facts["refused"])
    assert result.facts["written"] == 4


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    def full(part, content):
        part.write_bytes(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_files, "_write_through", full)
    with pytest.raises(StorageError, match="no space left"):
        write_new(tmp_path / "a/b.dcm", b"content")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_file_systems_without_links(tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert write_new(tmp_path / "a.dcm", b"content") == "written"
    assert write_new(tmp_path / "a.dcm", b"content") == "same"
    with pytest.raises(OutputConflictError, match="other content"):
        write_new(tmp_path / "a.dcm", b"another")
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


def test_a_name_that_somebody_took_meanwhile_is_not_taken_away(tmp_path):
    (tmp_path / "part").write_bytes(b"another")
    (tmp_path / "a.dcm").write_bytes(b"content")
    with pytest.raises(FileExistsError):
        whole_files._name(tmp_path / "part", tmp_path / "a.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == b"content"


def test_who_is_faster_wins_and_nothing_is_lost(tmp_path, monkeypatch):
    def overtaken(part, path):
        path.write_bytes(b"content")
        raise FileExistsError(path)

    monkeypatch.setattr(whole_files, "_name", overtaken)
    assert write_new(tmp_path / "a.dcm", b"content") == "same"
    (tmp_path / "a.dcm").unlink()
    with pytest.raises(OutputConflictError):
        write_new(tmp_path / "a.dcm", b"another")
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_refused_or_cleaned_whole(tmp_path, seed):
    item = Dataset()
    item.PatientName, item.CodeValue = "Doe^Jane", "1"
    source = slice_file(
        tmp_path / "in.dcm",
        1,
        StudyDate="20240229",
        AnatomicRegionSequence=[item],
        ContentSequence=[item],
        SeriesDescription="T1 of Doe",
        Rows=1,
        Columns=2,
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelData=b"\0\1\2\3",
    ).read_bytes()
    cleaner = FileCleaner(
        ProfileOptions(clean=("descriptors", "structured_content"), retain=("dates_modified",)),
        (),
        KEY.encode(),
    )
    dice, path, sentences, whole = random.Random(seed), tmp_path / "x.dcm", [], 0
    for _ in range(500):
        damaged = bytearray(source)
        for _ in range(dice.randint(1, 6)):
            damaged[dice.randrange(132, len(damaged))] = dice.choice((0, 1, 255, dice.randrange(256)))
        if dice.random() < 0.2:
            del damaged[dice.randrange(200, len(damaged)) :]
        path.write_bytes(damaged)
        try:
            content = cleaner.clean(path).content
        except MedsegError as err:
            sentences.append(str(err))
            continue
        whole += 1
        (tmp_path / "y.dcm").write_bytes(content)
        with recorded_warnings():
            copy = dcmread(tmp_path / "y.dcm")
            assert [element.VR for element in copy.iterall()]
        assert copy.PatientIdentityRemoved == "YES"
        # Not even where a damaged length lets an element swallow those behind it.
        assert b"Doe^Jane" not in content
    assert min(len(sentences), whole) > 20
    assert not [text for text in sentences if "Doe" in text or "\n" in text]


def test_command(folder):
    arguments = [
        "deidentify",
        str(folder / "in"),
        "-o",
        str(folder / "out"),
        "--key-file",
        str(folder / "key"),
    ]
    done = CliRunner().invoke(
        app,
        [*arguments, "--retain", "dates_modified", "--clean", "descriptors", "--json", "--workers", "1"],
    )
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert facts["written"] == 4
    assert [method["code"] for method in facts["methods"]] == ["113100", "113105", "113107"]
    told = CliRunner().invoke(app, [*arguments[:4], "--dry-run"])
    assert "no key was given" in told.stderr


def test_command_with_settings(folder):
    settings = folder / "deidentify.yaml"
    settings.write_text(
        "medseg_deidentify: 1\n"
        "key: {file: key}\n"
        "retain: [dates_full]\n"
        "blank:\n"
        "  - {match: {modality: [US], columns: 640}, regions: [[0, 0, 640, 40]]}\n"
    )
    arguments = ["deidentify", str(folder / "in"), "-o", str(folder / "out"), "--settings", str(settings)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    facts = json.loads(done.stdout)
    assert (facts["written"], facts["key"]) == (4, "given")
    assert [method["code"] for method in facts["methods"]] == ["113100", "113106"]


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--retain", "names"], "--retain 'names': expected 'uids'"),
        (["--retain", "dates_full", "--retain", "dates_modified"], "not both"),
        (["--clean-pixels", "1,2,3"], "expected X0,Y0,X1,Y1"),
        (["--clean-pixels", "US:5,0,5,9"], "is no rectangle"),
        (["--key-file", "a", "--key-env", "B"], "not both"),
        (["--safe-private", "0018,xx01,X"], "--safe-private '0018,xx01,X': expected an odd group"),
        (["--burned-in", "never"], "--burned-in 'never': expected 'refuse', 'declared' or 'accept'"),
    ],
)
def test_options_that_do_not_fit(folder, extra, text):
    done = CliRunner().invoke(app, ["deidentify", str(folder / "in"), "-o", str(folder / "out"), *extra])
    assert isinstance(done.exception, ConfigError)
    assert text in str(done.exception)


def test_blanking_of_settings_and_of_the_command_line_do_not_mix(folder):
    settings = folder / "deidentify.yaml"
    settings.write_text(
        "medseg_deidentify: 1\nblank: [{match: {modality: [US]}, regions: [[0, 0, 64, 4]]}]\n"
    )
    arguments = ["deidentify", str(folder / "in"), "-o", str(folder / "out"), "--settings", str(settings)]
    done = CliRunner().invoke(app, [*arguments, "--clean-pixels", "US:0,4,64,8"])
    assert isinstance(done.exception, ConfigError)
    assert "do not go together with `blank`" in str(done.exception)


def test_command_blanks(tmp_path):
    picture = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
        "Modality": "US",
        "Rows": 2,
        "Columns": 4,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": bytes(range(1, 9)),
    }
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 1, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 3, 1
    slice_file(tmp_path / "in/a", 1, SequenceOfUltrasoundRegions=[region], **picture)
    arguments = [
        "deidentify",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "--clean-pixels",
        "US:0,1,2,2",
    ]
    assert CliRunner().invoke(app, [*arguments, "--keep-ultrasound-regions"]).exit_code == 0
    (made,) = (path for path in (tmp_path / "out").rglob("*.dcm"))
    assert list(dcmread(made).PixelData) == [0, 2, 3, 4, 0, 0, 7, 8]


def test_outcomes_come_while_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(many_files, "_WRITERS", 1)
    for number in range(40):
        slice_file(tmp_path / f"in/{number:02d}", number)
    work = Work(options=ProfileOptions(), blank=(), key=KEY.encode(), output=tmp_path / "out")
    outcomes = clean_files([tmp_path / "in"], work, workers=1)
    assert next(outcomes).path.name == "00"
    assert len(files(tmp_path / "out")) < 5
    assert [outcome.path.name for outcome in outcomes] == [f"{number:02d}" for number in range(1, 40)]
