"""Means, falls and shares of a stress test with known answers; its table and its page."""

from __future__ import annotations

import json
import re

import pytest

from medseg.errors import ConfigError
from medseg.evaluation.metric_values import MetricValue
from medseg.report.stress import render_stress_page
from medseg.report.stress_text import texts
from medseg.stress.options import ALL_TESTS, stress_options
from medseg.stress.summary import CLEAN, Trial, summarise, table_rows


def trial(case, test, severity, dice, *, gate="pass", flags="pass", hd95=1.0):
    metrics = {}
    if dice is not None:
        metrics = {
            "lung": {
                "dice": MetricValue(value=dice, unit="1"),
                "hd95": MetricValue(value=hd95, unit="mm"),
            }
        }
    return Trial(
        case_id=case,
        patient_id=f"p-{case}",
        test=test,
        severity=severity,
        level=2.0 * severity,
        unit="mm" if test != CLEAN else "",
        gate=gate,
        flags=flags,
        metrics=metrics,
        facts={"epsilon_prepared": 0.01, "epsilon_source": None} if test == "fgsm" else {},
    )


TRIALS = [
    trial("a", CLEAN, 0, 0.9),
    trial("b", CLEAN, 0, 0.8),
    trial("a", "blur", 1, 0.88),
    trial("b", "blur", 1, 0.80),
    trial("a", "blur", 5, 0.70, hd95=3.0),
    trial("b", "blur", 5, 0.60, gate="review", hd95=5.0),
    trial("a", "fgsm", 5, 0.2, flags="fail"),
    trial("b", "fgsm", 5, None, gate="refuse", flags="fail"),
]


def summary():
    return summarise(TRIALS, metrics=["dice", "hd95"], samples=200, level=0.95, seed=1)


def record():
    facts = {"name": "<b>net</b>", "version": "1.0.0", "weights_sha256": "0", "licence": ""}
    return {
        **summary(),
        "data": "films & more",
        "models": [facts],
        "options": {"seed": 0, "tests": ["blur", "fgsm"], "severities": [1, 5], "cases": None, "steps": 10},
        "failed": {"c": "<script>alert(1)</script>"},
        "versions": {},
    }


def test_means_falls_and_shares():
    found = summary()
    assert found["cases"] == found["patients"] == 2
    assert found["clean"]["structures"]["lung"]["dice"]["mean"] == pytest.approx(0.85)
    fgsm, blur = found["tests"]
    assert (fgsm["name"], blur["name"]) == ("fgsm", "blur"), "the most harmful first"
    mild, hard = blur["severities"]
    assert mild["structures"]["lung"]["dice"]["drop"] == pytest.approx(0.01)
    assert hard["structures"]["lung"]["dice"]["drop"] == pytest.approx(0.2)
    assert hard["structures"]["lung"]["hd95"]["drop"] == pytest.approx(3), "larger distances are worse"
    assert blur["effect"]["lung"]["dice"] == pytest.approx(0.105)
    assert (hard["flagged"], hard["refused"], hard["harmed"], hard["unnoticed"]) == (0.5, 0, 1, 0.5)
    attacked = fgsm["severities"][0]
    assert (attacked["refused"], attacked["no_mask"], attacked["harmed"], attacked["unnoticed"]) == (
        0.5,
        0.5,
        0.5,
        0,
    )
    assert attacked["structures"]["lung"]["dice"]["count"] == 1
    assert attacked["facts"] == {"epsilon_prepared": 0.01, "epsilon_source": None}


def test_worst_first_and_worst_of_each_case():
    found = summary()
    assert [(w["case_id"], w["test"]) for w in found["worst"][:2]] == [("a", "fgsm"), ("a", "blur")]
    assert found["worst_per_case"]["lung"]["mean"] == pytest.approx((0.2 + 0.6) / 2)
    assert found["worst_per_case"]["lung"]["count"] == 2


def test_trials_and_tables_go_through_files():
    for one in TRIALS:
        assert Trial.from_json(json.loads(json.dumps(one.to_json()))) == one
    rows = table_rows(summary())
    assert [row["test"] for row in rows[::2]] == ["clean", "fgsm", "blur", "blur"]
    assert rows[2]["epsilon_prepared"] == 0.01
    json.dumps(summary(), allow_nan=False)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_asks_for_nothing_and_shows_names_as_text(language):
    page = render_stress_page(record(), language=language)
    assert not [word for word in ("<script", "http://", "https://") if word in page]
    assert "&lt;b&gt;net&lt;/b&gt;" in page
    assert "films &amp; more" in page
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"\{[a-z_]+\}", page)
    assert page.count("<svg") == 2
    assert texts(language)["worst_case"] in page
    assert ("模糊" in page) == (language == "zh")


def test_both_languages_have_the_same_texts():
    english, chinese = texts("en"), texts("zh")
    assert set(english) == set(chinese)
    fields = re.compile(r"\{[a-z]+\}")
    assert {
        k
        for k in english
        if sorted(set(fields.findall(english[k]))) != sorted(set(fields.findall(chinese[k])))
    } == set()


def test_options_of_the_command():
    assert stress_options().tests == ALL_TESTS
    quick = stress_options(only=["blur,pgd", "blur"], quick=True)
    assert (quick.tests, quick.severities, quick.cases) == (("blur", "pgd"), (1, 3, 5), 8)
    assert quick.metrics.metric_names == ("dice",)
    with pytest.raises(ConfigError, match="--only blurr: no such corruption or attack; there are noise"):
        stress_options(only=["blurr"])
