"""Frames in memory for the tests of the codecs, and mutations of them."""

from __future__ import annotations

import resource
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
from jpeg_ls import encode_array
from pydicom import uid

from medseg.errors import MedsegError
from medseg.io.dicom_encode import encode_frame
from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_frames import FrameSource, map_frames

DEFLATED_FRAME, ENCAPSULATED = "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.1.98"
# Seconds of processor time for one frame: CharLS 2.4 counts to 2^31 in some damaged streams, which takes about five.
_SECONDS, _MEGABYTES = 20, 1500


def form_of(array: np.ndarray, bits: int | None = None, **values: object) -> PixelFormat:
    """Format of one frame of this type and shape, `bits` of it stored."""
    allocated = array.dtype.itemsize * 8
    stored = bits or allocated
    form = PixelFormat(
        keyword="PixelData",
        rows=array.shape[0],
        columns=array.shape[1],
        samples=1 if array.ndim == 2 else array.shape[2],
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1,
        signed=array.dtype.kind == "i",
        photometric="MONOCHROME2" if array.ndim == 2 else "RGB",
    )
    return replace(form, **values)


def sources(
    value: bytes, form: PixelFormat, syntax: str, frames: int = 1, **values: object
) -> list[FrameSource]:
    """All frames of pixel data in memory."""
    common = {
        "path": Path("a.dcm"),
        "transfer_syntax": syntax,
        "offset": 0,
        "length": len(value),
        "data": value,
    }
    return [FrameSource(form=form, frame=n, frames=frames, **(common | values)) for n in range(frames)]


def decode_all(frames: Sequence[FrameSource], **options: int) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Stored values in order, and the notes."""
    found: dict[int, np.ndarray] = {}
    notes = map_frames(frames, lambda index, stored: found.update({index: stored.copy()}), **options)
    return [found[n] for n in range(len(frames))], notes


def items(*frames: Sequence[bytes], table: Sequence[int] | None = None) -> bytes:
    """Encapsulated pixel data of frames, each a sequence of fragments; offsets are made unless given."""
    body, offsets = b"", []
    for fragments in frames:
        offsets.append(len(body))
        for fragment in fragments:
            padded = fragment + b"\0" * (len(fragment) % 2)
            body += b"\xfe\xff\x00\xe0" + struct.pack("<L", len(padded)) + padded
    listed = offsets if table is None else table
    head = b"\xfe\xff\x00\xe0" + struct.pack(f"<{len(listed) + 1}L", 4 * len(listed), *listed)
    return head + body + b"\xfe\xff\xdd\xe0\0\0\0\0"


def picture(rows: int, columns: int, bits: int, *, signed: bool = False, seed: int = 0) -> np.ndarray:
    """Smooth and noisy, uses all the bits."""
    noise = np.random.default_rng(seed).integers(0, max(1 << (bits - 3), 2), (rows, columns))
    row, column = np.mgrid[:rows, :columns]
    values = ((row * 37 + column * 11) * (1 << bits) // 1024 + noise) % (1 << bits)
    values[0, :2] = 0, (1 << bits) - 1
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    return (values - (1 << (bits - 1)) * signed).astype(kind)


def deflated(data: bytes) -> bytes:
    """Raw deflate, of even length."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def encoded(name: str) -> tuple[bytes, PixelFormat, str]:
    """One frame for each codec: (stream, format, transfer syntax)."""
    gray, small = picture(21, 34, 12), picture(21, 34, 8)
    signed = picture(21, 34, 12, signed=True)
    rgb = np.stack([picture(21, 34, 8, seed=n) for n in range(3)], axis=-1)
    jpeg8 = imagecodecs.jpeg8_encode
    made = {
        "rle": lambda: (encode_frame(gray, uid.RLELossless, bits_stored=12), gray, uid.RLELossless),
        "rle_rgb": lambda: (encode_frame(rgb, uid.RLELossless, bits_stored=8), rgb, uid.RLELossless),
        "lossless": lambda: (
            encode_frame(gray, uid.JPEGLosslessSV1, bits_stored=12),
            gray,
            uid.JPEGLosslessSV1,
        ),
        "lossless_rgb": lambda: (encode_frame(rgb, uid.JPEGLossless, bits_stored=8), rgb, uid.JPEGLossless),
        "baseline": lambda: (jpeg8(small, 95), small, uid.JPEGBaseline8Bit),
        "baseline_rgb": lambda: (jpeg8(rgb, 90, subsampling="422"), rgb, uid.JPEGBaseline8Bit),
        "extended": lambda: (jpeg8(gray, 95, bitspersample=12), gray, uid.JPEGExtended12Bit),
        "jpegls": lambda: (bytes(encode_array(gray)), gray, uid.JPEGLSLossless),
        "jpegls_rgb": lambda: (bytes(encode_array(rgb, interleave_mode=1)), rgb, uid.JPEGLSLossless),
        "jpeg2000": lambda: (
            encode_frame(signed, uid.JPEG2000Lossless, bits_stored=12),
            signed,
            uid.JPEG2000,
        ),
        "jpeg2000_rgb": lambda: (encode_frame(rgb, uid.JPEG2000Lossless, bits_stored=8), rgb, uid.JPEG2000),
        "htj2k": lambda: (encode_frame(gray, uid.HTJ2KLossless, bits_stored=16), gray, uid.HTJ2KLossless),
        "htj2k_tiles": lambda: (
            imagecodecs.htj2k_encode(gray, reversible=True, tile=(16, 16)),
            gray,
            uid.HTJ2KLossless,
        ),
        "deflated": lambda: (deflated(gray.tobytes()), gray, DEFLATED_FRAME),
    }
    stream, array, syntax = made[name]()
    photometric = "YBR_FULL_422" if name == "baseline_rgb" else "RGB" if array.ndim == 3 else "MONOCHROME2"
    bits = 8 if array.itemsize == 1 else 16 if name.startswith("htj2k") else 12
    return bytes(stream), form_of(array, bits, photometric=photometric), syntax


