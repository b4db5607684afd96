"""A search for settings as part of the cohort's page and as a page of its own, from its search.json."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

from medseg import __version__
from medseg.report.page import Json
from medseg.report.search_figures import Axis, TrialMark, history, panel
from medseg.report.templating import environment


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPart:
    """What the template shows.

    Parameters
    ----------
    text, importance_text : str
    columns : tuple of str
        Searched settings.
    rows : tuple of mapping
        number, state, best, value, epochs, seconds, reason, and cells (texts by column).
    figure : Markup or None
    panels : tuple of Markup
    """

    text: str
    importance_text: str
    metric: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    figure: Markup | None
    panels: tuple[Markup, ...]


def search_part(record: Json) -> SearchPart:
    """Texts, table and figures of a search.

    Parameters
    ----------
    record : mapping
        Content of search.json.
    """
    trials, metric = record["trials"], record["metric"]
    shares: Mapping[str, float] = record["importances"] or {}
    marks = [mark for trial in trials if (mark := _mark(trial, record)) is not None]
    axes = [
        Axis(
            key=p["key"],
            title=p["key"] + (f" · {100 * shares[p['key']]:.0f} %" if p["key"] in shares else ""),
            labels=tuple(p["labels"]),
            log=p["log"],
        )
        for p in record["parameters"]
    ]
    panels = [figure for axis in axes if (figure := panel(marks, axis, metric=metric)) is not None]
    return SearchPart(
        text=_text(record),
        importance_text=_importance_text(record),
        metric=metric,
        columns=tuple(p["key"] for p in record["parameters"]),
        rows=tuple(_row(trial, record) for trial in trials),
        figure=history(marks, metric=metric, higher_is_better=record["metric_is"] == "higher_better"),
        panels=tuple(panels),
    )


def render_search_page(record: Json, *, title: str) -> str:
    """A search as an HTML file without scripts and outside references: the page of a run that ends with it.

    Parameters
    ----------
    record : mapping
        Content of search.json.
    title : str
        Name of the pipeline.
    """
    style = (resources.files("medseg.report") / "templates" / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    made = environment(nice=lambda name: str(name).replace("_", " "))
    return made.get_template("search_page.html.j2").render(
        search=search_part(record),
        title=title,
        style=Markup(style),
        policy=f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'",
        version=__version__,
    )


def _text(record: Json) -> str:
    states = [trial["state"] for trial in record["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    best = next((t for t in record["trials"] if t["number"] == record["best"]), None)
    found = (
        f" The best is trial {best['number']} with {record['metric']} {best['value']:.4f}." if best else ""
    )
    seed = record["sampler"]["seed"]
    return (
        f"{len(states)} trials ({counts}), drawn by {record['sampler']['use']} with seed {seed}, compared by "
        f"{record['metric']} on validation cases, in {record['seconds']:.0f} s of training.{found} "
        f"The best of many trials looks better than it is on the cases that it was chosen by; {_part(record)}"
    )


def _part(record: Json) -> str:
    """What the cases of the search have to do with those of the test."""
    fold = record["compared_on_fold"]
    if fold is None:
        return "the test cases played no part."
    return f"they are the validation cases of fold {fold}, and are test cases of another fold."


def _importance_text(record: Json) -> str:
    if record["importances"] is None:
        return "Importance of the settings: too few complete trials to tell."
    return (
        "Beside the name of a setting: its share in the differences between trials (PED-ANOVA, Watanabe et al., "
        "IJCAI 2023); rough for fewer than some dozen trials."
    )


def _shown(trial: Json) -> float | None:
    """The value of a trial, or the last one of a trial that was ended early."""
    value = trial["value"]
    if value is None and trial["curve"]:
        value = trial["curve"][str(trial["epochs"])]
    return value if value is not None and math.isfinite(value) else None


def _mark(trial: Json, record: Json) -> TrialMark | None:
    value = _shown(trial)
    if value is None or trial["state"] not in ("complete", "pruned"):
        return None
    values = ", ".join(f"{key} {_cell(raw)}" for key, raw in trial["raw"].items())
    ended = "" if trial["state"] == "complete" else f", ended after epoch {trial['epochs']}"
    return TrialMark(
        number=trial["number"],
        value=value,
        complete=trial["state"] == "complete",
        best=trial["number"] == record["best"],
        name=f"trial {trial['number']}: {record['metric']} {value:.4f}{ended}; {values}",
        raw=dict(trial["raw"]),
    )


def _row(trial: Json, record: Json) -> dict[str, Any]:
    return {
        **{name: trial[name] for name in ("number", "state", "epochs", "seconds", "reason")},
        "best": trial["number"] == record["best"],
        "value": _shown(trial),
        "cells": tuple(_cell(trial["raw"].get(p["key"])) for p in record["parameters"]),
    }


def _cell(raw: float | int | str | None) -> str:
    if raw is None:
        return "–"
    return f"{raw:.3g}" if isinstance(raw, float) else str(raw)
