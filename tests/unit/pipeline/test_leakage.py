"""Evaluated images that the network was trained on stop the evaluation."""

from types import SimpleNamespace

import pytest

from medseg.errors import ManifestError
from medseg.pipeline.evaluate import _leakage
from medseg.pipeline.leakage import Seen, find_leaks


def seen(case_id, patient_id, digest):
    return Seen(case_id=case_id, patient_id=patient_id, digest=digest)


def test_the_same_pixels_and_the_same_patient_are_leaks():
    trained = [seen("t2", "p2", "bb"), seen("t1", "p1", "aa"), seen("t3", "p3", "cc")]
    assert find_leaks(seen("x", "p9", "dd"), trained) == []
    assert find_leaks(seen("x", "p9", "aa"), trained) == ["x has the same pixels as the training case t1"]
    assert find_leaks(seen("x", "p2", "dd"), trained) == ["x is of the same patient as the training case t2"]


def context(splits, digests, *, folds=None):
    """As much of a run as the check looks at."""
    cases = tuple(SimpleNamespace(case_id=i, patient_id=f"p-{i}") for i in splits)
    return SimpleNamespace(
        settings=SimpleNamespace(training=object()),
        cases=cases,
        splits=splits,
        folds=folds or {},
        every_fold=bool(folds),
        facts={i: {"pixel_sha256": digest} for i, digest in digests.items()},
    )


def test_evaluated_pixels_are_held_against_training_and_validation_cases():
    splits = {"t": "train", "v": "validation", "x": "test"}
    run = context(splits, {"t": "aa", "v": "bb", "x": "cc"})
    found = _leakage(run, [seen("x", "p-x", "cc")])
    assert found == {"checked": True, "evaluated": 1, "against": 2, "training_cases_evaluated": 0}
    for digest, twin in (("aa", "t"), ("bb", "v")):
        with pytest.raises(ManifestError, match=f"x has the same pixels as the training case {twin}"):
            _leakage(run, [seen("x", "p-x", digest)])


def test_training_cases_that_are_evaluated_on_purpose_are_counted():
    run = context({"t": "train", "x": "test"}, {"t": "aa", "x": "cc"})
    found = _leakage(run, [seen("t", "p-t", "aa"), seen("x", "p-x", "cc")])
    assert found["training_cases_evaluated"] == 1


def test_in_a_cross_validation_only_the_other_folds_count():
    run = context({"a": "train", "b": "train"}, {"a": "aa", "b": "bb"}, folds={"a": 0, "b": 1})
    assert _leakage(run, [seen("a", "p-a", "aa")])["against"] == 1
    with pytest.raises(ManifestError, match="a has the same pixels as the training case b"):
        _leakage(run, [seen("a", "p-a", "bb")])


def test_a_model_from_elsewhere_cannot_be_checked_and_says_so():
    run = SimpleNamespace(settings=SimpleNamespace(training=None))
    assert _leakage(run, []) == {"checked": False, "reason": "the model was not trained in this run"}
