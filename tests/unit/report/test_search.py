"""The search on the page: figures, names that are escaped, a page of its own, trials without a value."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from medseg.report.cohort import render
from medseg.report.search import render_search_page, search_part
from medseg.report.search_figures import Axis, TrialMark, history, panel


def trial(number, state="complete", value=None, **changes):
    curve = {} if state == "failed" else {"1": 0.2, "2": 0.3 if value is None else value}
    return {
        "number": number,
        "state": state,
        "value": value,
        "reason": "",
        "seconds": 12.3,
        "epochs": max(map(int, curve), default=0),
        "curve": curve,
        "facts": {},
        "raw": {"training.learning_rate": 10.0 ** -(number + 1), "training.loss": "dice_ce"},
        **changes,
    }


def record(**changes):
    return {
        "format": 1,
        "metric": "dice",
        "metric_is": "higher_better",
        "sampler": {"use": "tpe", "seed": 3},
        "seconds": 40.0,
        "parameters": [
            {"key": "training.learning_rate", "kind": "float", "log": True, "labels": []},
            {"key": "training.loss", "kind": "choice", "log": False, "labels": ["dice_ce", "<b>x</b>"]},
        ],
        "compared_on_fold": None,
        "best": 1,
        "importances": None,
        "trials": [
            trial(0, value=0.5),
            trial(1, value=0.7, raw={"training.learning_rate": 0.01, "training.loss": "<b>x</b>"}),
            trial(2, "pruned", reason="<script>alert(1)</script>"),
            trial(3, "failed", reason="loss is nan"),
        ],
        **changes,
    }


def test_dots_of_complete_and_pruned_trials_and_the_best_so_far():
    part = search_part(record())
    assert re.findall(r'class="dot (\w+)"', part.figure) == ["trial", "best", "ended"]
    assert "dice of 3 trials, best 0.7" in part.figure
    assert "trial 2: dice 0.3000, ended after epoch 2" in part.figure
    assert len(part.panels) == 2
    assert ">0.0001<" not in part.panels[0]
    assert all(f">{mark}<" in part.panels[0] for mark in ("0.001", "0.01", "0.1"))
    assert [row["value"] for row in part.rows] == [0.5, 0.7, 0.3, None]


@pytest.mark.parametrize("page", ["cohort", "alone"])
def test_what_settings_and_reasons_say_is_text(page, make_report):
    if page == "alone":
        text = render_search_page(record(), title="<i>t</i>")
    else:
        text = render(replace(make_report(1), search=record()))
    assert "<script>alert" not in text
    assert "<b>x</b>" not in text
    assert "<i>t</i>" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert 'id="search"' in text
    assert "default-src 'none'" in html.unescape(text)
    assert " style=" not in text.partition('id="search"')[2].partition("</table>")[0]


def test_cases_that_are_tested_later_are_said_to_have_chosen():
    assert "the test cases played no part" in search_part(record()).text
    assert "are test cases of another fold" in search_part(record(compared_on_fold=0)).text


def test_importances_stand_beside_the_settings():
    found = search_part(record(importances={"training.learning_rate": 0.8, "training.loss": 0.2}))
    assert "training.learning_rate · 80 %" in found.panels[0]
    assert "PED-ANOVA" in found.importance_text
    assert "too few" in search_part(record()).importance_text


def test_a_search_without_a_value_has_a_table_and_no_figure():
    part = search_part(record(trials=[trial(0, "failed", reason="loss is nan")], best=None))
    assert part.figure is None
    assert part.panels == ()
    assert "loss is nan" in render_search_page(
        record(trials=[trial(0, "failed", reason="loss is nan")], best=None), title="t"
    )


def marks(values, *, higher=True):
    return [
        TrialMark(number=n, value=v, complete=True, best=False, name="", raw={"x": n})
        for n, v in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("higher", "values", "best"), [(True, [3, 1, 4, 4, 2], 4), (False, [3, 1, 4, 0.5, 2], 0.5)]
)
def test_the_line_follows_the_direction_of_the_metric(higher, values, best):
    figure = history(marks(values), metric="m", higher_is_better=higher)
    assert f"best {best:g}" in figure
    heights = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", re.search(r'points="([^"]+)"', figure)[1])]
    assert heights == sorted(heights, reverse=higher)


def test_one_trial_and_equal_values_are_drawn():
    assert history(marks([0.5]), metric="m", higher_is_better=True) is not None
    assert panel(marks([0.5, 0.5]), Axis(key="x", title="x"), metric="m") is not None
    assert panel(marks([0.5]), Axis(key="y", title="y"), metric="m") is None
    one = [TrialMark(number=0, value=0.5, complete=True, best=True, name="", raw={"x": 1e-3})]
    assert panel(one, Axis(key="x", title="x", log=True), metric="m") is not None
