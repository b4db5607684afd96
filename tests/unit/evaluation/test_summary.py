import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation, StructureEvaluation
from medseg.evaluation.compare import compare
from medseg.evaluation.metric_values import MetricValue
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.overlap import Counts
from medseg.evaluation.rows import rows_to_csv
from medseg.evaluation.summary import summarise

JUDGED = Counts(tp=1, fp=0, fn=0, tn=1)


def options(**changes) -> EvaluationOptions:
    return EvaluationOptions.model_validate({"metrics": [{"use": "dice"}, {"use": "hd95"}], **changes})


def case(case_id, dice, hd95=1.0, *, patient="", unit="mm", state="judged", columns=None, reason=""):
    metrics = {
        "dice": MetricValue(value=dice, unit="1", reason=reason, worst_case=state == "missed"),
        "hd95": MetricValue(value=hd95, unit=unit, reason=reason),
    }
    structure = StructureEvaluation(structure="lung", state=state, counts=JUDGED, metrics=metrics)
    return CaseEvaluation(
        case_id=case_id, patient_id=patient or case_id, structures=(structure,), columns=columns or {}
    )


def test_statistics_by_hand():
    summary = summarise([case("a", 0.8), case("b", 0.9), case("c", 1.0), case("d", 0.5)], options())
    dice = summary.structures["lung"]["dice"]
    assert (dice.count, dice.patients) == (4, 4)
    assert dice.mean == pytest.approx(0.8)
    assert dice.median == pytest.approx(0.85)
    assert dice.sd == pytest.approx(np.std([0.8, 0.9, 1.0, 0.5], ddof=1))
    assert (dice.minimum, dice.maximum) == (0.5, 1.0)
    assert (dice.lower_quartile, dice.upper_quartile) == pytest.approx((0.725, 0.925))
    assert dice.iqr == pytest.approx(0.2)
    low, high = dice.mean_interval
    assert 0.5 <= low < 0.8 < high <= 1.0
    assert dice.note == "only 4 patients: the interval is rough"


def test_missed_counts_and_is_listed():
    cases = [case("a", 1.0), case("b", 0.0, 50.0, state="missed")]
    summary = summarise(cases, options())
    assert summary.missed == (("b", "lung"),)
    dice = summary.structures["lung"]["dice"]
    assert (dice.mean, dice.worst_case) == (0.5, 1)


def test_undefined_is_counted_by_reason_and_not_averaged():
    cases = [
        case("a", 0.9),
        case("b", None, None, state="both_empty", reason="empty"),
        case("c", None, None, state="not_judged", reason="not told"),
    ]
    summary = summarise(cases, options())
    dice = summary.structures["lung"]["dice"]
    assert (dice.count, dice.mean, dice.undefined) == (1, 0.9, {"empty": 1, "not told": 1})
    assert (dice.mean_interval, dice.sd, dice.note) == (None, None, "one patient: no interval")
    assert summary.both_empty == (("b", "lung"),)
    assert summary.not_judged == (("c", "lung"),)


def test_no_value_at_all():
    dice = summarise([case("a", None, None, reason="x")], options()).structures["lung"]["dice"]
    assert (dice.count, dice.mean, dice.median, dice.mean_interval) == (0, None, None, None)


def test_no_cases():
    summary = summarise([], options(require={"lung": {"dice": 0.9}}))
    assert (summary.cases, summary.structures) == (0, {})
    assert len(summary.unmet) == 1


def test_millimetres_and_pixels_are_not_averaged_together():
    cases = [case("a", 1.0, 2.0), case("b", 1.0, 4.0), case("c", 1.0, 100.0, unit="pixels")]
    lung = summarise(cases, options()).structures["lung"]
    assert (lung["hd95"].mean, lung["hd95"].count, lung["hd95"].unit) == (3.0, 2, "mm")
    assert (lung["hd95_pixels"].mean, lung["hd95_pixels"].count) == (100.0, 1)


def test_groups_by_column():
    cases = [case("a", 0.8, columns={"source": "x"}), case("b", 0.6, columns={"source": "y"})]
    summary = summarise(cases, options(by=["source"]))
    assert {v: t["lung"]["dice"].mean for v, t in summary.groups["source"].items()} == {"x": 0.8, "y": 0.6}
    with pytest.raises(
        ConfigError, match=r"the column 'age', which 2 of 2 cases do not have .*known: source"
    ):
        summarise(cases, options(by=["age"]))


