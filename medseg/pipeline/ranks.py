"""A run in several processes: process 0 does all stages, the others train along and end.

They wait until process 0 has checked, planned and prepared, read the same prepared cases, train on
their part of every batch, and wait for the next training until they are dismissed.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from medseg.pipeline.context import Context
from medseg.pipeline.progress import SilentReporter
from medseg.training.process_group import Team, process_group
from medseg.training.records import EndedByFirst

_DISMISSED = b"dismissed"
_team = Team()


@contextlib.contextmanager
def joined() -> Iterator[Team]:
    """The processes of this run, from the environment that torchrun gives them.

    Raises
    ------
    TrainingError
        Another process failed, died or did not come.
    """
    global _team
    with process_group() as team:
        _team = team
        try:
            yield team
        finally:
            _team = Team()


def lead(context: Context, *, folder: Path, resume: bool) -> None:
    """Let the other processes begin with the training that process 0 is about to do."""
    if _team.rank > 0 or _team.world_size == 1:
        return
    # Whoever listens to the run listens to process 0.
    alone: dict[str, Any] = {f.name: None for f in fields(context) if callable(getattr(context, f.name))}
    quiet = replace(context, **{**alone, "reporter": SilentReporter()})
    _team.post(pickle.dumps({"context": quiet, "folder": folder, "resume": resume}))


def dismiss() -> None:
    """Let the other processes end; the rest of the run is for process 0."""
    if _team.rank == 0 and _team.world_size > 1:
        _team.post(_DISMISSED)
        _team.dismiss()


def follow(team: Team, train: Callable[..., object]) -> None:
    """Train whenever process 0 does, until it has dismissed this process.

    Parameters
    ----------
    team : Team
    train : callable (Context, folder, resume)
        What process 0 does when it calls `lead`.
    """
    while (content := team.receive()) != _DISMISSED:
        # Made by process 0 of this run, not by any input.
        asked = pickle.loads(content)
        with contextlib.suppress(EndedByFirst):
            train(asked.pop("context"), **asked)
