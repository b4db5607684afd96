"""One of several training processes, as torchrun starts them. Started as ``ddp_run.py FOLDER WHAT``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "training"))
import tiny
import torch

from medseg.errors import Interrupted, TrainingError
from medseg.training.process_group import Team, process_group
from medseg.training.trainer import Progress

SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 0.02, "freeze": ["encoder"], "freeze_epochs": 1}
trouble = time.monotonic()


def act(what: str, rank: int) -> tuple[object, object]:
    """Loss and progress of this process: what goes wrong, and where."""

    class Broken(tiny.CrossEntropy):
        calls = 0

        def forward(self, logits: object, label: torch.Tensor) -> torch.Tensor:
            global trouble
            Broken.calls += 1
            if Broken.calls == 2:
                trouble = time.monotonic()
            if rank == 1 and Broken.calls == 2:
                if what == "raise":
                    raise RuntimeError("the cable is out")
                if what in ("kill", "stop"):
                    os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
                if what == "nan":
                    return super().forward(logits, label) * float("nan")
            return super().forward(logits, label)

    def progress(state: Progress) -> None:
        # Only the first process reports; the others must hear of it.
        if what == "interrupt" and state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    return Broken(), progress


def wait(what: str, team: Team) -> None:
    """One process dies while the other does something long, or waits for what comes next."""
    global trouble
    trouble = time.monotonic()
    if team.rank == (1 if what == "idle-last-dies" else 0):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    if team.rank == 0:
        time.sleep(60)
    team.receive()


def main() -> None:
    torch.set_num_threads(1)
    folder, what = Path(sys.argv[1]), sys.argv[2]
    try:
        with process_group() as processes:
            if what.startswith("idle"):
                wait(what, processes)
            loss, progress = act(what, processes.rank)
            network = tiny.build_network(dropout=0.0, batch_norm=False, seed=processes.rank)
            if processes.world_size == 1:
                network = tiny.build_network(dropout=0.0, batch_norm=False, seed=0)
            result = tiny.run(
                folder,
                network=network,
                loss=loss,
                progress=progress,
                loader_rank=processes.rank,
                loader_world_size=processes.world_size,
                **SETTINGS,
            )
            outcome = {"epochs": result.epochs_run, "loss": [row["loss"] for row in result.history]}
            outcome["head"] = network.state_dict()["head.bias"].tolist()
            outcome["encoder"] = network.state_dict()["encoder.0.weight"].flatten().tolist()
    except (TrainingError, Interrupted, RuntimeError) as err:
        outcome = {"error": type(err).__name__, "text": str(err)}
    sys.stdout.write(json.dumps({**outcome, "seconds": time.monotonic() - trouble}) + "\n")


if __name__ == "__main__":
    main()
