"""From a DICOM series to its SEG below a ceiling of memory, as the benchmark of it does, smaller."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_ceiling_holds_from_reading_to_the_last_byte_of_the_seg(project: Path, tmp_path: Path) -> None:
    options = ["--classes", "30", "--slices", "120", "--max-ram", "1GB", "--peer-limit", "3GB"]
    command = [sys.executable, project / "benchmarks" / "inference_memory.py", *options]
    done = subprocess.run(
        [*command, "--threads", "1", "--work", str(tmp_path)], capture_output=True, text=True, check=True
    )
    ours, monai = [row for row in done.stdout.splitlines() if row.startswith("  ")]
    assert "  held; SEG of" in ours, done.stdout
    found = re.search(r"Dice ([0-9.]+)", ours)
    assert found is not None
    assert float(found[1]) > 0.85
    # All logits on the grid of the scan are 3.9 GB.
    assert "died after" in monai, done.stdout