def test_the_same_case_twice_is_refused():
    with pytest.raises(ConfigError, match="found a more than once"):
        summarise([case("a", 1.0), case("a", 0.5)], options())


def test_order_of_cases_changes_nothing():
    rng = np.random.default_rng(0)
    cases = [case(f"c{i}", float(v), patient=f"p{i % 7}") for i, v in enumerate(rng.random(20))]
    assert summarise(cases, options()).to_json() == summarise(cases[::-1], options()).to_json()


def test_json_and_csv_hold_the_same_numbers():
    cases = [case("a", 0.8, columns={"s": "x"}), case("b", 0.6, columns={"s": "y"})]
    summary = summarise(cases, options(by=["s"]))
    value = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert value["definitions"]["hd95"]["unit"] == "mm"
    rows = list(csv.DictReader(io.StringIO(rows_to_csv(summary.rows()))))
    assert len(rows) == 6
    whole = next(r for r in rows if r["column"] == "" and r["metric"] == "dice")
    assert float(whole["mean"]) == value["structures"]["lung"]["dice"]["mean"]
    assert float(whole["mean_interval_low"]) == value["structures"]["lung"]["dice"]["mean_interval"][0]


def test_requirements_met_unmet_and_without_value():
    demand = {"lung": {"dice": 0.9, "hd95": 5.0}}
    summary = summarise([case("a", 0.8, 4.0), case("b", 0.9, 4.0)], options(require=demand))
    assert [(r.metric, r.met) for r in summary.requirements] == [("dice", False), ("hd95", True)]
    assert summary.unmet[0].text == "lung: mean Dice >= 0.9 is required, found 0.85 over 2 cases"
    pixels = summarise([case("a", 0.95, 4.0, unit="pixels")], options(require=demand))
    assert [r.text for r in pixels.unmet] == [
        "lung: mean HD95 <= 5 mm is required, no case has a value in this unit"
    ]


def test_signed_difference_is_judged_by_its_size():
    metric = MetricValue(value=-30.0, unit="%")
    structure = StructureEvaluation(
        structure="lung", state="judged", counts=JUDGED, metrics={"relative_difference": metric}
    )
    cases = [CaseEvaluation(case_id="a", patient_id="a", structures=(structure,))]
    settings_ = EvaluationOptions.model_validate(
        {"metrics": [{"use": "relative_difference"}], "require": {"lung": {"relative_difference": 10}}}
    )
    assert len(summarise(cases, settings_).unmet) == 1


def test_patients_are_resampled_whole():
    """Twenty images of each of three patients tell as much as one image of each."""
    one = [case(f"{p}", v) for p, v in (("x", 0.2), ("y", 0.5), ("z", 0.8))]
    many = [case(f"{p}{i}", v, patient=p) for p, v in (("x", 0.2), ("y", 0.5), ("z", 0.8)) for i in range(20)]
    first, second = (summarise(c, options()).structures["lung"]["dice"] for c in (one, many))
    assert first.mean_interval == pytest.approx(second.mean_interval)
    assert second.count == 60


def test_resamples_do_not_depend_on_the_order_of_patients():
    one, two = (
        PatientBootstrap.draw(list(names), samples=50, level=0.9, seed=3) for names in ("abcab", "cbaac")
    )
    assert one.patients == two.patients == ("a", "b", "c")
    np.testing.assert_array_equal(one.weights, two.weights)


