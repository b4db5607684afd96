"""`medseg bench metrics`: Dice, HD95 and NSD of ten labels, medseg and its peers side by side in one run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np

from medseg.bench.io import Measured
from medseg.bench.metrics_tasks import LABELS, SHAPE, TOLERANCE_MM, TOOLS

#: Factors over the peers, and memory above the two label maps, that should be reached.
FACTORS = {"MONAI": 10.0, "surface-distance": 3.0}
MEMORY_MB = 1000.0
_LONGEST_S = 900


def measure_metrics(*, repeats: int, scale: float = 1.0) -> list[Measured]:
    """Every tool in turn, `repeats` times, each in a process of its own.

    Parameters
    ----------
    repeats : int
    scale : float, optional
        Of the size of the label maps; less than 1 for tests.
    """
    tools = [Measured(name) for name in TOOLS]
    for _ in range(repeats):
        for tool in tools:
            tool.add(_child(tool.name, scale))
    return tools


def _child(tool: str, scale: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "medseg.bench.metrics_tasks", tool, json.dumps({"scale": scale})]
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


def to_rows(tools: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each tool as a row for machines."""
    return [
        {"tool": t.name, "failed": t.failed or "no figure"}
        if t.failed or not t.seconds
        else {
            "tool": t.name,
            "seconds": median(t.seconds),
            "low": min(t.seconds),
            "high": max(t.seconds),
            "cpu_seconds": median(t.cpu),
            "peak_mb": median(t.peak_mb) if t.peak_mb else None,
            "count": len(t.seconds),
            "values": json.loads(sorted(t.checks)[0]),
        }
        for t in tools
    ]


def to_lines(tools: Sequence[Measured]) -> Iterator[str]:
    """The table to print, with the ratios and whether each target is reached."""
    rows = {row["tool"]: row for row in to_rows(tools)}
    size = " x ".join(map(str, SHAPE))
    yield f"Dice, HD95 and NSD at {TOLERANCE_MM:g} mm of {LABELS} labels, {size}; in process, imports not counted"
    yield f"{'':<20} {'seconds':>9} {'low':>7} {'high':>7} {'CPU s':>7} {'peak MB':>8}  this / medseg"
    ours = rows["medseg"]
    for name, row in rows.items():
        if "failed" in row:
            yield f"  {name:<18} {row['failed']}"
            continue
        peak = "?" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        ratio = f"{row['seconds'] / ours['seconds']:6.2f} x" if "seconds" in ours else ""
        yield (
            f"  {name:<18} {row['seconds']:9.3f} {row['low']:7.3f} {row['high']:7.3f} {row['cpu_seconds']:7.2f} "
            f"{peak:>8}  {ratio}"
        )
    if "seconds" in ours:
        yield from _targets(rows, ours)


def _targets(rows: dict[str, dict[str, Any]], ours: dict[str, Any]) -> Iterator[str]:
    for name, factor in FACTORS.items():
        if "seconds" not in rows[name]:
            yield f"  target: {factor:g} x faster than {name}: no figure"
            continue
        found = rows[name]["seconds"] / ours["seconds"]
        yield f"  target: {factor:g} x faster than {name}: {found:.1f} x, {_verdict(found >= factor)}"
    if ours["peak_mb"] is not None:
        peak = ours["peak_mb"]
        yield (
            f"  target: peak at most {MEMORY_MB:.0f} MB above the label maps: {peak:.0f} MB, "
            f"{_verdict(peak <= MEMORY_MB)}"
        )
    if "values" in rows["MONAI"]:
        gaps = np.abs(np.array(ours["values"]) - np.array(rows["MONAI"]["values"]))
        worst = gaps.max(axis=0).tolist()
        yield "  largest difference from MONAI: Dice {:.1e}, HD95 {:.1e} mm, NSD {:.1e}".format(*worst)


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"
