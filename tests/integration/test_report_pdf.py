"""The report as DICOM Encapsulated PDF: its page, its references, and what validators say of it."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import dicom_results as made_up
import pydicom
import pytest

from medseg.evaluation.measure import measure_case
from medseg.pipeline.case_files import export_case, image_facts
from medseg.quality.flag import ResultFacts
from medseg.quality.flags import judge_result

pytestmark = pytest.mark.slow
if importlib.util.find_spec("weasyprint") is None:
    # Not `importorskip`: its import makes Pillow take cut-off pictures for the rest of the session.
    pytest.skip("could not import 'weasyprint'", allow_module_level=True)


def program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return made_up.write_series(tmp_path_factory.mktemp("ct"), shape=(40, 34, 12))


@pytest.fixture(scope="module")
def record(series):
    volume, table = series.volume, made_up.TABLE
    measures = measure_case(
        series.label_map, table=table, measures=("volume",), case_id="case-1", spacing_mm=volume.spacing_mm,
        affine=volume.affine,
    )  # fmt: skip
    flags = judge_result(ResultFacts(label_map=series.label_map, table=table, measures=measures)).to_json()
    made = {
        "case_id": "case-1",
        "model": {"name": "abdomen", "version": "1.2", "weights_sha256": "ab" * 32, "licence": "CC0-1.0"},
        "image": image_facts(volume),
        **{name: flags[name] for name in ("verdict", "flags", "checks")},
        "gate": {"level": "pass", "sentence": "", "distance": None, "percentile": None, "findings": []},
        "confidence": {},
        "notes": [],
        "measurements": measures.to_json(),
    }
    return json.loads(json.dumps(made))


def export(folder, series, record):
    folder.mkdir(exist_ok=True)
    return export_case(
        folder, kinds=("dicom_seg", "encapsulated_pdf"), volume=series.volume, label_map=series.label_map,
        table=made_up.TABLE, record=record,
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(series, record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    hashes, _ = export(folder, series, record)
    assert "report.dcm" in hashes
    return folder / "report.dcm"


def test_it_belongs_to_the_study_and_refers_to_every_slice(series, report):
    document, source = pydicom.dcmread(report), series.headers[0]
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    assert document.StudyInstanceUID == source.StudyInstanceUID
    assert document.SeriesInstanceUID != source.SeriesInstanceUID
    assert (document.PatientName, document.PatientID) == (source.PatientName, source.PatientID)
    assert (document.Modality, document.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
    sources = {item.ReferencedSOPInstanceUID for item in document.SourceInstanceSequence}
    assert sources == {header.SOPInstanceUID for header in series.headers}
    assert {item.ReferencedSOPClassUID for item in document.SourceInstanceSequence} == {source.SOPClassUID}


def test_it_is_the_page_of_the_case_and_names_nobody(record, report):
    pypdf = pytest.importorskip("pypdf")
    document = pydicom.dcmread(report)
    pdf = pypdf.PdfReader(io.BytesIO(document.EncapsulatedDocument[: document.EncapsulatedDocumentLength]))
    pages = unicodedata.normalize("NFKC", " ".join(page.extract_text() for page in pdf.pages))
    said = " ".join(pages.split())
    size = record["measurements"]["structures"]["liver"]["quantities"]["volume"]["value"]
    for part in ("case-1", "For research use only", "liver", f"{size:.2f} mL", "abdomen 1.2", "ab" * 8):
        assert part in said, part
    assert "PH-1" not in said
    assert "ntom" not in said
    assert any(page.images for page in pdf.pages)


def test_the_same_case_gives_the_same_instance(series, record, report, tmp_path):
    export(tmp_path / "again", series, record)
    # A second export into a folder that already holds a report, too.
    export(tmp_path / "again", series, record)
    again = pydicom.dcmread(tmp_path / "again" / "report.dcm")
    assert again.SOPInstanceUID == pydicom.dcmread(report).SOPInstanceUID


def test_validators_have_no_complaint(series, report):
    found = subprocess.run([program("dciodvfy"), str(report)], capture_output=True, text=True, timeout=60)
    lines = (found.stdout + found.stderr).splitlines()
    assert [line for line in lines if line.startswith(("Error", "Warning"))] == []
    assert any("EncapsulatedPDF" in line for line in lines)
    files = [str(path) for path in sorted(series.folder.glob("*.dcm"))]
    entity = subprocess.run(
        [program("dcentvfy"), *files, str(report)], capture_output=True, text=True, timeout=60
    )
    assert [line for line in entity.stderr.splitlines() if line.startswith("Error")] == []
    assert entity.returncode == 0


def test_a_file_that_is_no_dicom_gets_none_and_a_reason(series, record, tmp_path):
    volume = replace(series.volume, source=replace(series.volume.source, format="nifti"))
    hashes, notes = export_case(
        tmp_path, kinds=("encapsulated_pdf",), volume=volume, label_map=series.label_map, table=made_up.TABLE,
        record=record,
    )  # fmt: skip
    assert "report.dcm" not in hashes
    assert any("no encapsulated_pdf: the image is not a DICOM file" in note for note in notes)
