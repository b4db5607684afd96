"""Loss and metric curves: metrics.csv, metrics.jsonl and, where asked for, TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import MissingPackageError
from medseg.provenance import write_text

Row = Mapping[str, float | int | None]


def write_curves(folder: Path, rows: Sequence[Row]) -> None:
    """Write metrics.csv and metrics.jsonl, one row per epoch.

    Both are written whole from the history in the checkpoint, so that a continued run has one curve
    without gaps or repeats. Values that are not finite are empty in the table and null in the lines.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    plain = [{name: _finite(row.get(name)) for name in columns if name in row} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(plain)
    write_text(folder / "metrics.csv", text.getvalue())
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in plain))


def _finite(value: float | int | None) -> float | int | None:
    return value if value is not None and math.isfinite(value) else None


def require_tensorboard() -> None:
    """Check, before the training starts, that TensorBoard curves can be written.

    Raises
    ------
    MissingPackageError
        The package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingPackageError(
            "training.tensorboard: the package is not installed; pip install 'medseg[tensorboard]', "
            "or set training.tensorboard: false"
        )


class TensorboardCurves:
    """TensorBoard events of one run; earlier events of the run are written again from its history."""

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        target = folder / "tensorboard"
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer: Any = SummaryWriter(log_dir=str(target))
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """One epoch."""
        for name, value in row.items():
            if name != "epoch" and value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, global_step=row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
