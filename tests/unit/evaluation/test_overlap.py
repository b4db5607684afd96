import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.errors import GeometryError, LabelError
from medseg.evaluation.joint_counts import joint_histogram
from medseg.evaluation.overlap import membership, overlap_metrics, structure_counts
from medseg.labels import Label, LabelScheme, LabelTable

BINARY = np.eye(2, dtype=bool)


def lungs() -> LabelTable:
    return LabelTable(
        labels=(
            Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
            Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
        ),
        regions={"lung": ("lung_right", "lung_left")},
        ignore=255,
        schemes={
            "lung": LabelScheme(name="lung", values={1: ("lung_right", "lung_left")}),
            "with_heart": LabelScheme(
                name="with_heart", values={1: ("lung_left", "background"), 2: ("lung_right", "background")}
            ),
        },
    )


def counts_of(table, prediction, mask, structure, scheme=None):
    matrix = table.set_matrix
    histogram = joint_histogram(
        table.encode(np.asarray(mask), scheme),
        np.asarray(prediction),
        set_count=len(matrix),
        class_count=table.class_count,
    )
    return structure_counts(histogram, matrix, table.region_classes()[structure])


def binary_metrics(prediction, reference):
    histogram = joint_histogram(reference, prediction, set_count=2, class_count=2)
    return overlap_metrics(structure_counts(histogram, BINARY, (1,)))


def test_two_by_two_by_hand():
    prediction = np.array([[1, 1], [0, 0]])
    reference = np.array([[1, 0], [1, 0]])
    assert binary_metrics(prediction, reference) == {
        "dice": 0.5,
        "iou": pytest.approx(1 / 3),
        "precision": 0.5,
        "recall": 0.5,
        "specificity": 0.5,
        "accuracy": 0.5,
        "f1": 0.5,
    }


def test_histogram_is_the_same_in_blocks(monkeypatch):
    rng = np.random.default_rng(3)
    reference, prediction = rng.integers(0, 5, (37, 11)), rng.integers(0, 3, (37, 11)).astype(np.uint8)
    whole = joint_histogram(reference, prediction, set_count=5, class_count=3)
    monkeypatch.setattr("medseg.evaluation.joint_counts._BLOCK_VOXELS", 40)
    np.testing.assert_array_equal(whole, joint_histogram(reference, prediction, set_count=5, class_count=3))
    assert whole.sum() == 37 * 11
    assert whole[4, 2] == ((reference == 4) & (prediction == 2)).sum()


def test_missed_structure_is_the_worst_case():
    counts = counts_of(lungs(), [[0, 0, 2]], [[1, 1, 2]], "lung_right")
    assert counts.state == "missed"
    metrics = overlap_metrics(counts)
    assert [metrics[m] for m in ("dice", "iou", "precision", "recall", "f1")] == [0.0] * 5
    assert metrics["specificity"] == 1.0
    assert metrics["accuracy"] == pytest.approx(1 / 3)


def test_false_positive_on_an_empty_reference_is_zero():
    counts = counts_of(lungs(), [[1, 0, 2]], [[0, 0, 2]], "lung_right")
    assert counts.state == "false_positive"
    metrics = overlap_metrics(counts)
    assert (metrics["dice"], metrics["recall"], metrics["specificity"]) == (0.0, 0.0, pytest.approx(2 / 3))


def test_both_empty_has_no_metric():
    counts = counts_of(lungs(), [[0, 0, 2]], [[0, 0, 2]], "lung_right")
    assert counts.state == "both_empty"
    assert set(overlap_metrics(counts).values()) == {None}


def test_specificity_is_not_defined_where_the_reference_fills_everything():
    metrics = binary_metrics(np.array([[1, 0]]), np.array([[1, 1]]))
    assert metrics["specificity"] is None
    assert metrics["recall"] == 0.5


def test_scheme_that_names_only_the_region_judges_the_region_not_the_sides():
    prediction = [[1, 1, 2, 0]]
    mask = [[1, 1, 1, 1]]
    region = counts_of(lungs(), prediction, mask, "lung", "lung")
    assert (region.tp, region.fp, region.fn, region.tn, region.state) == (3, 0, 1, 0, "judged")
    for side in ("lung_left", "lung_right"):
        counts = counts_of(lungs(), prediction, mask, side, "lung")
        assert counts.state == "not_judged"
        assert (counts.unknown, counts.partial, counts.judged) == (4, 4, 0)