CODECS = (
    "rle", "rle_rgb", "lossless", "lossless_rgb", "baseline", "baseline_rgb", "extended", "jpegls", "jpegls_rgb",
    "jpeg2000", "jpeg2000_rgb", "htj2k", "htj2k_tiles", "deflated",
)  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, set bytes, cut, remove, repeat, or put a huge length somewhere; mostly near the start."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        span = len(changed) if rng.random() < 0.5 else min(len(changed), 120)
        at, other = (int(n) for n in rng.integers(0, max(span, 1), 2))
        match rng.integers(6):
            case 0:
                changed[at : at + 1] = bytes([(changed[at : at + 1] or b"\0")[0] ^ 1 << int(rng.integers(8))])
            case 1:
                changed[at : at + 2] = rng.bytes(2)
            case 2:
                del changed[max(at, 1) :]
            case 3:
                del changed[at : at + int(rng.integers(1, 40))]
            case 4:
                changed[at:at] = changed[other : other + int(rng.integers(1, 200))]
            case 5:
                changed[at : at + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")[
                    int(rng.integers(3))
                ]
    return bytes(changed)


def _outcome(frames: Sequence[FrameSource]) -> str:
    """What became of a frame: decoded, or the sentence of the refusal."""
    try:
        (array,), _ = decode_all(frames, threads=1)
    except MedsegError as err:
        text = str(err)
    else:
        assert array.shape[:2] == (frames[0].form.rows, frames[0].form.columns)
        text = "decoded"
    assert "\n" not in text
    return text


def _peak_megabytes() -> int:
    """Of this process alone; ru_maxrss begins with what the process that started it had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:"))


def attack(names: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Decode mutated frames; yields one line per codec. Raises on anything but an array or a `MedsegError`."""
    for name in names:
        stream, form, syntax = encoded(name)
        good, refused, slowest = 0, 0, 0.0
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            frame = mutated(stream, rng)
            whole = items([frame]) if rng.random() < 0.9 else mutated(items([stream]), rng)
            Path(sys.argv[3]).write_text(f"{name} {seed} {number}")
            start = time.process_time()
            outcome = _outcome(sources(whole, form, syntax))
            good, refused = good + (outcome == "decoded"), refused + (outcome != "decoded")
            slowest = max(slowest, time.process_time() - start)
            assert slowest < _SECONDS
        used = _peak_megabytes()
        assert used < _MEGABYTES, f"{name}: {used} MB"
        yield f"{name}: {good} decoded, {refused} refused, slowest {slowest:.3f} s, {used} MB"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    wanted = sys.argv[4].split(",") if len(sys.argv) > 4 else CODECS
    for text in attack(wanted, int(sys.argv[1]), int(sys.argv[2])):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
