"""Tables as Parquet, for data frames; needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path

from medseg.errors import MissingPackageError
from medseg.provenance import whole_file

_MISSING = "pyarrow, which writes tables as Parquet, is not installed; pip install 'medseg[parquet]'"


def require_parquet() -> None:
    """Refuse early where Parquet cannot be written; imports nothing heavy.

    Raises
    ------
    MissingPackageError
        Names the extra.
    """
    if util.find_spec("pyarrow") is None:
        raise MissingPackageError(_MISSING)


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as a Parquet file, whole or not at all.

    A column holds numbers where every value is one, else text; None and absent values are null. Whole numbers beside
    fractions become fractions.

    Parameters
    ----------
    path : Path
    rows : sequence of mapping
        Column -> str, int, float, bool or None.

    Raises
    ------
    MissingPackageError
        pyarrow is not installed.
    StorageError
        The file cannot be written.
    """
    require_parquet()
    import pyarrow as pa
    from pyarrow import parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: one_kind([row.get(name) for row in rows]) for name in names})
    with whole_file(path) as part:
        parquet.write_table(table, part)


def one_kind(values: Sequence[object]) -> list[object]:
    """The values of a column as one kind: all bool, all int, all float, or all text; None stays."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return list(values)
    if kinds == {int, float}:
        return [None if value is None else float(str(value)) for value in values]
    return [None if value is None else str(value) for value in values]
