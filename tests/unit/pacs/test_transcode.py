"""What an archive does not take compressed, big endian or deflated arrives with the same values, uncompressed."""

from __future__ import annotations

import io
import zlib

import imagecodecs
import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from medseg.errors import ImageReadError
from medseg.io.dicom_encode import encode_frame
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.sending import Outgoing
from medseg.pacs.transcode import uncompressed
from tests.unit.node.listening import ct_slice
from tests.unit.pacs.archives import DimseArchive, dimse_archive

DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
LOSSLESS = [
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
]


def image(frames: np.ndarray, *, bits_stored: int, colour: str = "MONOCHROME2") -> Dataset:
    """A data set with all but its pixels."""
    made = ct_slice(1)
    made.NumberOfFrames, made.Rows, made.Columns = frames.shape[:3]
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * frames.itemsize, bits_stored, bits_stored - 1
    made.PixelRepresentation = int(frames.dtype.kind == "i")
    made.PhotometricInterpretation, made.SamplesPerPixel = colour, frames.shape[3] if frames.ndim == 4 else 1
    if frames.ndim == 4:
        made.PlanarConfiguration = 0
    return made


def compressed(frames: np.ndarray, syntax: str, **kind) -> Dataset:
    made = image(frames, **kind)
    made.PixelData = encapsulate([stream_of(frame, syntax, kind["bits_stored"]) for frame in frames])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return made


def stream_of(frame: np.ndarray, syntax: str, bits: int) -> bytes:
    if syntax == uid.JPEGLSLossless:
        stream = imagecodecs.jpegls_encode(frame.view(f"u{frame.itemsize}"))
        return stream + b"\0" * (len(stream) % 2)
    return encode_frame(frame, syntax, bits_stored=bits)


def written(data_set: Dataset, **how) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, data_set, enforce_file_format=True, **how)
    return stream.getvalue()


def read_again(data_set: Dataset) -> Dataset:
    return dcmread(io.BytesIO(written(data_set)))


