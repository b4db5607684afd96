import numpy as np
import pytest

from medseg.evaluation.cases import CaseEvaluation, StructureEvaluation
from medseg.evaluation.metric_values import MetricValue
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.overlap import Counts
from medseg.evaluation.subgroups import group_names
from medseg.evaluation.summary import summarise

COUNTS = Counts(tp=1, fp=0, fn=0, tn=1)


def case(number, dice, columns, hd95=3.0):
    metrics = {"dice": MetricValue(value=dice, unit="1"), "hd95": MetricValue(value=hd95, unit="mm")}
    structure = StructureEvaluation(structure="lung", state="judged", counts=COUNTS, metrics=metrics)
    return CaseEvaluation(
        case_id=f"c{number:03d}", patient_id=f"p{number:03d}", structures=(structure,), columns=columns
    )


def summary(cases, *by):
    return summarise(
        cases, EvaluationOptions.model_validate({"metrics": [{"use": "dice"}, {"use": "hd95"}], "by": by})
    )


def two_scanners(gap, count=20, seed=0):
    rng = np.random.default_rng(seed)
    return [
        case(i, float(rng.normal(0.9 - gap * (i % 2), 0.02)), {"scanner": "AB"[i % 2]})
        for i in range(2 * count)
    ]


def test_a_group_that_fares_worse_is_flagged_and_its_counterpart_is_not():
    found = {(g.group, g.metric): g for g in summary(two_scanners(0.05), "scanner").gaps}
    worse, better = found["B", "dice"], found["A", "dice"]
    assert (worse.finding, better.finding) == ("worse", "no gap seen")
    assert worse.difference == pytest.approx(-better.difference)
    assert worse.difference == pytest.approx(-0.05, abs=0.015)
    low, high = worse.interval
    assert low < worse.difference < high < 0
    assert found["B", "hd95"].finding == "no gap seen"
    assert found["B", "hd95"].p_value == 1.0


def test_distances_are_worse_when_they_are_larger():
    rng = np.random.default_rng(1)
    cases = [
        case(i, 0.9, {"scanner": "AB"[i % 2]}, hd95=float(rng.normal(3 + 4 * (i % 2), 0.5)))
        for i in range(30)
    ]
    found = {(g.group, g.metric): g.finding for g in summary(cases, "scanner").gaps}
    assert (found["B", "hd95"], found["A", "hd95"]) == ("worse", "no gap seen")


def test_equal_groups_are_seldom_flagged():
    flags = sum(
        any(g.finding == "worse" for g in summary(two_scanners(0.0, 12, seed), "scanner").gaps)
        for seed in range(20)
    )
    assert flags <= 4


def test_small_groups_are_not_judged():
    cases = [case(i, 0.9, {"site": "big"}) for i in range(10)] + [
        case(20 + i, 0.1 + 0.01 * i, {"site": "small"}) for i in range(3)
    ]
    found = summary(cases, "site").gaps
    assert {g.finding for g in found} == {"too few patients"}
    assert {g.p_value for g in found} == {None}


def test_few_patients_without_spread_are_no_certainty():
    cases = [case(i, 0.9 - 0.1 * (i % 2), {"scanner": "AB"[i % 2]}) for i in range(10)]
    found = {(g.group, g.metric): g for g in summary(cases, "scanner").gaps}
    assert found["B", "dice"].p_value == pytest.approx(1 / 252)


def test_one_group_has_nothing_to_be_held_against():
    assert summary([case(i, 0.9, {"site": "x"}) for i in range(8)], "site").gaps == ()


def test_numbers_are_cut_into_thirds_and_words_are_not():
    ages = [str(20 + i) for i in range(30)]
    names = group_names(ages)
    assert [names.count(n) for n in dict.fromkeys(names)] == [10, 10, 10]
    assert names[0].startswith("up to ")
    assert names[-1].startswith("above ")
    assert group_names([*ages, ""])[-1] == "not given"
    assert group_names(["3", "1", "", "3"]) == ["3", "1", "not given", "3"]
    assert group_names([f"site {i}" for i in range(20)])[3] == "site 3"
    table = summary([case(i, 0.9, {"age": a}) for i, a in enumerate(ages)], "age")
    assert [t["lung"]["dice"].count for t in table.groups["age"].values()] == [10, 10, 10]
