"""Report of a case -> PDF -> DICOM Encapsulated PDF, for archives that show neither SEG nor SR."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime
from importlib import util
from pathlib import Path
from typing import Any

import highdicom as hd
from PIL import ImageFile
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from medseg.errors import InputError, MissingPackageError
from medseg.export.options import ContentQualification
from medseg.export.result_object import ModelFacts, ResultObject, result_object
from medseg.export.written import WrittenObject
from medseg.volume import ImageGrid, Source

SERIES_NUMBER = 941
_MISSING = "WeasyPrint, which prints reports to PDF, is not installed; pip install 'medseg[pdf]'"


def require_pdf() -> None:
    """Refuse early where PDFs cannot be made for want of WeasyPrint; imports nothing heavy.

    Raises
    ------
    MissingPackageError
        Names the extra.
    """
    if util.find_spec("weasyprint") is None:
        raise MissingPackageError(_MISSING)


def html_to_pdf(html: str) -> bytes:
    """Print a page that holds all it shows; the same page gives the same bytes.

    Parameters
    ----------
    html : str
        May refer to `data:` addresses only.

    Raises
    ------
    MissingPackageError
        WeasyPrint, or the Pango library that it needs, is not installed.
    InputError
        The page refers to a file or to the network; nothing is fetched.
    """
    weasyprint, urls = _import_weasyprint()

    class OnlyData(urls.URLFetcher):  # type: ignore[misc, name-defined]
        def fetch(self, url: str, headers: dict[str, str] | None = None) -> Any:
            if not url.startswith("data:"):
                raise urls.FatalURLFetchingError
            return super().fetch(url, headers)

    # It writes what it does not understand of a style sheet, and progress, into its log.
    logging.getLogger("weasyprint").setLevel(logging.CRITICAL)
    try:
        made: bytes = weasyprint.HTML(string=html, url_fetcher=OnlyData()).write_pdf()
    except urls.FatalURLFetchingError as err:
        raise InputError(
            "the page refers to something outside itself; a PDF is made of one page alone"
        ) from err
    return made


def write_encapsulated_pdf(
    path: Path,
    pdf: bytes,
    *,
    grid: ImageGrid,
    title: str,
    model: ModelFacts,
    created: datetime | None = None,
    content_qualification: ContentQualification = "RESEARCH",
) -> WrittenObject:
    """Wrap a PDF into a DICOM object of the image's patient and study.

    Parameters
    ----------
    path : Path
        Written whole or not at all.
    pdf : bytes
    grid : ImageGrid
        Of the image that the report is on; its instances are referred to as the sources.
    title : str
        Of the document, for lists of documents; no identifiers of persons.
    model : ModelFacts
    created : datetime or None
        When the report was made; None: the dates of the source.
    content_qualification : {"RESEARCH", "PRODUCT", "SERVICE"}

    Returns
    -------
    WrittenObject

    Raises
    ------
    InputError
        Not a PDF; the source is not DICOM, or lacks a UID.
    ImageReadError, StorageError
        The source is damaged; the file cannot be written.

    References
    ----------
    DICOM PS3.3 A.45.1, C.24.2.
    """
    if not pdf.startswith(b"%PDF-"):
        raise InputError(f"expected a PDF, found {len(pdf)} bytes that do not begin with %PDF-")
    with result_object(
        "PDF",
        grid,
        series_number=SERIES_NUMBER,
        model=model,
        determined_by=[hashlib.sha256(pdf).hexdigest(), title],
        created=created,
        qualification=content_qualification,
    ) as made:
        document = made.plain(EncapsulatedPDFStorage, modality="DOC")
        _describe(document, made, grid.source, title=title)
        document.EncapsulatedDocumentLength = len(pdf)
        document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
        return made.save(document, path)


def _describe(document: hd.SOPClass, made: ResultObject, source: Source, *, title: str) -> None:
    document.ConversionType = "WSD"
    document.BurnedInAnnotation = "YES"
    document.AcquisitionDateTime = None
    document.DocumentTitle = title[:1024]
    # CID 7021, as the measurement report's.
    report = hd.sr.CodedConcept("126000", "DCM", "Imaging Measurement Report")
    document.ConceptNameCodeSequence = [report]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    items = []
    for uid in dict.fromkeys(source.sop_instance_uids or (str(made.source.SOPInstanceUID),)):
        item = Dataset()
        item.ReferencedSOPClassUID = source.sop_class_uid or made.source.SOPClassUID
        item.ReferencedSOPInstanceUID = uid
        items.append(item)
    document.SourceInstanceSequence = items


def _import_weasyprint() -> tuple[Any, Any]:
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        import weasyprint
        from weasyprint import urls
    except ImportError as err:
        raise MissingPackageError(_MISSING) from err
    except OSError as err:
        raise MissingPackageError(
            "WeasyPrint cannot load Pango; install it (Debian: libpango-1.0-0 libpangoft2-1.0-0 "
            "libharfbuzz-subset0)"
        ) from err
    finally:
        # Its import tells Pillow to take cut-off pictures as whole ones, for the entire process.
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    return weasyprint, urls
