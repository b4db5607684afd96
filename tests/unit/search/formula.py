"""A search over a formula, in place of trainings; also imported by processes that tests start."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass, field

from medseg.errors import Interrupted, StorageError
from medseg.search.loop import Search, TrialResult, run_here
from medseg.search.options import SearchOptions
from medseg.search.study import SearchStudy

DIGEST = "d" * 64
SPACE = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "training.loss": {"choices": ["dice_ce", {"use": "tversky", "alpha": 0.3}]},
    "training.batch_size": {"low": 1, "high": 6},
}


def options(**changes):
    given = {
        "trials": 6,
        "pruner": {"use": "median", "startup_trials": 2, "warmup_epochs": 1},
        "space": SPACE,
    }
    return SearchOptions.model_validate({**given, **changes})


def score(job):
    """Best for a learning rate of 1e-2 and the larger batches."""
    distance = abs(math.log10(job.values["training.learning_rate"]) + 2)
    return 1 - 0.2 * distance - 0.01 * (6 - job.values["training.batch_size"])


def formula(job, watch):
    """Four epochs on the way to the score of the values."""
    for epoch in range(1, 5):
        watch(epoch, {"dice": score(job) * epoch / 4})
    return TrialResult(value=score(job), facts={"epoch": 4})


@dataclass
class Listener:
    """Remembers what it was told."""

    said: list[str] = field(default_factory=list)

    def validated(self, number, epoch, value):
        self.said.append(f"{number}.{epoch}")

    def ended(self, row):
        self.said.append(f"{row.number} {row.state}")


def search_in(folder, *, objective=formula, refused=lambda values: None, runner=run_here, **changes):
    """A search in a folder, to its end; its rows."""
    chosen = options(**changes)
    study = SearchStudy(chosen, folder=folder, name="formula", digest=DIGEST)
    try:
        runner(Search(study, chosen, refused=refused, listener=Listener()), objective)
        return study.rows()
    finally:
        study.close()


def counted(folder, job, watch):
    """Writes its process and trial to a file, then the formula."""
    with (folder / "log").open("a") as stream:
        stream.write(f"{os.getpid()} {job.number}\n")
    return formula(job, watch)


def deadly(folder, job, watch):
    """Trial 1 is killed in its second epoch, by the system as it were."""

    def count(epoch, values):
        watch(epoch, values)
        if job.number == 1 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    return counted(folder, job, count)


def full_disk(folder, job, watch):
    """The disk is full in trial 1."""
    if job.number == 1:
        raise StorageError("no space left")
    return formula(job, watch)


def endless(folder, job, watch):
    """Epochs until it is asked to stop, which is then saved."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    (folder / f"ready-{job.number}").touch()
    epoch = 0
    while not asked:
        epoch += 1
        watch(epoch, {"dice": 0.5})
        time.sleep(0.01)
    (folder / f"saved-{job.number}").touch()
    raise Interrupted("stopped")
