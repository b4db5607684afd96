"""Run a pipeline in child processes that are killed at random moments; print what came out.

Started as ``killed_runs.py PIPELINE FOLDER KILLS SEED``. It forks its children after the imports, with one
compute thread, so that a kill costs no other import of torch; each child runs the command line of medseg.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import medseg.cli
import medseg.data.cache
import medseg.pipeline.fit
import medseg.pipeline.validation

PLACES = ("moment", "half", "rename", "validate", "moment", "sync", "write", "half", "rename")


def kill_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, function: Callable, *, after: bool = False) -> Callable:
    """The function, ending the process at its call number `number`, before or after it does its work."""
    calls = 0

    def counted(*args: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            kill_now()
        result = function(*args, **named)
        if calls == number:
            kill_now()
        return result

    return counted


def half_written(number: int) -> Callable:
    """`Path.write_bytes` that stops in the middle of the file at its call number `number`."""
    calls, write = 0, Path.write_bytes

    def counted(path: Path, content: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == number:
            write(path, bytes(content)[: len(content) // 2])
            kill_now()
        return write(path, content)

    return counted


def plant(place: str, chance: random.Random) -> None:
    """Make this process end at some call of what the place names."""
    number, after = chance.randint(1, 8), chance.random() < 0.5
    if place == "prepare":
        module = medseg.data.dataset
        module.write_array = at_call(min(number, 6), module.write_array, after=after)
    elif place == "write":
        Path.write_bytes = at_call(number, Path.write_bytes, after=after)  # type: ignore[method-assign]
    elif place == "half":
        Path.write_bytes = half_written(number)  # type: ignore[method-assign]
    elif place == "rename":
        os.replace = at_call(number + 4, os.replace, after=after)
    elif place == "sync":
        os.fsync = at_call(number + 8, os.fsync, after=after)
    elif place == "validate":
        module = medseg.pipeline.validation
        module._case_dice = at_call(number % 4 + 1, module._case_dice, after=after)


def attempt(command: list[str], log: Path, place: str, chance: random.Random) -> int:
    """A child that runs the command; its process number."""
    seed = chance.random()
    pid = os.fork()
    if pid:
        return pid
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    plant(place, random.Random(seed))
    sys.argv = ["medseg", *command]
    try:
        medseg.cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def kill(command: list[str], log: Path, place: str, chance: random.Random, longest_s: float) -> bool:
    """One run that is killed; False where it ended before."""
    delay_s = chance.uniform(0.05, longest_s) if place == "moment" else 60.0
    pid = attempt(command, log, place, chance)
    end = time.monotonic() + delay_s
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def finish(command: list[str]) -> Path:
    """A run of its own that is left alone; its folder."""
    done = subprocess.run(
        [sys.executable, "-m", "medseg", *command, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the run failed: {done.stderr}")
    return Path(json.loads(done.stdout)["run"])


def stands_at(folder: Path) -> str:
    """What the run has reached: its newest checkpoint, or the stage it is in."""
    states = sorted(path.name[:15] for path in folder.glob("tiny/*/training/state-*.pt"))
    return states[-1] if states else "no checkpoint"


def main() -> None:
    torch.set_num_threads(1)
    pipeline, folder, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    begin = time.monotonic()
    whole = finish(["run", pipeline, "-o", str(folder / "whole")])
    longest_s = 2 * (time.monotonic() - begin) / kills
    command = ["run", pipeline, "-o", str(folder / "killed")]
    killed = []
    for number in range(kills):
        place = PLACES[number % len(PLACES)] if number > 1 else "prepare"
        if not kill(command, folder / "log.txt", place, chance, longest_s):
            break
        killed.append([place, stands_at(folder / "killed")])
    report = {"killed": killed, "whole": str(whole), "again": str(finish(command)), "seed": seed}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
