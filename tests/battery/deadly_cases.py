"""Settings whose network is not loaded and whose cases end or stop their worker, by their names."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from medseg.errors import InputError
from medseg.pipeline.cohort_settings import CohortSettings


class DeadlySettings(CohortSettings):
    """Case ids that begin with killed or stopped do that to the process; others are refused at once.

    A name that ends in `-once` does it the first time only; `marks` lie beside the output.
    """

    __slots__ = ()

    def load(self, bundle):
        """What stands for the model."""
        return _Model(self.output)


class _Model:
    def __init__(self, output: Path) -> None:
        self.marks = output.parent / "marks"
        self.marks.mkdir(exist_ok=True)

    def segment(self, volume, *, case_id):
        """Do what the name says; a refusal is the outcome of all that live."""
        count = len(list(self.marks.glob(f"{case_id}.*")))
        (self.marks / f"{case_id}.{os.getpid()}").touch()
        if not (case_id.endswith("-once") and count):
            if case_id.startswith("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            elif case_id.startswith("stopped"):
                os.kill(os.getpid(), signal.SIGSTOP)
        raise InputError(f"seen in try {count + 1}")
