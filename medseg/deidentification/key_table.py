"""A table that leads back: original and stand-in of patients, studies, series and instances."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from medseg.errors import ConfigError, StorageError
from medseg.io.limits import reason_of


class KeyTable:
    """A CSV file for its owner alone, written as the run goes on.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ConfigError
        There is such a file.
    StorageError
        It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as err:
            raise ConfigError(f"--key-table: {path} exists; it is not replaced, name another") from err
        except OSError as err:
            raise StorageError(f"--key-table: cannot write {path}: {reason_of(err)}") from err
        self._stream = open(handle, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._stream)
        self._writer.writerow(("kind", "original", "replacement"))
        self._known: set[tuple[str, str, str]] = set()

    def add(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Write what is new; of instances, which are many, all."""
        for row in rows:
            if row[0] == "instance":
                self._writer.writerow(row)
            elif row not in self._known:
                self._known.add(row)
                self._writer.writerow(row)

    def __enter__(self) -> KeyTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
