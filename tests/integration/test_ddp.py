"""Two training processes: the same weights as one, and they end together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("ddp_run.py")

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(folder: Path, what: str, *, processes: int) -> list[subprocess.Popen[str]]:
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
    }
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), what],
            env={**shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


def run(folder: Path, what: str = "", *, processes: int = 2) -> list[dict[str, Any]]:
    started = start(folder, what, processes=processes)
    try:
        return [finish(process) for process in started]
    finally:
        end(started)


def end(started: list[subprocess.Popen[str]]) -> None:
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[dict[str, Any]]:
    """What two processes that nothing disturbs end in."""
    return run(tmp_path_factory.mktemp("two"))


def test_two_processes_with_half_a_batch_each_end_in_the_weights_of_one(whole, tmp_path):
    (alone,) = run(tmp_path / "one", processes=1)
    first, second = whole
    for found in (first, second):
        assert found["epochs"] == 2
        assert found["head"] == pytest.approx(alone["head"], abs=1e-5)
        assert found["encoder"] == pytest.approx(alone["encoder"], abs=1e-5)
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    assert first["head"] == second["head"]


def test_an_interrupt_of_one_process_stops_both_and_both_go_on(whole, tmp_path):
    stopped = run(tmp_path / "cut", "interrupt")
    assert [found["error"] for found in stopped] == ["Interrupted", "Interrupted"]
    assert "stopped by a signal to another process" in stopped[1]["text"]
    again = run(tmp_path / "cut")
    assert [found["head"] for found in again] == [found["head"] for found in whole]


def test_an_error_of_one_process_is_told_by_the_other(tmp_path):
    first, second = run(tmp_path, "raise")
    assert first["error"] == "TrainingError"
    assert "training process 1 of 2 failed: RuntimeError: the cable is out" in first["text"]
    assert second["text"] == "the cable is out"
    assert first["seconds"] < 30


def test_a_loss_that_is_not_finite_in_one_process_stops_both(tmp_path):
    first, second = run(tmp_path, "nan")
    assert "the loss is nan at epoch 1, step 2" in second["text"]
    assert first["error"] == second["error"] == "TrainingError"
    assert first["seconds"] < 30


def test_a_dead_process_ends_the_other_within_the_limit(tmp_path):
    processes = start(tmp_path, "kill", processes=2)
    try:
        first = finish(processes[0])
        assert first["error"] == "TrainingError"
        assert "lost another one, which died without a word or was silent" in first["text"]
        assert first["seconds"] < 30
    finally:
        end(processes)


def test_a_process_that_is_stopped_ends_the_other_within_the_limit(tmp_path):
    processes = start(tmp_path, "stop", processes=2)
    try:
        wait_until_stopped(processes[1].pid)
        begin = time.monotonic()
        # It waits for a gradient that never comes, so that only its watching thread can end it.
        _, err = processes[0].communicate(timeout=60)
        assert processes[0].returncode == 1
        assert "lost process 1, which died without a word or was silent for 18 s" in err
        assert time.monotonic() - begin < 30
    finally:
        end(processes)


@pytest.mark.parametrize(
    ("what", "left", "text"),
    [
        ("idle-last-dies", 0, "lost process 1, which died without a word"),
        ("idle-first-dies", 1, "lost process 0 or the launcher that joined them"),
    ],
)
def test_a_process_that_dies_while_none_is_trained_with_ends_the_other(tmp_path, what, left, text):
    processes = start(tmp_path, what, processes=2)
    try:
        found = finish(processes[left])
        assert found["error"] == "TrainingError"
        assert text in found["text"]
        assert found["seconds"] < 30
    finally:
        end(processes)


def wait_until_stopped(process: int) -> None:
    end_at = time.monotonic() + 60
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end_at
        time.sleep(0.05)