def test_median_samples_against_numpy():
    rng = np.random.default_rng(5)
    patients = [f"p{i}" for i in rng.integers(0, 6, 15)]
    values = rng.random(15)
    bootstrap = PatientBootstrap.draw(patients, samples=200, level=0.9, seed=2)
    found = bootstrap.median_samples(values, patients)
    columns = bootstrap.columns(patients)
    expected = [np.median(np.repeat(values, row[columns])) for row in bootstrap.weights]
    np.testing.assert_allclose(found, expected)
    means = [np.repeat(values, row[columns]).mean() for row in bootstrap.weights]
    np.testing.assert_allclose(bootstrap.mean_samples(values, patients), means)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    names = [f"p{i:02d}" for i in range(40)]
    hits = {"mean": 0, "median": 0}
    for trial in range(300):
        values = rng.normal(1.0, 0.3, 40)
        bootstrap = PatientBootstrap.draw(names, samples=300, level=0.9, seed=trial)
        for what in hits:
            samples = getattr(bootstrap, f"{what}_samples")(values, names)
            low, high = bootstrap.interval(samples, patients=40)
            hits[what] += low <= 1.0 <= high
    assert 0.84 <= hits["mean"] / 300 <= 0.95
    assert 0.82 <= hits["median"] / 300 <= 0.97


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
@settings(max_examples=25, deadline=None)
def test_interval_lies_between_the_extremes(values):
    summary = summarise([case(f"c{i}", v) for i, v in enumerate(values)], options(samples=100))
    dice = summary.structures["lung"]["dice"]
    for low, high in (dice.mean_interval, dice.median_interval):
        assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_paired_comparison_sees_a_small_steady_gain():
    rng = np.random.default_rng(4)
    base = rng.uniform(0.5, 0.95, 30)
    first = [case(f"c{i:02d}", float(v)) for i, v in enumerate(base)]
    second = [case(f"c{i:02d}", float(v) + 0.01) for i, v in enumerate(base)]
    dice = next(d for d in compare(first, second, options()).differences if d.metric == "dice")
    assert dice.mean_difference == pytest.approx(0.01)
    assert dice.interval == pytest.approx((0.01, 0.01))
    assert dice.share_better == 1.0
    assert dice.p_value == pytest.approx(2 / 1001)
    separate = [summarise(c, options()).structures["lung"]["dice"].mean_interval for c in (first, second)]
    assert separate[0][1] > separate[1][0]


def test_no_difference_has_no_small_p_value():
    cases = [case(f"c{i}", 0.9, hd95=float(i)) for i in range(5)]
    for difference in compare(cases, cases, options()).differences:
        assert (difference.mean_difference, difference.p_value, difference.share_better) == (0.0, 1.0, 0.0)


def test_lower_is_better_for_distances():
    first = [case(f"c{i}", 0.9, hd95=5.0 + i) for i in range(6)]
    second = [case(f"c{i}", 0.9, hd95=3.0 + i) for i in range(6)]
    found = {d.metric: d for d in compare(first, second, options()).differences}
    assert (found["hd95"].mean_difference, found["hd95"].share_better) == (-2.0, 1.0)


def test_signed_ranks_of_patients_and_holm_over_all_that_is_compared():
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(9)
    gains = rng.normal(0.01, 0.02, 24)
    first = [case(f"c{i:02d}", 0.8, hd95=5.0 + i, patient=f"p{i // 2}") for i in range(24)]
    second = [
        case(f"c{i:02d}", 0.8 + g, hd95=5.0 + i - 10 * g, patient=f"p{i // 2}") for i, g in enumerate(gains)
    ]
    found = {d.metric: d for d in compare(first, second, options()).differences}
    expected = wilcoxon(gains.reshape(12, 2).mean(axis=1), zero_method="pratt").pvalue
    assert found["dice"].wilcoxon_p == pytest.approx(expected)
    assert found["dice"].wilcoxon_holm == pytest.approx(min(1.0, 2 * expected))
    assert found["dice"].median_difference == pytest.approx(np.median(gains))


def test_missed_structures_of_either_model_are_counted():
    first = [case("a", 0.9), case("b", 0.0, 50.0, state="missed")]
    second = [case("a", 0.9), case("b", 0.8)]
    dice = next(d for d in compare(first, second, options()).differences if d.metric == "dice")
    assert (dice.count, dice.worst_first, dice.worst_second) == (2, 1, 0)


def test_different_references_are_not_compared():
    other = case("b", 0.7)
    counts = Counts(tp=2, fp=0, fn=0, tn=0)
    structure = StructureEvaluation(
        structure="lung", state="judged", counts=counts, metrics=other.structures[0].metrics
    )
    changed = CaseEvaluation(case_id="b", patient_id="b", structures=(structure,))
    with pytest.raises(
        ConfigError, match=r"case b: the two evaluations have different references \(lung has 1 of 2"
    ):
        compare([case("b", 0.8)], [changed], options())


def test_comparison_lists_cases_of_one_model_only():
    first = [case("a", 0.9), case("b", 0.8)]
    second = [case("b", 0.7), case("c", 0.7)]
    found = compare(first, second, options())
    assert (found.only_first, found.only_second) == (("a",), ("c",))
    assert found.differences[0].count == 1
    assert found.differences[0].p_value is None
    json.dumps(found.to_json(), allow_nan=False)
    with pytest.raises(ConfigError, match="found none that both have"):
        compare(first[:1], second, options())
    with pytest.raises(ConfigError, match="case b belongs to different patients"):
        compare(first, [case("b", 0.7, patient="other")], options())
