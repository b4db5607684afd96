import pytest
from hypothesis import given
from hypothesis import strategies as st
from reviewed_results import flag, record

from medseg.quality.flag import LEVELS
from medseg.review.ranking import rank_cases


def test_the_worst_level_comes_first_and_failures_before_all():
    records = {
        "fine": record("fine", ""),
        "noted": record("noted", "", verdict="note", flags=[flag("Q201", "note")]),
        "bad": record("bad", "", verdict="fail", flags=[flag("Q501", "fail"), flag("Q201", "note")]),
        "doubtful": record("doubtful", "", verdict="review", flags=[flag("Q401", "review")]),
    }
    ranked = rank_cases(records, {"gone": "the file is truncated"})
    assert [case.case_id for case in ranked] == ["gone", "bad", "doubtful", "noted", "fine"]
    assert ranked[0].because == "no result: the file is truncated"
    assert ranked[1].flags == ("Q501 fail liver", "Q201 note liver")
    assert ranked[1].because.startswith("Q501 something about the liver; Q201")


def test_score_is_the_formula_of_the_docstring():
    confidence = {
        "liver": {"mean_probability": 0.8, "disagreement": 0.1},
        "spleen": {"mean_probability": 0.9, "disagreement": 0.25},
    }
    flags = [flag("Q201", "review"), flag("Q202", "review", "spleen"), flag("Q101", "note")]
    (case,) = rank_cases({"a": record("a", "", verdict="review", flags=flags, confidence=confidence)})
    assert case.uncertainty == pytest.approx(0.2)
    assert case.disagreement == 0.25
    assert case.score == pytest.approx(2 + 1 - 0.8 * 0.75 * 0.9)
    assert "mean probability 0.80 in the core of liver" in case.because
    assert "networks disagree by 0.25 in spleen" in case.because


def test_without_numbers_the_flags_alone_decide_and_ids_break_ties():
    records = {name: record(name, "", confidence={}) for name in ("b", "a", "c")}
    ranked = rank_cases(records)
    assert [case.case_id for case in ranked] == ["a", "b", "c"]
    assert ranked[0].score == 0
    assert ranked[0].uncertainty is None
    assert ranked[0].because == "no flags"


@given(
    st.lists(st.tuples(st.sampled_from(LEVELS), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_order_does_not_depend_on_the_order_of_records_and_levels_never_mix(cases, random):
    records = {}
    for number, (level, sure, apart) in enumerate(cases):
        flags = [] if level == "pass" else [flag("Q401", level)]
        confidence = {"liver": {"mean_probability": sure, "disagreement": apart}}
        records[f"c{number}"] = record(f"c{number}", "", verdict=level, flags=flags, confidence=confidence)
    ranked = rank_cases(records)
    shuffled = list(records.items())
    random.shuffle(shuffled)
    assert rank_cases(dict(shuffled)) == ranked
    levels = [LEVELS.index(case.level) for case in ranked]
    assert levels == sorted(levels, reverse=True)
    assert all(int(case.score) == LEVELS.index(case.level) for case in ranked)
