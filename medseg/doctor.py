"""`medseg doctor`: what on this machine would get in the way, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal, get_args

from medseg import __version__
from medseg.inference.engine_packages import lacking
from medseg.inference.options import EngineName

_NEEDED = ("torch", "monai", "nibabel", "SimpleITK", "pydicom", "highdicom", "scipy", "safetensors")
_CODECS = {
    "imagecodecs": ("JPEG, JPEG-LS, JPEG 2000 and RLE read", "pip install imagecodecs"),
    "jpeg_ls": ("JPEG-LS written", "pip install pyjpegls"),
}
_LEAST_MEMORY_GB = 4.0
_LEAST_DISK_GB = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the examination."""

    level: Literal["ok", "note", "error"]
    text: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at packages, codecs, memory and disk; imports none of the heavy packages."""
    return [_versions(), *_packages(), _codecs(), _engines(), _memory(), _disk(), _shared_memory()]


def _versions() -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding(level="ok", text=f"medseg {__version__}, Python {sys.version.split()[0]}, {cores} cores")


def _packages() -> list[Finding]:
    found, missing = [], []
    for name in _NEEDED:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    lines = [Finding(level="ok", text=", ".join(found))] if found else []
    if missing:
        lines.append(
            Finding(level="error", text=f"missing: {', '.join(missing)}; run pip install medseg again")
        )
    return lines


def _codecs() -> Finding:
    have = {name: util.find_spec(name) is not None for name in _CODECS}
    names = [text for name, (text, _) in _CODECS.items() if have[name]]
    lacking = [f"{text} ({fix})" for name, (text, fix) in _CODECS.items() if not have[name]]
    if lacking:
        return Finding(level="note", text=f"DICOM codecs: {', '.join(names)}; without {'; '.join(lacking)}")
    return Finding(level="ok", text=f"DICOM codecs: {', '.join(names)}")


def _engines() -> Finding:
    names: tuple[EngineName, ...] = get_args(EngineName)
    without = [text for name in names if (text := lacking(name)) is not None]
    have = ", ".join(name for name in names if lacking(name) is None)
    return Finding(level="ok", text=f"engines: {have}" + (f"; {'; '.join(without)}" if without else ""))


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if total < _LEAST_MEMORY_GB:
        return Finding(
            level="note", text=f"memory {total:.1f} GB: little for training; lower training.batch_size"
        )
    return Finding(level="ok", text=f"memory {total:.1f} GB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < _LEAST_DISK_GB:
        return Finding(
            level="error", text=f"disk {free:.1f} GB free here; free space or use --output elsewhere"
        )
    return Finding(level="ok", text=f"disk {free:.1f} GB free")


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(level="note", text="no /dev/shm; loader processes pass samples through pipes")
    return Finding(level="ok", text=f"/dev/shm {shutil.disk_usage(path).free / 1e6:.0f} MB free")
