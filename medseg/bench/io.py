"""`medseg bench io`: reading DICOM series and writing SEG, medseg and its peers side by side in one run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import EnvironmentFailure

SYNTAXES = {
    "uncompressed": "1.2.840.10008.1.2.1",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
}
SLICES, TALL_SLICES = 300, 800
ARRAY_MB = 512 * 512 * SLICES * 2 / 1e6
SEGMENTS, MANY_SEGMENTS = 20, 104
_READERS = ("medseg", "medseg, hashed", "SimpleITK", "pydicom", "highdicom")
_LONGEST_S = 900


@dataclass(slots=True)
class Measured:
    """One tool at one job, over all repeats.

    Parameters
    ----------
    name : str
    seconds, cpu : list of float
        Wall and CPU time of each repeat.
    peak_mb : list of float
        Most memory above what the process held before, 10^6 bytes; empty where it is not known.
    process_mb : list of float
        The same, all of the process.
    checks : set of str
        What the results were; one where all agree.
    failed : str
        Why there is no figure; "" where there is one.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    process_mb: list[float] = field(default_factory=list)
    checks: set[str] = field(default_factory=set)
    failed: str = ""

    def add(self, found: Mapping[str, Any]) -> None:
        """Take in what a child process printed."""
        if "missing" in found:
            self.failed = f"not installed ({found['missing']})"
        elif "failed" in found:
            self.failed = str(found["failed"])
        else:
            self.seconds.append(found["seconds"])
            self.cpu.append(found["cpu"])
            self.checks.add(found["check"])
            for name in ("peak_mb", "process_mb"):
                if found.get(name) is not None:
                    getattr(self, name).append(found[name])


@dataclass(frozen=True, slots=True)
class IoFigures:
    """All that was measured: jobs by name, each with its tools."""

    repeats: int
    processors: int
    sizes_mb: dict[str, float]
    reading: dict[str, list[Measured]]
    seg_writing: list[Measured]
    seg_reading: list[Measured]
    many_segments: Measured | None


def measure_io(*, repeats: int, full: bool = False) -> IoFigures:
    """Make the series in a temporary folder, then run every tool `repeats` times, in turns.

    Parameters
    ----------
    repeats : int
    full : bool, optional
        Also 104 segments on 512 x 512 x 800 (half a gigabyte of files, a minute).
    """
    with tempfile.TemporaryDirectory(prefix="medseg-bench-") as name:
        root = Path(name)
        sizes = {syntax: _make_series(root / syntax, uid, SLICES) for syntax, uid in SYNTAXES.items()}
        reading = {syntax: _read_all(root / syntax, repeats) for syntax in SYNTAXES}
        writing, reading_seg = _segmentations(root / "uncompressed", root, repeats)
        for seg in ("medseg", "highdicom"):
            if (root / f"{seg}.dcm").exists():
                sizes[f"SEG {seg}"] = (root / f"{seg}.dcm").stat().st_size / 1e6
        many = _many_segments(root) if full else None
    return IoFigures(repeats, _processors(), sizes, reading, writing, reading_seg, many)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_series(folder: Path, transfer_syntax: str, slices: int) -> float:
    """Write one series; the folder's size in 10^6 bytes."""
    found = _child("make", {"folder": str(folder), "transfer_syntax": transfer_syntax, "slices": slices})
    if "seconds" not in found:
        raise EnvironmentFailure(f"the series to read cannot be written: {found}; look at disk and memory")
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def _child(task: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task in a new process; what it found, or why it could not."""
    command = [sys.executable, "-m", "medseg.bench.io_child", task, json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {_LONGEST_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return {"failed": reason[0][:120]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _read_all(folder: Path, repeats: int) -> list[Measured]:
    """Every reader in turn, so that a slow minute of the machine hits all of them."""
    tools = [Measured(name) for name in _READERS] + [Measured("dcm2niix, whole process")]
    for _ in range(repeats):
        for tool in tools:
            if tool.name.startswith("dcm2niix"):
                tool.add(_dcm2niix(folder))
            else:
                tool.add(_child(f"read {tool.name}", {"folder": str(folder)}))
    return tools


def _dcm2niix(folder: Path) -> dict[str, Any]:
    """The converter to an uncompressed NIfTI; a program, so its start counts as well."""
    program = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
    if program is None:
        return {"missing": "dcm2niix"}
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        command = [program, "-z", "n", "-b", "n", "-w", "1", "-f", "x", "-o", out, str(folder)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        written = len(list(Path(out).glob("*.nii")))
    if process.returncode or written != 1:
        return {"failed": f"status {process.returncode}, {written} files"}
    peak = usage.ru_maxrss * 1024 / 1e6
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mb": peak,
        "process_mb": peak,
        "check": "a file",
    }


def _segmentations(folder: Path, root: Path, repeats: int) -> tuple[list[Measured], list[Measured]]:
    """Write a SEG of 20 segments with each tool, then read medseg's with each."""
    writers: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("medseg", "write SEG medseg", {"path": str(root / "medseg.dcm")}),
        (
            "medseg, label map in C order",
            "write SEG medseg",
            {"path": str(root / "c.dcm"), "contiguous": "columns"},
        ),
        ("highdicom", "write SEG highdicom", {"path": str(root / "highdicom.dcm")}),
    )
    writing = [Measured(name) for name, _, _ in writers]
    reading = [Measured("medseg"), Measured("highdicom"), Measured("highdicom, its own file")]
    for _ in range(repeats):
        for tool, (_, task, arguments) in zip(writing, writers, strict=True):
            tool.add(_child(task, {"folder": str(folder), "segments": SEGMENTS, **arguments}))
        for tool in reading:
            own = "highdicom" if tool.name.endswith("own file") else "medseg"
            arguments = {"path": str(root / f"{own}.dcm"), "folder": str(folder)}
            tool.add(_child(f"read SEG {tool.name.split(',')[0]}", arguments))
    return writing, reading


def _many_segments(root: Path) -> Measured:
    """104 segments on 512 x 512 x 800, once."""
    _make_series(root / "tall", SYNTAXES["uncompressed"], TALL_SLICES)
    measured = Measured("medseg")
    arguments = {"folder": str(root / "tall"), "path": str(root / "many.dcm"), "segments": MANY_SEGMENTS}
    measured.add(_child("write SEG medseg", arguments))
    return measured
