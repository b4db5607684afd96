"""A training that is killed at random moments and goes on ends in the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_volumes

from medseg.provenance import sha256_file

RUNS = Path(__file__).with_name("killed_runs.py")
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twelve_kills_of_a_3d_run_change_nothing(tmp_path):
    pipeline = tiny_volumes.write(tmp_path / "data")
    pipeline.write_text(
        pipeline.read_text().replace("epochs: 4", "epochs: 16").replace("_steps: 1", "_steps: 2")
    )
    seed = int(os.environ.get("MEDSEG_KILL_SEED", "7"))
    done = subprocess.run(
        [sys.executable, str(RUNS), str(pipeline), str(tmp_path), "12", str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for number, (place, state) in enumerate(report["killed"], start=1):
        sys.stdout.write(f"kill {number:2d} at {place:<9} stands at {state}\n")
    whole, again = Path(report["whole"]), Path(report["again"])
    for name in ("training/final.safetensors", "model/model.safetensors"):
        hashes = [sha256_file(run / name) for run in (whole, again)]
        sys.stdout.write(f"seed {seed}, {name}: unbroken {hashes[0]}\n{'after 12 kills':>48} {hashes[1]}\n")
        assert hashes[0] == hashes[1]
    assert len(report["killed"]) == 12
    assert {place for place, _ in report["killed"]} >= {"moment", "prepare", "half", "rename", "validate"}
    curves = [json_lines(run / "training" / "metrics.jsonl") for run in (whole, again)]
    assert curves[0] == curves[1]
    assert not [path for path in again.rglob("*") if ".medseg-part" in path.name]


def json_lines(path: Path) -> list[dict[str, float]]:
    """Rows of a curve without the columns of the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds" and not k.endswith("_s")} for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_weights_do_not_depend_on_the_number_of_loader_workers(tmp_path):
    pipeline = tiny_volumes.write(tmp_path / "data")
    hashes = {}
    for workers in (0, 1, 3):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "medseg", "run", str(pipeline), "-o", str(tmp_path / "runs")),
                *("--json", "--set", f"compute.workers={workers}"),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        hashes[workers] = sha256_file(Path(json.loads(done.stdout)["run"]) / "training" / "final.safetensors")
        sys.stdout.write(f"{workers} loader workers: {hashes[workers]}\n")
    assert len(set(hashes.values())) == 1
