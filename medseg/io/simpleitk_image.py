"""MINC 2 and ITK's HDF5, which SimpleITK reads for us in a child process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import ImageReadError
from medseg.io.limits import ReadLimits

_CHILD = Path(__file__).with_name("simpleitk_child.py")
# HDF5ImageIO first: MINC's library prints when a file is not its own.
_READERS = ("HDF5ImageIO", "MINCImageIO")
_SECONDS, _BYTES_PER_SECOND = 20.0, 10e6


@contextmanager
def as_nrrd(path: Path, limits: ReadLimits) -> Iterator[Path]:
    """The image of a file as a temporary NRRD file, which `nrrd_header` reads.

    Raises
    ------
    ImageReadError
        No image, a damaged or too large one, or one that SimpleITK cannot finish with in time.
    """
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
        target = Path(folder) / "image.nrrd"
        _convert(path, target, limits)
        yield target


def _convert(path: Path, target: Path, limits: ReadLimits) -> None:
    seconds = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    command = [sys.executable, "-P", str(_CHILD), str(path.resolve()), str(target), str(limits.max_voxels)]
    try:
        done = subprocess.run(
            [*command, *_READERS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise ImageReadError(f"{path}: SimpleITK did not finish with this file in {seconds:.0f} s") from err
    if done.returncode != 0 or not target.is_file():
        words = done.stdout.decode("utf-8", "replace").strip().splitlines()
        reason = words[-1] if words else f"it ended with status {done.returncode}"
        raise ImageReadError(f"{path}: SimpleITK finds no image that can be read: {reason}")
