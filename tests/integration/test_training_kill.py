"""A training that is killed at ten random moments and goes on ends in the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "unit" / "training" / "killed_run.py"


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "10"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 10
    assert report["hashes"][0] == report["hashes"][1]
    assert report["same_curve"]
    # The kills fell at different moments, not all before the first checkpoint.
    assert len(set(report["states"])) > 3
