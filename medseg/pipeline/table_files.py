"""The tables of a run as files beside its page: CSV, JSON and, where asked for, Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.data.parquet import require_parquet, write_parquet
from medseg.data.tables import write_csv
from medseg.provenance import write_json
from medseg.report.options import TableFormat
from medseg.report.run_tables import Row

PLACE = "tables/"


def require_formats(formats: Sequence[TableFormat]) -> None:
    """Refuse formats whose package is not installed.

    Raises
    ------
    MissingPackageError
        Parquet without pyarrow.
    """
    if "parquet" in formats:
        require_parquet()


def write_run_tables(
    folder: Path,
    tables: Mapping[str, Sequence[Row]],
    formats: Sequence[TableFormat],
    *,
    place: str = PLACE,
) -> dict[str, tuple[str, ...]]:
    """Write every table in every format; tables of an earlier time that are none any more go.

    Parameters
    ----------
    folder : Path
        Of the run.
    tables : mapping
        Name -> rows.
    formats : sequence of str
    place : str
        What stands before the name of a table: a folder, or the beginning of the files' names.

    Returns
    -------
    dict
        Name -> files, relative to the folder.

    Raises
    ------
    MissingPackageError
        Parquet without pyarrow.
    StorageError
        A file cannot be written.
    """
    require_formats(formats)
    files = {name: tuple(f"{place}{name}.{kind}" for kind in formats) for name in tables} if formats else {}
    for name, rows in tables.items():
        for kind in formats:
            _write(folder / f"{place}{name}.{kind}", rows, kind)
    known = {file for names in files.values() for file in names}
    for name in ("cases", "measurements", "flags", "agreement", "targets"):
        for kind in ("csv", "json", "parquet"):
            if f"{place}{name}.{kind}" not in known:
                (folder / f"{place}{name}.{kind}").unlink(missing_ok=True)
    return files


def _write(path: Path, rows: Sequence[Row], kind: TableFormat) -> None:
    if kind == "csv":
        write_csv(path, rows)
    elif kind == "json":
        write_json(path, list(rows))
    else:
        write_parquet(path, rows)
