"""Folds in processes of their own, and a cross-validation that is killed at any moment: the same hash."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cohort_files import write_cohort

from medseg.models.bundle import read_bundle

pytestmark = pytest.mark.slow


def command(pipeline: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "medseg", "train", str(pipeline), "--output", str(output), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def trained(pipeline: Path, output: Path, *more: str) -> Path:
    words = command(pipeline, output)
    words[3:4] = ["run"] if more else ["train"]
    done = subprocess.run(
        [*words, "--json", *more], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    path = write_cohort(tmp_path_factory.mktemp("cohort"))
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 12"))
    return path


@pytest.fixture(scope="module")
def expected(cohort, tmp_path_factory) -> str:
    return read_bundle(trained(cohort, tmp_path_factory.mktemp("whole")) / "model").weights_sha256


def test_folds_side_by_side_end_in_the_hash_of_folds_in_sequence(cohort, expected, tmp_path):
    folder = trained(cohort, tmp_path, "--parallel-folds", "2")
    assert read_bundle(folder / "model").weights_sha256 == expected


@pytest.mark.parametrize("parallel", [False, True])
def test_kills_at_random_moments_change_nothing(cohort, expected, tmp_path, parallel):
    more = ("--parallel-folds", "2") if parallel else ()
    words = command(cohort, tmp_path, *more)
    words[3] = "run" if parallel else "train"
    rng = random.Random(4)
    for _ in range(3):
        process = subprocess.Popen(
            words, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(3, 9))
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Folds whose parent is gone save their state and end; until then they hold their locks.
        time.sleep(3 if parallel else 0)
    folder = trained(cohort, tmp_path, *more)
    assert read_bundle(folder / "model").weights_sha256 == expected


def test_a_fold_whose_process_is_killed_is_named_and_the_others_finish(cohort, tmp_path):
    words = command(cohort, tmp_path, "--parallel-folds", "2")
    words[3] = "run"
    process = subprocess.Popen(
        words, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    victim = None
    for _ in range(600):
        held = list(tmp_path.glob("tiny/*/folds/1/.lock"))
        if held and (text := held[0].read_text()):
            victim = int(text.split()[1])
            break
        time.sleep(0.05)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "fold 1: its process was ended by SIGKILL" in said
    assert "used again: 0, 2;" in said
