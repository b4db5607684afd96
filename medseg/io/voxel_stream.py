"""Voxels in and out as streams: nothing larger than the array itself and one block is ever held.

The array is allocated only after the declared size has been compared with the bytes that are there;
for deflated files with what those bytes can inflate to at most.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.io.limits import open_regular

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]
BLOCK = 1 << 20
# Deflate cannot do better than 1032 : 1 (zlib's technical notes); the rest is slack for tiny files.
_DEFLATE_RATIO, _SLACK = 1032, 1 << 16
_MAX_TRAILING = 64 << 20


class _Inflater(io.RawIOBase):
    """A zlib stream, or gzip members one after another, as a readable file; checks every checksum."""

    def __init__(self, raw: BinaryIO, *, members: bool) -> None:
        self._raw, self._members = raw, members
        self._wbits = zlib.MAX_WBITS | 16 if members else zlib.MAX_WBITS
        self._engine = zlib.decompressobj(self._wbits)
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(buffer):
            if self._engine.eof and not self._begin_member():
                break
            data = self._pending or self._raw.read(BLOCK // 4)
            found = self._inflate(data, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)
            if not data and not self._engine.eof:
                raise EOFError("the compressed data end before their end mark")
        return 0

    def _inflate(self, data: bytes, wanted: int) -> bytes:
        try:
            found = self._engine.decompress(data, wanted)
        except zlib.error as err:
            wrong = "the CRC or length in the file is wrong" if "check" in str(err) else str(err)
            raise zlib.error(f"compressed data are damaged: {wrong}") from err
        self._pending = self._engine.unused_data if self._engine.eof else self._engine.unconsumed_tail
        return found

    def _begin_member(self) -> bool:
        """Whether another gzip member follows; zeros between and after members are padding."""
        if not self._members:
            return False
        self._pending = self._pending.lstrip(b"\0")
        while not self._pending and (data := self._raw.read(BLOCK // 4)):
            self._pending = data.lstrip(b"\0")
        if self._pending:
            self._engine = zlib.decompressobj(self._wbits)
        return bool(self._pending)


@contextlib.contextmanager
def open_voxels(path: Path, encoding: Encoding, *, offset: int = 0) -> Iterator[BinaryIO]:
    """A file from byte `offset` on, decoded; see `foreign.PARSER_ERRORS` for what reading may raise."""
    with open_regular(path) as raw:
        raw.seek(offset)
        if encoding == "raw":
            yield raw
        elif encoding == "bzip2":
            with bz2.BZ2File(raw) as stream:
                yield cast("BinaryIO", stream)
        else:
            yield cast("BinaryIO", _Inflater(raw, members=encoding == "gzip"))


def check_present(path: Path, wanted: int, encoding: Encoding, *, offset: int = 0) -> None:
    """Refuse a file that cannot hold `wanted` bytes of voxels, before they are allocated.

    Parameters
    ----------
    path : Path
    wanted : int
        Bytes that the header asks for, from `offset` on.
    encoding : str
    offset : int, optional
        Where the voxels, or their compressed stream, begin.

    Raises
    ------
    ImageReadError
        Too short; for deflated files too short even at the best possible ratio.
    """
    there = max(os.stat(path).st_size - offset, 0)
    if encoding == "raw" and there < wanted:
        raise ImageReadError(
            f"{path}: the file is truncated: the header asks for {offset + wanted} bytes, "
            f"{offset + there} are there"
        )
    if encoding in ("gzip", "zlib") and there * _DEFLATE_RATIO + _SLACK < wanted:
        raise ImageReadError(
            f"{path}: the file is truncated or its header lies: {there} compressed bytes cannot hold "
            f"the {wanted} bytes that the header asks for"
        )


def skip_bytes(stream: BinaryIO, count: int) -> int:
    """Read and forget; the number of bytes that were there."""
    done = 0
    while done < count and (block := stream.read(min(BLOCK, count - done))):
        done += len(block)
    return done


def fill(stream: BinaryIO, dtype: np.dtype[Any], count: int) -> tuple[NDArray[Any], int]:
    """(count,) array of `dtype` from a stream, and the number of bytes that were there for it."""
    flat = np.empty(count, dtype=dtype)
    target = flat.view(np.uint8).data
    done, wanted = 0, target.nbytes
    while done < wanted:
        got = stream.readinto(target[done : done + BLOCK])  # type: ignore[attr-defined]
        if not got:
            break
        done += got
    return flat, done


def drain(stream: BinaryIO, path: Path, *, expected: int = 0) -> int:
    """Read to the end, so that checksums are verified; the number of bytes that were left.

    Parameters
    ----------
    stream : binary stream
    path : Path
        For the message.
    expected : int, optional
        Bytes that the header accounts for.
    """
    left = 0
    while block := stream.read(BLOCK):
        left += len(block)
        if left > expected + _MAX_TRAILING:
            raise ImageReadError(
                f"{path}: more than {_MAX_TRAILING} bytes follow the voxels; the header is wrong"
            )
    return left


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The same values in this machine's byte order; other orders are turned in place, nothing is copied."""
    if array.dtype.isnative or array.dtype.names is not None:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def voxel_blocks(array: NDArray[Any]) -> Iterator[bytes]:
    """Bytes of an array, first axis fastest, a block of its last axis at a time."""
    if array.ndim == 0 or array.size == 0:
        yield array.tobytes()
        return
    step = max(1, 4 * BLOCK // max(1, array.nbytes // array.shape[-1]))
    for first in range(0, array.shape[-1], step):
        yield array[..., first : first + step].tobytes(order="F")


def write_stream(
    path: Path, parts: Iterator[bytes], *, compressed: bool, level: int = 6, append: bool = False
) -> None:
    """Write blocks of bytes to a file, gzipped without name and time if `compressed`.

    The bytes depend on the content alone, not on how it was cut into blocks or on the clock.
    """
    with path.open("ab" if append else "wb") as raw:
        if not compressed:
            raw.writelines(parts)
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=level, mtime=0) as stream:
            for part in parts:
                stream.write(part)