def gray(dtype: str = "<i2", bits: int = 12) -> np.ndarray:
    low = -(1 << (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    return (
        np.random.default_rng(3)
        .integers(low, low + (1 << bits), (3, 5, 7), dtype=np.int64, endpoint=False)
        .astype(dtype)
    )


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize(("dtype", "bits"), [("<i2", 12), ("<u2", 16), ("u1", 8)])
def test_gray_frames_have_the_same_values(syntax: str, dtype: str, bits: int):
    if syntax == uid.JPEGLSLossless and dtype == "<i2":
        bits = 16  # the encoder here has no precision in between
    frames = gray(dtype, bits)
    given = read_again(compressed(frames, syntax, bits_stored=bits))
    identity = given.SOPInstanceUID
    plain = read_again(uncompressed(given))
    assert plain.SOPInstanceUID == identity
    assert plain.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    np.testing.assert_array_equal(plain.pixel_array, frames)


@pytest.mark.parametrize(("syntax", "stated"), [(uid.RLELossless, "RGB"), (uid.JPEG2000Lossless, "YBR_RCT")])
def test_colour_frames_have_the_same_values(syntax: str, stated: str):
    frames = np.random.default_rng(4).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    plain = read_again(uncompressed(compressed(frames, syntax, bits_stored=8, colour=stated)))
    assert (plain.PhotometricInterpretation, plain.PlanarConfiguration) == ("RGB", 0)
    np.testing.assert_array_equal(plain.pixel_array, frames)


def test_single_bits_are_packed_over_the_ends_of_frames():
    frames = np.random.default_rng(5).integers(0, 2, (3, 5, 7)).astype(np.uint8)
    given = image(frames, bits_stored=1)
    given.BitsAllocated = 1
    streams = [np.packbits(frame.ravel(), bitorder="little").tobytes() for frame in frames]
    given.PixelData = encapsulate([deflated(stream) for stream in streams])
    given["PixelData"].VR, given["PixelData"].is_undefined_length = "OB", True
    given.file_meta.TransferSyntaxUID = uid.UID(DEFLATED_FRAME)
    np.testing.assert_array_equal(read_again(uncompressed(given)).pixel_array, frames)


def deflated(plain: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = packer.compress(plain) + packer.flush()
    return stream + b"\0" * (len(stream) % 2)


def test_an_icon_is_decoded_too():
    frames = gray("u1", 8)
    given = compressed(frames, uid.RLELossless, bits_stored=8)
    icon = compressed(frames[:1], uid.RLELossless, bits_stored=8)
    del icon.file_meta
    given.IconImageSequence = [icon]
    (icon,) = read_again(uncompressed(given)).IconImageSequence
    assert icon.PixelData[:35] == frames[0].tobytes()


def big_endian(frames: np.ndarray) -> bytes:
    given = image(frames, bits_stored=12)
    given.PixelData = frames.astype(frames.dtype.newbyteorder(">")).tobytes()
    given["PixelData"].VR = "OW"
    given.add_new(0x00660016, "OF", np.array([1.5, -2.25], dtype=">f4").tobytes())
    given.add_new(0x00281050, "DS", ["40", "400"])
    item = Dataset()
    item.add_new(0x00283006, "OW", np.array([1, 256, 65535], dtype=">u2").tobytes())
    item.add_new(0x00283002, "US", [3, 0, 16])
    given.ModalityLUTSequence = [item]
    given.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    return written(given)


def test_values_of_big_endian_change_places():
    frames = gray()
    plain = read_again(uncompressed(dcmread(io.BytesIO(big_endian(frames)))))
    np.testing.assert_array_equal(plain.pixel_array, frames)
    assert np.frombuffer(plain[0x00660016].value, "<f4").tolist() == [1.5, -2.25]
    (item,) = plain.ModalityLUTSequence
    assert np.frombuffer(item.LUTData, "<u2").tolist() == [1, 256, 65535]
    assert list(item.LUTDescriptor) == [3, 0, 16]
    assert plain.PatientName == "Doe^Jane"


@pytest.mark.parametrize("taken", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize("own", [*LOSSLESS, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian])
def test_an_archive_gets_it_in_what_it_takes(own: str, taken: str):
    frames = gray("<u2")
    if own == uid.ExplicitVRBigEndian:
        content = big_endian(frames)
    elif own == uid.DeflatedExplicitVRLittleEndian:
        given = image(frames, bits_stored=12)
        given.PixelData = frames.tobytes()
        given["PixelData"].VR = "OW"
        given.file_meta.TransferSyntaxUID = own
        content = written(given)
    else:
        content = written(compressed(frames, own, bits_stored=12))
    received = []
    with dimse_archive(lambda event: received.append(event.dataset) or 0, syntaxes=[taken]) as archive:
        assert answer_of(archive, content).state == "sent"
    (got,) = received
    got.file_meta = Dataset()
    got.file_meta.TransferSyntaxUID = taken
    np.testing.assert_array_equal(got.pixel_array, frames)


def answer_of(archive: DimseArchive, content: bytes):
    header = dcmread(io.BytesIO(content), stop_before_pixels=True)
    file = Outgoing(sop_class_uid=header.SOPClassUID, sop_instance_uid=header.SOPInstanceUID, content=content)
    (answer,) = DimseSender(archive.options()).send([file])
    return answer


def test_what_is_compressed_with_loss_is_refused_in_one_sentence():
    given = compressed(gray("u1", 8), uid.RLELossless, bits_stored=8)
    given.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    with dimse_archive() as archive:
        answer = answer_of(archive, written(given))
    assert answer.state == "refused"
    assert "does not take JPEG Baseline (Process 1)" in answer.reason
    assert "is not among the lossless ones" in answer.reason


def test_values_beyond_the_stated_bits_are_not_cut():
    frames = gray("<u2", 16)
    with pytest.raises(ImageReadError, match="need more than the 12 bits"):
        uncompressed(compressed(frames, uid.JPEGLSLossless, bits_stored=12))
    fits = read_again(uncompressed(compressed(frames & 0xFFF, uid.JPEGLSLossless, bits_stored=12)))
    assert (fits.BitsStored, fits.HighBit) == (12, 11)
    np.testing.assert_array_equal(fits.pixel_array, frames & 0xFFF)


def test_bits_above_the_stored_ones_stay():
    frames = gray("<u2", 16)
    plain = uncompressed(compressed(frames, uid.RLELossless, bits_stored=12))
    assert plain.PixelData[: frames.nbytes] == frames.tobytes()


def test_damaged_pixels_are_refused_in_one_sentence():
    given = compressed(gray("u1", 8), uid.JPEG2000Lossless, bits_stored=8)
    given.PixelData = given.PixelData[:40] + bytes(len(given.PixelData) - 40)
    with pytest.raises(ImageReadError, match="the file"):
        uncompressed(given)
