"""Splits and folds: by patient, exact, independent of order, steady when cases are added."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medseg.data.manifest import Case
from medseg.data.options import FoldSplit, HoldoutSplit, ManifestSplit
from medseg.data.splits import assign_folds, assign_splits, patients_in_several, splits_of_fold
from medseg.errors import ManifestError


def case(case_id: str, patient_id: str | None = None, **fields) -> Case:
    return Case(case_id=case_id, patient_id=patient_id or f"p-{case_id}", images=(Path("x"),), **fields)


def cohort(count: int, **columns) -> list[Case]:
    return [case(f"c{n}", columns={name: of(n) for name, of in columns.items()}) for n in range(count)]


cohorts = st.lists(st.integers(0, 12), min_size=12, max_size=60).map(
    lambda patients: [case(f"c{n}", f"p{p}") for n, p in enumerate(patients)]
)
shares = st.sampled_from([(0.6, 0.15, 0.25), (0.7, 0.15, 0.15), (0.5, 0.5, 0), (0.8, 0, 0.2), (1, 0, 0)])


def holdout(parts, seed: int = 1, stratify: str | None = None) -> HoldoutSplit:
    return HoldoutSplit(training=parts[0], validation=parts[1], test=parts[2], seed=seed, stratify=stratify)


@settings(deadline=None, max_examples=50)
@given(cases=cohorts, parts=shares, seed=st.integers(0, 5), order=st.randoms())
def test_no_patient_in_two_parts_and_order_does_not_matter(cases, parts, seed, order):
    options = holdout(parts, seed)
    wanted = [name for name, share in zip(("train", "validation", "test"), parts, strict=True) if share > 0]
    if len({c.patient_id for c in cases}) < len(wanted):
        with pytest.raises(ManifestError, match="patients or more"):
            assign_splits(cases, options)
        return
    splits = assign_splits(cases, options)
    assert set(splits) == {c.case_id for c in cases}
    assert set(splits.values()) == set(wanted)
    assert not patients_in_several(cases, splits)
    shuffled = list(cases)
    order.shuffle(shuffled)
    assert assign_splits(shuffled, options) == splits


@pytest.mark.parametrize(
    ("count", "expected"),
    [(24, (14, 4, 6)), (100, (60, 15, 25)), (3, (1, 1, 1)), (4, (2, 1, 1)), (1000, (600, 150, 250))],
)
def test_shares_are_exact(count, expected):
    counts = Counter(assign_splits(cohort(count), holdout((0.6, 0.15, 0.25))).values())
    assert (counts["train"], counts["validation"], counts["test"]) == expected


def test_shares_are_of_cases_where_patients_have_several():
    cases = [case(f"c{n}-{m}", f"p{n}") for n in range(40) for m in range(1 + n % 4)]
    counts = Counter(assign_splits(cases, holdout((0.6, 0.15, 0.25))).values())
    assert abs(counts["train"] - 60) <= 3
    assert abs(counts["validation"] - 15) <= 3


@pytest.mark.parametrize("seed", range(6))
def test_a_huge_patient_leaves_no_part_empty(seed):
    cases = [case(f"c{n}", "big") for n in range(100)] + [case("x"), case("y")]
    assert set(assign_splits(cases, holdout((0.7, 0.15, 0.15), seed)).values()) == {
        "train",
        "validation",
        "test",
    }


@settings(deadline=None)
@given(count=st.integers(10, 60), parts=shares, seed=st.integers(0, 5))
def test_a_new_patient_moves_at_most_one_patient_across_each_border(count, parts, seed):
    before = assign_splits(cohort(count), holdout(parts, seed))
    after = assign_splits([*cohort(count), case("new")], holdout(parts, seed))
    moved = [c for c in before if before[c] != after[c]]
    assert len(moved) <= sum(share > 0 for share in parts) - 1


def test_another_seed_deals_differently():
    deals = {tuple(assign_splits(cohort(30), holdout((0.6, 0.2, 0.2), seed)).values()) for seed in range(5)}
    assert len(deals) == 5


def test_the_deal_of_a_seed_never_changes():
    splits = assign_splits(cohort(8), holdout((0.5, 0.25, 0.25), 7))
    assert [name for name, split in splits.items() if split == "validation"] == ["c0", "c3"]
    assert [name for name, split in splits.items() if split == "test"] == ["c2", "c5"]


@settings(deadline=None)
@given(count=st.integers(30, 90), seed=st.integers(0, 3))
def test_strata_are_spread_in_proportion(count, seed):
    cases = cohort(count, site=lambda n: "north" if n % 3 else "south")
    splits = assign_splits(cases, holdout((0.6, 0.2, 0.2), seed, "site"))
    for site in ("north", "south"):
        members = [c for c in cases if c.columns["site"] == site]
        counts = Counter(splits[c.case_id] for c in members)
        for part, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
            assert abs(counts[part] - share * len(members)) <= 1.5


def test_stratify_by_an_unknown_column_names_the_known():
    with pytest.raises(ManifestError, match=r"column sit, which case c0 lacks; known: label_scheme, site"):
        assign_splits(cohort(9, site=str), holdout((0.6, 0.2, 0.2), 1, "sit"))


def test_manifest_split_is_followed_and_checked_whole():
    good = [case("a", split="train"), case("b", split="test")]
    assert assign_splits(good, ManifestSplit()) == {"a": "train", "b": "test"}
    bad = [*good, case("c"), case("d", "p-a", split="test"), case("e")]
    with pytest.raises(ManifestError) as caught:
        assign_splits(bad, ManifestSplit())
    message = str(caught.value)
    assert "3 problems" in message
    assert "case c has no split" in message
    assert "one patient is in several splits: a (train), d (test)" in message
    assert "p-a" not in message, "a patient id is no text for a message"


@settings(deadline=None)
@given(cases=cohorts, count=st.integers(3, 5), seed=st.integers(0, 3), order=st.randoms())
def test_folds_keep_patients_together_and_cover_all(cases, count, seed, order):
    options = FoldSplit(count=count, seed=seed)
    if len({c.patient_id for c in cases}) < count:
        with pytest.raises(ManifestError, match=r"lower split\.count"):
            assign_folds(cases, options)
        return
    folds = assign_folds(cases, options)
    assert set(folds.values()) == set(range(count))
    assert not patients_in_several(cases, folds)
    shuffled = list(cases)
    order.shuffle(shuffled)
    assert assign_folds(shuffled, options) == folds


def test_every_case_is_tested_in_exactly_one_fold():
    cases = cohort(23, site=lambda n: str(n % 2))
    tested = Counter()
    for fold in range(5):
        splits = assign_splits(cases, FoldSplit(count=5, fold=fold, stratify="site"))
        assert set(splits.values()) == {"train", "validation", "test"}
        tested.update(c for c, split in splits.items() if split == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == 23


def test_folds_of_equal_patients_differ_by_one_at_most():
    counts = Counter(assign_folds(cohort(23), FoldSplit(count=5)).values())
    assert sorted(counts.values()) == [4, 4, 5, 5, 5]


def test_folds_of_the_manifest_win():
    cases = [case(f"c{n}", fold=n % 3) for n in range(6)]
    assert assign_folds(cases, FoldSplit(count=3)) == {f"c{n}": n % 3 for n in range(6)}
    with pytest.raises(ManifestError) as caught:
        assign_folds([*cases, case("x"), case("y", "p-c0", fold=1), case("z", fold=9)], FoldSplit(count=4))
    for text in (
        "case x has no fold",
        "several folds: c0 (0), y (1)",
        "case z has fold 9",
        "no case has fold 3",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"training": 0.5, "validation": 0.1, "test": 0.1},
        {"training": 0, "validation": 0.5, "test": 0.5},
        {"training": 1.1, "validation": -0.1, "test": 0},
    ],
)
def test_shares_must_make_sense(values):
    with pytest.raises(ValidationError):
        HoldoutSplit(**values)
    with pytest.raises(ValidationError, match="0 to 4"):
        FoldSplit(fold=5)


@settings(deadline=None, max_examples=60)
@given(
    cases=cohorts,
    count=st.integers(2, 5),
    validation=st.sampled_from(["next", "none", "tested"]),
    seed=st.integers(0, 3),
)
def test_over_all_folds_every_case_is_tested_once_and_no_patient_trains_the_network_that_predicts_it(
    cases, count, validation, seed
):
    patients = {c.case_id: c.patient_id for c in cases}
    if len(set(patients.values())) < count or (validation == "next" and count < 3):
        return
    options = FoldSplit(count=count, fold="all", validation=validation, seed=seed)
    folds = assign_folds(cases, options)
    assert set(assign_splits(cases, options).values()) == {"test"}
    tested = Counter()
    for fold in range(count):
        splits = splits_of_fold(folds, options, fold=fold)
        parts = {
            name: {patients[c] for c, split in splits.items() if split == name} for name in splits.values()
        }
        assert not parts["train"] & parts["test"]
        assert ("validation" in parts) == (validation == "next")
        if validation == "next":
            assert not parts["validation"] & (parts["train"] | parts["test"])
        tested.update(c for c, split in splits.items() if split == "test")
        assert splits == assign_splits(cases, options.model_copy(update={"fold": fold}))
    assert tested == dict.fromkeys(patients, 1)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"count": 3, "fold": 3}, "fold is 0 to 2 for 3 folds, or all; found 3"),
        ({"count": 2}, "validation: next needs 3 folds or more"),
        ({"fold": "every"}, "fold"),
        ({"validation": "best"}, "validation"),
    ],
)
def test_folds_that_cannot_be_are_refused(wrong, text):
    with pytest.raises(ValidationError, match=text):
        FoldSplit.model_validate(wrong)
