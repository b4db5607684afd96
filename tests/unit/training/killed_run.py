"""Train in child processes that are killed at random moments; print what came out.

Started as ``killed_run.py FOLDER KILLS``. It forks its children after the imports, with one compute
thread, so that a kill costs milliseconds and not another import of torch.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import tiny
import torch

from medseg.provenance import sha256_file


def attempt(folder: Path, epochs: int) -> tuple[int, int]:
    """A child that trains in `folder`, and a pipe in which it writes a byte at each report."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        tiny.run(
            folder,
            epochs=epochs,
            checkpoint_every_steps=2,
            progress=lambda _: os.write(writing, b".") and None,
        )
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def finish(folder: Path, epochs: int) -> None:
    """A run that is left alone."""
    pid, reading = attempt(folder, epochs)
    _, status = os.waitpid(pid, 0)
    os.close(reading)
    if status:
        sys.exit(f"the training failed with status {status}")


def kill(folder: Path, epochs: int) -> bool:
    """A run that is killed after up to three reports and a moment; whether it was still running."""
    pid, reading = attempt(folder, epochs)
    for _ in range(random.randint(0, 3)):
        os.read(reading, 1)
    time.sleep(random.uniform(0, 0.03))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(reading)
    return os.WIFSIGNALED(status)


def main() -> None:
    torch.set_num_threads(1)
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    random.seed(kills)
    epochs = kills + 2
    finish(folder / "whole", epochs)
    done = 0
    states = []
    while done < kills and kill(folder / "killed", epochs):
        done += 1
        states.append(max((p.name[:15] for p in (folder / "killed").glob("state-*.pt")), default=""))
    finish(folder / "killed", epochs)
    hashes = [sha256_file(folder / name / "final.safetensors") for name in ("whole", "killed")]
    curves = [
        [tiny.without_clock(row) for row in csv.DictReader((folder / name / "metrics.csv").open(newline=""))]
        for name in ("whole", "killed")
    ]
    report = {"kills": done, "hashes": hashes, "same_curve": curves[0] == curves[1], "states": states}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