def test_lung_or_background_is_not_judged():
    counts = counts_of(lungs(), [[1, 0, 0]], [[2, 2, 0]], "lung_right", "with_heart")
    assert (counts.state, counts.judged) == ("not_judged", 1)
    assert set(overlap_metrics(counts).values()) == {None}


def test_ignored_voxels_are_left_out_and_the_rest_is_judged():
    counts = counts_of(lungs(), [[1, 1, 0, 0]], [[1, 255, 255, 0]], "lung_right")
    assert (counts.tp, counts.fp, counts.fn, counts.tn, counts.unknown) == (1, 0, 0, 1, 2)
    empty = counts_of(lungs(), [[1, 1, 0, 0]], [[0, 255, 255, 0]], "lung_right")
    assert empty.state == "false_positive"
    nothing = counts_of(lungs(), [[1, 1]], [[255, 255]], "lung_right")
    assert nothing.state == "not_judged"


def test_membership_of_sets():
    table = lungs()
    which = membership(table.set_matrix, table.region_classes()["lung"])
    names = {
        frozenset(s): (bool(i), bool(u), bool(p))
        for s, i, u, p in zip(table.sets, which.inside, which.unknown, which.partial, strict=True)
    }
    assert names[frozenset({0})] == (False, False, False)
    assert names[frozenset({1, 2})] == (True, False, False)
    assert names[frozenset({0, 1})] == (False, True, True)
    assert names[frozenset({0, 1, 2})] == (False, True, False)


def test_refusals():
    zeros = np.zeros((2, 3), dtype=int)
    with pytest.raises(GeometryError, match=r"share a grid, found \(3, 2\) and \(2, 3\)"):
        joint_histogram(zeros, zeros.T, set_count=2, class_count=2)
    with pytest.raises(LabelError, match=r"predicted class index must be 0\.\.1, found 0\.\.7"):
        joint_histogram(zeros, np.array([[0, 0, 7], [0, 0, 0]]), set_count=2, class_count=2)
    with pytest.raises(LabelError, match="whole numbers"):
        joint_histogram(zeros, zeros.astype(float), set_count=2, class_count=2)


@given(hnp.arrays(np.int64, (2, 5, 4), elements=st.integers(0, 1)))
def test_dice_is_symmetric_and_in_range(masks):
    one, two = binary_metrics(*masks), binary_metrics(*masks[::-1])
    assert one["dice"] == two["dice"]
    assert one["precision"] == two["recall"]
    if one["dice"] is None:
        assert not masks.any()
        return
    assert 0.0 <= one["iou"] <= one["dice"] <= 1.0
    assert one["dice"] == pytest.approx(2 * one["iou"] / (1 + one["iou"]))
    assert (one["dice"] == 1.0) == bool((masks[0] == masks[1]).all())


@given(hnp.arrays(np.int64, (2, 6, 5), elements=st.integers(0, 1)))
def test_more_ignored_voxels_change_only_the_judged_counts(masks):
    table = LabelTable(labels=(Label(name="a", value=1, colour="#ffffff"),), ignore=9)
    hidden = masks[1].copy()
    hidden[:3] = 9
    whole, part = (counts_of(table, masks[0], m, "a") for m in (masks[1], hidden))
    kept = counts_of(table, masks[0][3:], masks[1][3:], "a")
    assert (part.tp, part.fp, part.fn, part.tn) == (kept.tp, kept.fp, kept.fn, kept.tn)
    assert part.judged + part.unknown == whole.judged


def test_equal_to_monai():
    import torch
    from monai.metrics import compute_dice, compute_iou, get_confusion_matrix
    from monai.metrics.confusion_matrix import compute_confusion_matrix_metric

    rng = np.random.default_rng(0)
    for density in (0.1, 0.5, 0.9):
        prediction, reference = (rng.random((2, 31, 17)) < density).astype(int)
        ours = binary_metrics(prediction, reference)
        one_hot = [torch.from_numpy(np.stack([1 - m, m])[None]).float() for m in (prediction, reference)]
        assert ours["dice"] == pytest.approx(
            compute_dice(*one_hot, include_background=False).item(), abs=1e-6
        )
        assert ours["iou"] == pytest.approx(compute_iou(*one_hot, include_background=False).item(), abs=1e-6)
        matrix = get_confusion_matrix(*one_hot, include_background=False)
        names = {
            "precision": "precision",
            "recall": "sensitivity",
            "specificity": "specificity",
            "accuracy": "accuracy",
            "f1": "f1 score",
        }
        for own, theirs in names.items():
            expected = compute_confusion_matrix_metric(theirs, matrix).item()
            assert ours[own] == pytest.approx(expected, abs=1e-6)
