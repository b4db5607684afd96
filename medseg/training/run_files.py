"""The folder of a training: checkpoints, the best weights, the final ones, curves. Process 0 writes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medseg.amounts import bytes_text
from medseg.errors import StorageError
from medseg.training.checkpoint import (
    LoadedCheckpoint,
    load_checkpoint,
    remove_damaged,
    save_checkpoint,
    save_named_weights,
    save_weights,
    weights_intact,
)

_LOG = logging.getLogger(__name__)
FINAL_WEIGHTS = "final.safetensors"
_OWN_FILES = ("state-*.pt", "best-*.safetensors", FINAL_WEIGHTS, "metrics.csv", "metrics.jsonl")


class RunFiles:
    """What a training reads and writes.

    Parameters
    ----------
    folder : Path
    settings : mapping
        JSON values that decide the result; a checkpoint of others is refused.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self._damaged: tuple[str, ...] = ()
        self._previous_best: str | None = None

    def load(self) -> LoadedCheckpoint | None:
        """The newest intact checkpoint whose best weights are there; None where there is no checkpoint."""
        found = load_checkpoint(self.folder, settings=self.settings)
        if found is None:
            return None
        self._damaged = found.skipped
        self._previous_best = found.state["state"]["best_file"]
        if self._previous_best is not None and not weights_intact(self.folder / self._previous_best):
            raise StorageError(
                f"the best weights {self.folder / self._previous_best} are missing or damaged; "
                "remove the state-*.pt files of that folder to train from the start"
            )
        return found

    def save(self, content: Mapping[str, Any], *, update: int, best_file: str | None) -> None:
        """Write a checkpoint, then remove the weight files that none of those kept refers to.

        Raises
        ------
        StorageError
            It cannot be written; the message names the one that is kept.
        """
        try:
            save_checkpoint(self.folder, content, update=update, settings=self.settings)
        except StorageError as err:
            raise StorageError(f"{err}; {self.free_text()}; {self.last_good()}") from err
        remove_damaged(self.folder, self._damaged)
        self._damaged = ()
        for path in self.folder.glob("best-*.safetensors"):
            if path.name not in (best_file, self._previous_best):
                path.unlink(missing_ok=True)
        self._previous_best = best_file

    def save_best(self, state: Mapping[str, Tensor], *, epoch: int) -> str:
        """Write the weights of the best epoch so far; the name of the file."""
        return save_named_weights(self.folder, f"best-{epoch:05d}", state).name

    def save_final(self, state: Mapping[str, Tensor]) -> str:
        """Write the result; its SHA-256."""
        return save_weights(self.folder / FINAL_WEIGHTS, state)

    def last_good(self) -> str:
        """Which checkpoint there is, for messages."""
        newest = max(self.folder.glob("state-*.pt"), default=None)
        return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"

    def free_text(self) -> str:
        """Free space of the disk, for messages."""
        return f"{bytes_text(shutil.disk_usage(self.folder).free)} free"


def clear(folder: Path) -> None:
    """Remove what an earlier training left in the folder."""
    for pattern in _OWN_FILES:
        for path in folder.glob(pattern):
            path.unlink()
