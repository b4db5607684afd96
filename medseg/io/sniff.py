"""What a file is, from its first bytes. The name counts for nothing."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Literal

from medseg.errors import ImageReadError, StorageError
from medseg.io.limits import open_regular, reason_of

Kind = Literal["dicom", "nifti", "nrrd", "metaimage", "vtk", "itk_hdf5", "png", "jpeg", "tiff", "bmp"]
ITK: frozenset[Kind] = frozenset({"nrrd", "metaimage", "vtk", "itk_hdf5"})
PICTURES: frozenset[Kind] = frozenset({"png", "jpeg", "tiff", "bmp"})
EXPECTED = "expected DICOM, NIfTI (.nii, .nii.gz, .hdr), NRRD, MetaImage, MINC, VTK, PNG, JPEG, TIFF or BMP"

_HEAD = 4096
_NAMES: dict[Kind, str] = {
    "dicom": "DICOM",
    "nifti": "NIfTI",
    "nrrd": "an NRRD image",
    "metaimage": "a MetaImage header",
    "vtk": "a VTK file",
    "itk_hdf5": "an HDF5 file",
    "png": "a PNG picture",
    "jpeg": "a JPEG picture",
    "tiff": "a TIFF picture",
    "bmp": "a BMP picture",
}
EXPLICIT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US "
    b"UT UV".split()
)
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a rar archive: unpack it first"),
    (b"\x1f\x8b", "a gzip file that holds no NIfTI image"),
    (b"%PDF", "a PDF document"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a RIFF file (WebP, AVI or WAV)"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"MZ", "a program"),
    (b"\x7fELF", "a program"),
)


def read_head(path: Path) -> bytes:
    """The first 4096 bytes of a regular file."""
    with open_regular(path) as stream:
        try:
            return stream.read(_HEAD)
        except OSError as err:
            raise StorageError(f"{path} cannot be read: {reason_of(err)}") from err


def sniff(path: Path) -> Kind:
    """Kind of image in a file.

    Raises
    ------
    ImageReadError
        The content is none of the supported kinds; the message says what it looks like.
    StorageError
        The file may not be read.
    """
    head = read_head(path)
    kind = kind_of(head) or _kind_of_pair(path)
    if kind is None:
        raise ImageReadError(f"{path}: {EXPECTED}, found {describe(head)}")
    return kind


def kind_of(head: bytes) -> Kind | None:
    """Kind of image that begins with `head`, or None. A DICOM preamble may look like a TIFF: DICM wins."""
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "tiff"
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "bmp"
    if re.match(rb"NRRD000[1-5]\r?\n", head):
        return "nrrd"
    if re.match(rb"(Comment|ObjectType|ObjectSubType|NDims)\s*=", head):
        return "metaimage"
    if head.startswith(b"# vtk DataFile"):
        return "vtk"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "itk_hdf5"
    if is_nifti(inflate_head(head) if head.startswith(b"\x1f\x8b") else head):
        return "nifti"
    return "dicom" if looks_like_dataset(head) else None


def inflate_head(head: bytes) -> bytes:
    """What the beginning of a gzip file inflates to, at most 4096 bytes; empty where it does not."""
    try:
        return zlib.decompressobj(31).decompress(head, _HEAD)
    except zlib.error:
        return b""


def is_nifti(head: bytes) -> bool:
    """Whether a header of NIfTI-1, NIfTI-2 or Analyze 7.5, single file or pair, begins here."""
    if is_analyze(head):
        return True
    one = head[344:348] in (b"n+1\0", b"ni1\0") and head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
    two = head[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
    return one or two


def is_analyze(head: bytes) -> bool:
    """Whether this is the header of an Analyze 7.5 pair, which has no magic number but marks that agree."""
    if len(head) != 348 or head[344:347] in (b"ni1", b"n+1"):
        return False
    little = head[:4] == b"\x5c\x01\0\0"
    axes = int.from_bytes(head[40:42], "little" if little else "big")
    return (little or head[:4] == b"\0\0\x01\x5c") and 1 <= axes <= 7


def _kind_of_pair(path: Path) -> Kind | None:
    """Kind of a voxel file whose header lies beside it: `a.img` and `a.hdr`."""
    header = header_beside(path)
    return None if header is None else kind_of(read_head(header))


def header_beside(path: Path) -> Path | None:
    """The `.hdr` of an `.img` file, or None where this is no such file or there is none."""
    name = path.name.removesuffix(".gz")
    if not name.lower().endswith(".img"):
        return None
    stem, capital = name[:-4], name.endswith(".IMG")
    names = [stem + (".HDR" if capital else ".hdr") + ending for ending in ("", ".gz")]
    return next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)


def looks_like_dataset(head: bytes) -> bool:
    """Whether these bytes begin a DICOM data set that lacks preamble and prefix.

    The first element must be of group 0002 or 0008 with a low element number, and either a known
    value representation or a length that such an element may have.
    """
    if len(head) < 16:
        return False
    for order in ("little", "big"):
        group = int.from_bytes(head[0:2], order)
        element = int.from_bytes(head[2:4], order)
        if group not in (0x0002, 0x0008) or element > 0x0100:
            continue
        if head[4:6] in EXPLICIT_VRS:
            return True
        length = int.from_bytes(head[4:8], order)
        if order == "little" and length % 2 == 0 and length <= 1024:
            return True
    return False


_NOTHING = ("an empty file", "only zero bytes", "unknown content")


def is_something(head: bytes) -> bool:
    """Whether content is of a kind that we know by its looks; what is left may be damage."""
    return describe(head) not in _NOTHING


def describe(head: bytes) -> str:
    """What content looks like, in a few words."""
    if not head:
        return "an empty file"
    kind = kind_of(head)
    if kind is not None:
        return _NAMES[kind]
    for magic, words in _OTHERS:
        if head.startswith(magic):
            return words
    if not head.strip(b"\0"):
        return "only zero bytes"
    if re.match(rb"\s*<(!doctype|html|\?xml|svg)", head, re.IGNORECASE):
        return "HTML, XML or SVG text"
    if head[:1] in b"{[" and b'"' in head[:200]:
        return "JSON text"
    printable = sum(byte in b"\t\n\r" or 32 <= byte < 127 or byte >= 128 for byte in head)
    return "text" if printable == len(head) else "unknown content"
