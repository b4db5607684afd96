"""What a search leaves behind: a table, a JSON file, a pipeline with the best values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.amounts import time_text
from medseg.provenance import write_json, write_text
from medseg.search.options import SearchOptions
from medseg.search.records import TrialRow
from medseg.search.space import Parameter, Raw

TABLE, RECORD, BEST = "trials.csv", "search.json", "best.yaml"
FORMAT = 1
# Characters of a terminal for the searched values, beside the five other columns; and of one value.
_ROOM, _MAX_CELL = 66, 24


def write_results(
    folder: Path,
    *,
    options: SearchOptions,
    parameters: Sequence[Parameter],
    rows: Sequence[TrialRow],
    best: TrialRow | None,
    importances: dict[str, float] | None,
    digest: str,
    table: str,
    compared_on_fold: int | None = None,
) -> None:
    """Write trials.csv (`table`) and search.json, each whole or not at all.

    `compared_on_fold` is the part of a cross-validation whose split the trials had.
    """
    write_text(folder / TABLE, table)
    write_json(
        folder / RECORD,
        {
            "format": FORMAT,
            "settings_sha256": digest,
            "metric": options.metric,
            "metric_is": options.metric_is,
            "sampler": options.sampler.model_dump(mode="json"),
            "pruner": options.pruner.model_dump(mode="json"),
            "wanted": options.trials,
            "seconds": round(sum(row.seconds for row in rows), 1),
            "parameters": [
                {"key": p.key, "kind": p.kind, "log": p.dimension.log, "labels": list(p.labels)}
                for p in parameters
            ],
            "settings": options.settings,
            "compared_on_fold": compared_on_fold,
            "best": None if best is None else best.number,
            "importances": importances,
            "trials": [row.to_json() for row in rows],
        },
    )


def csv_rows(rows: Sequence[TrialRow]) -> list[dict[str, str | int | float | None]]:
    """Rows of trials.csv: how each trial ended, then its values by key."""
    return [
        {
            "trial": row.number,
            "state": row.state,
            "value": row.value,
            "last_value": row.curve.get(row.epochs),
            "epochs": row.epochs,
            "seconds": round(row.seconds, 1),
            "reason": row.reason,
            **row.raw,
        }
        for row in rows
    ]


def shown_table(
    rows: Sequence[TrialRow], parameters: Sequence[Parameter], best: TrialRow | None, *, metric: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and cells for a terminal: trial, how it ended, value, epochs, time, and the values that fit."""
    names = table_columns(parameters)
    cells = [[_cut(raw_text(row.raw.get(parameter.key))) for parameter in parameters] for row in rows]
    widths = [max(map(len, column)) + 4 for column in zip(names, *cells, strict=True)]
    fit = sum(sum(widths[: n + 1]) <= _ROOM for n in range(len(widths)))
    head = ("trial", "state", metric, "epochs", "time", *names[:fit], *(("…",) if fit < len(names) else ()))
    found = [
        (
            f"{row.number}{' *' if best is not None and row.number == best.number else ''}",
            row.state,
            "–" if row.shown is None else f"{row.shown:.4f}",
            str(row.epochs),
            time_text(row.seconds),
            *own[:fit],
            *(("",) if fit < len(names) else ()),
        )
        for row, own in zip(rows, cells, strict=True)
    ]
    return head, found


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"


def raw_text(raw: Raw | None) -> str:
    """A value of a trial in few digits."""
    if raw is None:
        return "–"
    return f"{raw:.3g}" if isinstance(raw, float) else str(raw)


def counts_text(rows: Sequence[TrialRow]) -> str:
    """`8 trials: 5 complete, 3 pruned`."""
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
    return f"{len(rows)} trial{'' if len(rows) == 1 else 's'}: {counts}"


def best_text(best: TrialRow, options: SearchOptions) -> str:
    """Head of best.yaml: where its values come from."""
    values = "".join(f"#   {key}: {raw_text(raw)}\n" for key, raw in best.raw.items())
    return f"# Best trial of a search: trial {best.number}, {options.metric} {best.value:.4f}\n{values}"


def settings_json(best: TrialRow, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Dotted key -> value of the best trial for the settings."""
    return {p.key: p.setting(best.raw[p.key]) for p in parameters if p.key in best.raw}


def table_columns(found: Sequence[Parameter]) -> list[str]:
    """Short names of the searched settings: the last parts of their keys that tell them apart."""
    parts = [parameter.key.split(".") for parameter in found]
    names = []
    for own in parts:
        length = next(
            n for n in range(1, len(own) + 1) if n == len(own) or sum(o[-n:] == own[-n:] for o in parts) == 1
        )
        names.append(".".join(own[-length:]))
    return names
