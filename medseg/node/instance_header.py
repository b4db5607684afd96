"""The bytes of an instance -> what the node must know of it; nothing is believed before it is checked."""

from __future__ import annotations

import hashlib
import hmac
import io
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medseg.errors import ImageReadError
from medseg.io.dicom_file import UNDEFINED_LENGTH, DatasetStream, parse_data_set_front, read_counted
from medseg.io.dicom_header import DicomHeader, modality_of
from medseg.io.foreign import PARSER_ERRORS, recorded_warnings
from medseg.io.limits import ReadLimits

_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN")
_TEXT = 200
_MAX_ITEMS = 250_000
# PS3.5 7.1: groups below are those of commands, of the head of a file and of directories.
_FIRST_GROUP = 0x0008
_SYNTAX_ROOT = "1.2.840.10008.1.2"
_KNOWN_SYNTAXES = frozenset(map(str, AllTransferSyntaxes))


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """What the rows of an instance, its series and its study hold; see `tables`.

    `searched_by` are digests of accession and patient number, see `number_digest`.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    patient: str
    transfer_syntax_uid: str
    modality: str
    body_part: str
    description: str
    protocol: str
    number: int | None
    searched_by: tuple[str, ...] = ()


def read_facts(
    data_set: bytes, transfer_syntax_uid: str, *, secret: bytes, limits: ReadLimits
) -> InstanceFacts:
    """Parse the front of a data set and look at the length of its pixels.

    Parameters
    ----------
    data_set : bytes
        Without preamble and file meta information.
    transfer_syntax_uid : str
    secret : bytes
        Key of the digest that stands for the patient.
    limits : ReadLimits

    Raises
    ------
    ImageReadError
        Not a data set, truncated, of very many items, an identifier missing or malformed; the sentence has no
        identifiers.
    """
    name = Path("the data set")
    if not (UID(transfer_syntax_uid).is_valid and transfer_syntax_uid.startswith(_SYNTAX_ROOT)):
        raise ImageReadError("its transfer syntax is none of DICOM, so nobody knows how it is encoded")
    _check_items(data_set, transfer_syntax_uid)
    dataset, rest = parse_data_set_front(data_set, transfer_syntax_uid, name, limits)
    if rest.content is not None:
        _check_items(rest.content, transfer_syntax_uid)
    if dataset and min(dataset.keys()) >> 16 < _FIRST_GROUP:
        raise ImageReadError(f"an element of a group below {_FIRST_GROUP:04X}, which no data set may have")
    if not _check_pixels(rest, transfer_syntax_uid):
        _check_end(dataset, rest.size)
        _check_no_pixels(dataset)
    # pydicom's warnings quote values.
    with recorded_warnings():
        return _facts(dataset, name, transfer_syntax_uid, secret)


def _facts(dataset: Dataset, name: Path, transfer_syntax_uid: str, secret: bytes) -> InstanceFacts:
    header = DicomHeader.of(dataset, name)
    uids = {
        keyword: _identifier(header, keyword)
        for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")
    }
    number = header.numbers("SeriesNumber")
    return InstanceFacts(
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        series_uid=uids["SeriesInstanceUID"],
        study_uid=uids["StudyInstanceUID"],
        patient=_patient(header, secret),
        transfer_syntax_uid=transfer_syntax_uid,
        modality=modality_of(header),
        body_part=header.code("BodyPartExamined"),
        description=_text(header, "SeriesDescription"),
        protocol=_text(header, "ProtocolName"),
        number=int(number[0]) if len(number) == 1 and abs(number[0]) < 2**31 else None,
        searched_by=_searched_by(header, secret),
    )


def _identifier(header: DicomHeader, keyword: str) -> str:
    found = header.uid(keyword)
    if not found or not UID(found).is_valid:
        what = "is not a UID" if header.texts(keyword) else "is missing"
        raise ImageReadError(f"{keyword} {what}; expected a UID as in DICOM PS3.5 9.1")
    return found


def _patient(header: DicomHeader, secret: bytes) -> str:
    """Keyed digest that tells patients apart: of number and issuer, without a number of name and birth date."""
    number = header.texts("PatientID")
    keywords = ("PatientID", "IssuerOfPatientID") if any(number) else ("PatientName", "PatientBirthDate")
    text = "\0".join(next(iter(header.texts(keyword)), "") for keyword in keywords)
    return hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def number_digest(text: str, secret: bytes) -> str:
    """What stands in a database for an accession or patient number: keyed, so that numbers cannot be tried out."""
    said = b"number\0" + text.strip().encode("utf-8", "surrogatepass")
    return hmac.new(secret, said, hashlib.sha256).hexdigest()[:32]


def _searched_by(header: DicomHeader, secret: bytes) -> tuple[str, ...]:
    texts = {next(iter(header.texts(keyword)), "") for keyword in ("AccessionNumber", "PatientID")}
    return tuple(number_digest(text, secret) for text in sorted(texts) if text.strip())


def _text(header: DicomHeader, keyword: str) -> str:
    """A short text for rules, without what a database or a page would stumble over."""
    first = next(iter(header.texts(keyword)), "")
    return "".join(char if char.isprintable() else "�" for char in first)[:_TEXT]


def _check_items(data_set: bytes, transfer_syntax_uid: str) -> None:
    """Refuse more items than any image has: a parser takes time and memory for each, however short."""
    item = b"\xff\xfe\xe0\x00" if transfer_syntax_uid == ExplicitVRBigEndian else b"\xfe\xff\x00\xe0"
    if len(data_set) <= len(item) * _MAX_ITEMS:
        # There is no room for so many; most images end here.
        return
    count = data_set.count(item)
    if count > _MAX_ITEMS:
        raise ImageReadError(f"{count} items in its sequences, more than {_MAX_ITEMS}")


def _check_no_pixels(dataset: Dataset) -> None:
    """Refuse an image that was cut off where its pixels begin; those of some lie elsewhere (PS3.5 A.6)."""
    if "Rows" in dataset and "PixelDataProviderURL" not in dataset:
        raise ImageReadError("the data set is truncated: it is an image and has no pixels")


def _check_end(dataset: Dataset, size: int) -> None:
    """Refuse bytes behind the last element; pydicom passes over the beginning of one more."""
    last = dataset.get_item(max(dataset.keys())) if len(dataset) else None
    if isinstance(last, RawDataElement) and last.length != UNDEFINED_LENGTH:
        left = size - last.value_tell - last.length
        if left:
            raise ImageReadError(f"the data set is truncated or damaged: {left} bytes after its last element")


def _check_tail(stream: DatasetStream, begins: int, transfer_syntax_uid: str) -> None:
    """Refuse what follows the pixels and is no element."""
    stream.seek(begins)
    tail = stream.read()
    if not tail:
        return
    try:
        with recorded_warnings() as caught:
            implicit, big = (
                transfer_syntax_uid == other for other in (ImplicitVRLittleEndian, ExplicitVRBigEndian)
            )
            found = read_counted(io.BytesIO(tail), implicit, not big)
    except PARSER_ERRORS as err:
        raise ImageReadError("what follows the pixels of the data set is no element") from err
    if caught or not len(found) or min(found.keys()) <= _PIXEL_TAGS[-1]:
        raise ImageReadError("what follows the pixels of the data set is no element")
    _check_end(found, len(tail))


def _check_pixels(stream: DatasetStream, transfer_syntax_uid: str) -> bool:
    """Refuse pixels that are shorter than they say; whether there are any."""
    big = transfer_syntax_uid == ExplicitVRBigEndian
    order = "big" if big else "little"
    head = stream.read(12)
    if len(head) < 8:
        return False
    group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
    if group << 16 | element not in _PIXEL_TAGS:
        return False
    explicit = transfer_syntax_uid != ImplicitVRLittleEndian
    long = explicit and head[4:6] in _LONG_VRS
    place = slice(8, 12) if long else slice(6, 8) if explicit else slice(4, 8)
    begins = stream.tell() - len(head) + place.stop
    length = int.from_bytes(head[place], order)  # type: ignore[arg-type]
    left = stream.size - begins
    # Pixels of floating point are never compressed (PS3.5 A.4).
    _check_packing(length, transfer_syntax_uid, may_be_packed=group << 16 | element == _PIXEL_TAGS[-1])
    if length != UNDEFINED_LENGTH and length > left:
        raise ImageReadError(f"the data set is truncated: its pixels have {length} bytes, {left} are there")
    if length == UNDEFINED_LENGTH:
        stream.seek(begins)
        length = _check_fragments(stream, order) - begins
    _check_tail(stream, begins + length, transfer_syntax_uid)
    return True


def _check_packing(length: int, transfer_syntax_uid: str, *, may_be_packed: bool) -> None:
    """Refuse pixels that are compressed where the transfer syntax says that they are not, or the other way round."""
    if transfer_syntax_uid not in _KNOWN_SYNTAXES:
        return
    packed = may_be_packed and UID(transfer_syntax_uid).is_encapsulated
    if packed != (length == UNDEFINED_LENGTH):
        said = "compressed" if packed else "uncompressed"
        raise ImageReadError(f"its transfer syntax is one of {said} pixels, and its pixels are not")


def _check_fragments(stream: DatasetStream, order: str) -> int:
    """Walk the items of compressed pixels to their delimiter (PS3.5 A.4); where it ends."""
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise ImageReadError("the data set is truncated: its compressed pixels have no end")
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
        length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
        if (group, element) == (0xFFFE, 0xE0DD):
            return stream.tell()
        if (group, element) != (0xFFFE, 0xE000) or length > stream.size - stream.tell():
            raise ImageReadError("the data set is truncated or damaged in its compressed pixels")
        stream.seek(stream.tell() + length)
