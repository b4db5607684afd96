"""`medseg run` in two processes: the weights of one, one run folder, one end with one reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_volumes
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

# Adam divides by the size of the gradient and so makes rounding grow; this optimiser does not.
PLAIN = ["training.optimiser={use: sgd, momentum: 0.9}", "training.ema=null"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return tiny_volumes.write(tmp_path_factory.mktemp("tiny") / "data")


def start(
    pipeline: Path, output: Path, *settings: str, before: tuple[str, ...] = (), after=()
) -> subprocess.Popen:
    sets = [part for setting in settings for part in ("--set", setting)]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", *before, "medseg", "run", str(pipeline), "-o", str(output)),
            *sets,
            *after,
            "--json",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, *, code: int = 0) -> tuple[dict, str]:
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == code, err
    return json.loads(out), err


def weights(result: dict) -> dict[str, torch.Tensor]:
    return load_file(Path(result["run"]) / "training" / "final.safetensors")


def ranks(launcher: int) -> dict[int, int]:
    """Process number by rank of the children of a launcher."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        names = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found |= {int(name.removeprefix("RANK=")): int(child) for name in names if name.startswith("RANK=")}
    return found


def wait_for(folder: Path, pattern: str) -> None:
    end = time.monotonic() + 120
    while not any(folder.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {folder}"
        time.sleep(0.02)


def test_two_processes_of_torchrun_end_in_the_weights_of_one(pipeline, tmp_path):
    alone, _ = finish(start(pipeline, tmp_path / "one", *PLAIN))
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    both, said = finish(start(pipeline, tmp_path / "two", *PLAIN, before=torchrun))
    expected, found = weights(alone), weights(both)
    assert expected.keys() == found.keys()
    largest = max(float((expected[name] - found[name]).abs().max()) for name in expected)
    sys.stdout.write(f"largest difference of a weight between one process and two: {largest:.2g}\n")
    assert largest < 1e-5
    assert len(list((tmp_path / "two" / "tiny").iterdir())) == 1
    assert said.count("✓ train") == 1
    rows = [json.loads((Path(r["run"]) / "run.json").read_text())["stages"]["train"] for r in (alone, both)]
    assert rows[1]["summary"]["best_metric"] == pytest.approx(rows[0]["summary"]["best_metric"], abs=1e-6)


def test_a_killed_process_ends_both_with_the_reason_and_the_run_goes_on(pipeline, tmp_path):
    two = {"after": ("--processes", "2")}
    long = ("training.epochs=24",)
    whole, _ = finish(start(pipeline, tmp_path / "whole", *long, **two))
    cut = start(pipeline, tmp_path / "cut", *long, **two)
    wait_for(tmp_path / "cut", "tiny/*/training/state-00000002?-*.pt")
    begin = time.monotonic()
    os.kill(ranks(cut.pid)[1], signal.SIGKILL)
    _, err = cut.communicate(timeout=60)
    sys.stdout.write(
        f"ended {time.monotonic() - begin:.1f} s after the kill: {err.strip().splitlines()[-1]}\n"
    )
    assert time.monotonic() - begin < 30
    assert cut.returncode == 1
    assert "training process 1 of 2 was ended by SIGKILL" in err
    assert "Traceback" not in err
    again, _ = finish(start(pipeline, tmp_path / "cut", *long, **two))
    assert again["run"].startswith(str(tmp_path / "cut"))
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_an_error_of_the_first_process_ends_both_with_its_sentence_and_code(pipeline, tmp_path):
    failed = start(pipeline, tmp_path, "training.freeze=[nothing]", after=("--processes", "2"))
    _, err = failed.communicate(timeout=120)
    assert failed.returncode == 2, err
    assert "no part of the network is named 'nothing'" in err
    assert "Traceback" not in err


def test_a_bad_list_of_cases_is_told_before_any_training(pipeline, tmp_path):
    bad = tiny_volumes.write(tmp_path / "data")
    for path in bad.parent.glob("*_mask.nii"):
        path.write_bytes(b"")
    failed = start(bad, tmp_path / "runs", after=("--processes", "2"))
    _, err = failed.communicate(timeout=120)
    assert failed.returncode == 2, err
    # The other process is ended by the launcher, perhaps before it can repeat the reason.
    assert "none of the 8 cases can be used" in err
