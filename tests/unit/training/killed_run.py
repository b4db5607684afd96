"""Train in child processes that are killed at random moments; print what came out.

Started as ``killed_run.py FOLDER KILLS``. It forks its children after the imports, with one compute
thread, so that a kill costs milliseconds and not another import of torch.
"""

from __future__ import annotations

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

SETTINGS = {"epochs": 4, "checkpoint_every_steps": 2}


def attempt(folder: Path) -> int:
    """Process number of a child that trains in `folder`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        tiny.run(folder, **SETTINGS)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def finish(folder: Path) -> float:
    """Seconds of a run that is left alone."""
    start = time.monotonic()
    _, status = os.waitpid(attempt(folder), 0)
    if status:
        sys.exit(f"the training failed with status {status}")
    return time.monotonic() - start


def main() -> None:
    torch.set_num_threads(1)
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    random.seed(kills)
    whole_s = finish(folder / "whole")
    done = 0
    states = []
    while done < kills:
        pid = attempt(folder / "killed")
        time.sleep(random.uniform(0.05, 0.5) * whole_s)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
        done += 1
        states.append(max((p.name for p in (folder / "killed").glob("state-*.pt")), default=""))
    finish(folder / "killed")
    hashes = [sha256_file(folder / name / "final.safetensors") for name in ("whole", "killed")]
    curves = [
        [line.rsplit(",", 1)[0] for line in (folder / name / "metrics.csv").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    report = {"kills": done, "hashes": hashes, "same_curve": curves[0] == curves[1], "states": states}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
