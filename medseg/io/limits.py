"""How much a file may ask for, and the only way the readers open one."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from medseg.errors import ImageReadError, StorageError

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """Sizes above which a file is refused before its voxels are decoded.

    Parameters
    ----------
    max_file_mb : int
        Largest file, in MiB.
    max_inflated_mb : int
        Largest content of a DICOM file whose data set is deflated as a whole, in MiB.
    max_pixels : int
        Largest radiograph or picture: width x height x samples.
    max_voxels : int
        Largest NIfTI volume: product of all axes.
    """

    max_file_mb: int = 2048
    max_inflated_mb: int = 256
    max_pixels: int = 1 << 26
    max_voxels: int = 1 << 28

    @property
    def max_file_bytes(self) -> int:
        """`max_file_mb` in bytes."""
        return self.max_file_mb * _MIB

    def check_pixels(self, path: Path, shape: tuple[int, ...]) -> None:
        """Refuse a radiograph or picture of `shape` (width, height, samples) that is too large."""
        _check_count(path, shape, self.max_pixels, "max_pixels")

    def check_voxels(self, path: Path, shape: tuple[int, ...]) -> None:
        """Refuse a volume of `shape` that is too large."""
        _check_count(path, shape, self.max_voxels, "max_voxels")


DEFAULT_LIMITS = ReadLimits()


def _check_count(path: Path, shape: tuple[int, ...], limit: int, option: str) -> None:
    count = prod(shape)
    if count > limit:
        size = " x ".join(str(n) for n in shape)
        raise ImageReadError(
            f"{path}: the file says its image has {size} = {count} values, the limit is {limit} "
            f"(option {option})"
        )


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe, socket or device is refused and never waited for.

    Raises
    ------
    ImageReadError
        There is no such file, or it is not a regular file.
    StorageError
        The file may not be read, or the disk fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ImageReadError(f"{path}: there is no such file") from err
    except (OSError, ValueError) as err:
        raise StorageError(f"{path} cannot be read: {reason_of(err)}; check its permissions") from err
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ImageReadError(f"{path}: expected a file, found a folder, pipe or device")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def reason_of(err: Exception) -> str:
    """What the operating system says about a failed file access, without the path."""
    return err.strerror.lower() if isinstance(err, OSError) and err.strerror else str(err)


def read_bytes(path: Path, limits: ReadLimits) -> bytes:
    """The whole file, refused where it is larger than `limits.max_file_mb`."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limits.max_file_bytes:
            raise ImageReadError(
                f"{path}: the file has {size / _MIB:.0f} MiB, the limit is {limits.max_file_mb} MiB "
                f"(option max_file_mb)"
            )
        try:
            # That much is reserved before a byte is read.
            return stream.read(size)
        except OSError as err:
            raise StorageError(f"{path} cannot be read: {reason_of(err)}; check the disk") from err
