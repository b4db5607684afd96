"""Stored values of frames: every codec, cut up in every way, and what damaged frames may do."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from frame_files import CODECS, decode_all, encoded, form_of, items, picture, sources
from jpeg_ls import encode_array
from pydicom import uid
from pydicom.encaps import encapsulate_extended

from medseg.errors import ImageReadError
from medseg.io.dicom_encode import encode_frame
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_format import frame_format, number_of_frames
from medseg.io.dicom_frames import FrameSource
from medseg.io.dicom_header import DicomHeader
from medseg.io.limits import DEFAULT_LIMITS

# Two decoders of a lossy JPEG may differ by one; the hash of a float image is of another type.
NOT_EXACT = {
    "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm",
    "CTImage.dcm_JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm",
    "parametric_map_float.dcm",
    # Its palette lies in elements that the header alone does not hold.
    "OBXXXX1A_rle.dcm",
}
LOSSY = ("baseline", "baseline_rgb", "extended")
EVEN_FRAMES = 3


def frames_of(path: Path) -> list[FrameSource]:
    """All frames of a file."""
    scanned = scan_file(path, DEFAULT_LIMITS)
    header, pixels = DicomHeader(path, (scanned.dataset,)), scanned.pixels
    count = number_of_frames(header)
    assert pixels is not None
    return [
        FrameSource(
            path=path,
            transfer_syntax=str(scanned.dataset.file_meta.TransferSyntaxUID),
            offset=pixels.offset,
            length=pixels.length,
            form=frame_format(header, DEFAULT_LIMITS, keyword=pixels.keyword),
            frame=frame,
            frames=count,
            data=scanned.inflated,
            vr=pixels.vr,
        )
        for frame in range(count)
    ]


def wrong_values(folder: Path, *, most_bytes: int) -> tuple[int, list[str]]:
    """Files that were compared with pixels.csv, and those whose stored values differ."""
    compared, wrong = 0, []
    with (folder / "pixels.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["sha256_int32"]]
    for row in rows:
        path = folder / row["case"] / row["file"]
        if path.stat().st_size > most_bytes or path.name in NOT_EXACT:
            continue
        arrays, _ = decode_all(frames_of(path), threads=1)
        values = np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.stack(arrays), dtype=np.int32)
        compared += 1
        if hashlib.sha256(values.tobytes()).hexdigest()[:16] != row["sha256_int32"]:
            wrong.append(f"{row['case']}/{row['file']}")
    return compared, wrong


def test_stored_values_of_small_files(shared_data):
    compared, wrong = wrong_values(shared_data / "dicom", most_bytes=40_000)
    assert compared > 150
    assert not wrong


@pytest.mark.slow
def test_stored_values_of_every_file(shared_data):
    compared, wrong = wrong_values(shared_data / "dicom", most_bytes=1 << 40)
    assert compared == 523
    assert not wrong


@pytest.mark.parametrize(
    "syntax",
    [uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEG2000Lossless, uid.HTJ2KLossless],
)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, False), (16, True)])
def test_lossless_codecs_give_every_bit_back(syntax, bits, signed):
    frame = picture(21, 34, bits, signed=signed, seed=bits)
    stream = encode_frame(frame, syntax, bits_stored=bits)
    (stored,), notes = decode_all(sources(items([stream]), form_of(frame, bits), syntax))
    np.testing.assert_array_equal(stored, frame)
    assert stored.dtype == frame.dtype
    # OpenJPH is given no precision and takes that of the type.
    assert ["compressed frame has 16" in note for note in notes] == [True] * (
        syntax == uid.HTJ2KLossless and bits == 12
    )


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, False), (16, True)])
def test_jpeg_ls_gives_every_bit_back(bits, signed):
    frame = picture(21, 34, bits, signed=signed, seed=bits)
    kept = frame.view(f"u{frame.itemsize}") & ((1 << bits) - 1)
    (stored,), notes = decode_all(
        sources(items([bytes(encode_array(kept))]), form_of(frame, bits), uid.JPEGLSLossless)
    )
    np.testing.assert_array_equal(stored, frame)
    assert not notes


@pytest.mark.parametrize("name", [name for name in CODECS if name not in LOSSY])
def test_colour_tiles_and_other_streams(name):
    stream, form, syntax = encoded(name)
    (stored,), _ = decode_all(sources(items([stream]), form, syntax))
    (pieces,), _ = decode_all(sources(items([stream[:40], stream[40:42], stream[42:]]), form, syntax))
    expected = picture(21, 34, min(form.bits_stored, 12), signed=form.signed)
    if form.samples == 3:
        expected = np.stack([picture(21, 34, 8, seed=n) for n in range(3)], axis=-1)
    np.testing.assert_array_equal(stored, expected)
    np.testing.assert_array_equal(pieces, expected)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_streams_are_near(name):
    stream, form, syntax = encoded(name)
    (stored,), _ = decode_all(sources(items([stream]), form, syntax))
    assert stored.shape[:2] == (21, 34)
    top = 1 << form.bits_stored
    gray = stored.mean(axis=-1) if stored.ndim == 3 else stored
    layers = [picture(21, 34, form.bits_stored, seed=n) for n in range(3 if stored.ndim == 3 else 1)]
    assert np.abs(gray - np.mean(layers, axis=0)).mean() < 0.05 * top


def several() -> tuple[list[np.ndarray], list[bytes]]:
    frames = [picture(18, 25, 12, seed=n) for n in range(EVEN_FRAMES)]
    return frames, [bytes(encode_array(f)) for f in frames]


@pytest.mark.parametrize("table", ["offsets", "none", "wrong"])
def test_one_fragment_for_each_frame(table):
    frames, streams = several()
    listed = {"offsets": None, "none": [], "wrong": [0, 2, 4]}[table]
    value = items(*([stream] for stream in streams), table=listed)
    found, notes = decode_all(sources(value, form_of(frames[0], 12), uid.JPEGLSLossless, frames=EVEN_FRAMES))
    np.testing.assert_array_equal(found, frames)
    assert [note for note in notes if "offset table does not fit" in note] == list(notes)
    assert bool(notes) == (table == "wrong")


@pytest.mark.parametrize("table", ["offsets", "none"])
def test_several_fragments_for_a_frame(table):
    frames, streams = several()
    cut = [
        [stream[:30], stream[30 : 30 + 2 * n + 2], stream[32 + 2 * n :]] for n, stream in enumerate(streams)
    ]
    value = items(*cut, table=None if table == "offsets" else [])
    form = form_of(frames[0], 12)
    found, _ = decode_all(sources(value, form, uid.JPEGLSLossless, frames=EVEN_FRAMES))
    np.testing.assert_array_equal(found, frames)
    with pytest.raises(ImageReadError, match="4 frames"):
        decode_all(sources(value, form, uid.JPEGLSLossless, frames=EVEN_FRAMES + 1)[:1])


def test_an_extended_offset_table_is_not_needed():
    frames, streams = several()
    value, _, _ = encapsulate_extended(streams)
    found, notes = decode_all(sources(value, form_of(frames[0], 12), uid.JPEGLSLossless, frames=EVEN_FRAMES))
    np.testing.assert_array_equal(found, frames)
    assert not notes


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "there is no offset table item|is truncated"),
        (items([b"\xff\xd8\xff"]), "damaged|truncated|JPEG"),
        (items([b"ab"], [b"cd"])[:-8][:-9], "truncated"),
        (items([b"ab"], table=[0, 0]), "lists 2"),
        (b"\xfe\xff\x00\xe0\3\0\0\0abc" + items([b"ab"])[8:], "truncated"),
    ],
)
def test_damaged_containers_are_refused(value, words):
    form = form_of(picture(18, 25, 12), 12)
    with pytest.raises(ImageReadError, match=words):
        decode_all(sources(value, form, uid.JPEGLSLossless))


def test_a_cut_stream_is_refused_at_once():
    stream = bytes(encode_array(picture(18, 25, 12)))
    with pytest.raises(ImageReadError, match="has no end: the file is truncated"):
        decode_all(sources(items([stream[:200]]), form_of(picture(18, 25, 12), 12), uid.JPEGLSLossless))


def test_a_stream_of_another_size_is_refused():
    stream = bytes(encode_array(picture(18, 26, 12)))
    with pytest.raises(ImageReadError, match="26"):
        decode_all(sources(items([stream]), form_of(picture(18, 25, 12), 12), uid.JPEGLSLossless))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mutated_frames_are_read_or_refused(tmp_path):
    """In a process with little memory, which a crash of a codec ends without ending the tests."""
    last = tmp_path / "last"
    helper = Path(__file__).with_name("frame_files.py")
    done = subprocess.run(
        [sys.executable, str(helper), "150", "3", str(last)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{last.read_text()}: {done.stdout}{done.stderr[-2000:]}"
    assert len(done.stdout.splitlines()) == len(CODECS)
