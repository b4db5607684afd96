"""Encapsulated PDF: no address is fetched, the same page is the same instance."""

from __future__ import annotations

import base64
import builtins
from importlib import util

import dicom_results as made_up
import pydicom
import pytest

from medseg.errors import InputError, MissingPackageError
from medseg.export.encapsulated_pdf import html_to_pdf, require_pdf, write_encapsulated_pdf
from medseg.export.result_object import ModelFacts

MODEL = ModelFacts(name="abdomen", version="1.2", weights_sha256="ab" * 32)
PAGE = "<html lang=en><head><title>a</title></head><body><p>{}</p></body></html>"
needs_weasyprint = pytest.mark.skipif(
    util.find_spec("weasyprint") is None, reason="medseg[pdf] is not installed"
)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return made_up.write_series(tmp_path_factory.mktemp("ct"), shape=(9, 8, 3))


def write(made, path, pdf=b"%PDF-1.7 something", **options):
    return write_encapsulated_pdf(
        path, pdf, grid=made.volume.grid, title="Segmentation report", model=MODEL, **options
    )


def test_the_document_comes_back_and_names_its_sources(ct, tmp_path):
    pdf = b"%PDF-1.7 an odd length."
    written = write(ct, tmp_path / "report.dcm", pdf)
    document = pydicom.dcmread(tmp_path / "report.dcm")
    assert document.EncapsulatedDocument[: document.EncapsulatedDocumentLength] == pdf
    assert len(document.EncapsulatedDocument) % 2 == 0
    assert document.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert (document.Modality, document.SeriesNumber, document.BurnedInAnnotation) == ("DOC", 941, "YES")
    assert (document.PatientName, document.StudyInstanceUID) == ("Ph\xe4ntom^Eins", "2.25.30")
    assert document.SOPInstanceUID == written.sop_instance_uid
    sources = [item.ReferencedSOPInstanceUID for item in document.SourceInstanceSequence]
    assert sources == ["2.25.1000", "2.25.1001", "2.25.1002"]


def test_the_same_document_is_the_same_instance(ct, tmp_path):
    first, second = write(ct, tmp_path / "a.dcm"), write(ct, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    other = write(ct, tmp_path / "c.dcm", b"%PDF-1.7 something else")
    assert first.sop_instance_uid == second.sop_instance_uid != other.sop_instance_uid


def test_only_pdfs_are_taken(ct, tmp_path):
    with pytest.raises(InputError, match="expected a PDF, found 6 bytes"):
        write(ct, tmp_path / "a.dcm", b"<html>")


@needs_weasyprint
def test_a_page_becomes_a_pdf_and_always_the_same():
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    inside = f'<img src="data:image/png;base64,{base64.b64encode(pixel).decode()}" alt="">'
    pdf = html_to_pdf(PAGE.format(inside))
    assert pdf.startswith(b"%PDF-")
    assert html_to_pdf(PAGE.format(inside)) == pdf


@needs_weasyprint
@pytest.mark.parametrize(
    "outside", ["http://127.0.0.1:9/a.png", "file:///etc/hostname", "ftp://127.0.0.1:9/a.png"]
)
def test_nothing_outside_the_page_is_read(outside):
    with pytest.raises(InputError, match="something outside itself"):
        html_to_pdf(PAGE.format(f'<img src="{outside}" alt="">'))


def test_a_missing_package_names_the_extra(monkeypatch):
    found = builtins.__import__

    def no_weasyprint(name, *rest, **more):
        if name.startswith("weasyprint"):
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_weasyprint)
    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[pdf\]'"):
        html_to_pdf(PAGE)
    monkeypatch.setattr("medseg.export.encapsulated_pdf.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"medseg\[pdf\]"):
        require_pdf()
