"""Matching of instances, counts, panoptic quality, AP and FROC against answers by hand and laws."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medseg.components
from medseg.errors import GeometryError
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.detect_case import detect_case
from medseg.evaluation.detection import summarise_detection
from medseg.evaluation.detection_curves import (
    RankedCase,
    Ranking,
    average_precision,
    froc_points,
    froc_sensitivities,
)
from medseg.evaluation.detection_records import CaseDetection, Overlap
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_match import assign
from medseg.evaluation.instance_options import DetectionOptions, RecogniseOptions
from medseg.labels import Label, LabelScheme, LabelTable

TABLE = LabelTable(
    labels=(Label(name="car", value=1, colour="#00ff00"), Label(name="man", value=2, colour="#ff0000")),
    ignore=255,
    schemes={"either": LabelScheme(name="either", values={3: ("car", "man")})},
)
CARS = RecogniseOptions(labels=("car",))
IOU = DetectionOptions()


def canvas(*boxes: tuple[slice, slice], shape=(30, 20)) -> np.ndarray:
    picture = np.zeros(shape, dtype=np.uint8)
    for box in boxes:
        picture[box] = 1
    return picture


def detect(prediction, reference, *, options=IOU, case_id="c", patient_id="", recognise=CARS, sure=None):
    return detect_case(
        prediction,
        TABLE.encode(reference)[None],
        ImageFacts(shape=prediction.shape),
        table=TABLE,
        recognise=recognise,
        options=options,
        case_id=case_id,
        patient_id=patient_id,
        confidences={("car", n + 1): value for n, value in enumerate(sure or ())},
    )


def summed(*cases, options=IOU, samples=100):
    return summarise_detection(cases, options, samples=samples, level=0.95, seed=1)


def of_cars(*cases, options=IOU):
    return summed(*cases, options=options).structures["car"]


A, B = np.s_[2:8, 2:8], np.s_[12:18, 2:8]


def test_found_missed_and_invented():
    prediction = canvas(np.s_[2:8, 3:8], np.s_[20:23, 10:14])
    found = detect(prediction, canvas(A, B))
    (cars,) = found.structures
    # Numbers go by size, then by place: 30 pixels over the first of 36, then 12 that match nothing.
    assert [(c.number, c.matched, c.invented) for c in cars.predicted] == [(1, 1, False), (2, None, True)]
    assert cars.predicted[0].iou == pytest.approx(30 / 36)
    assert [(t.number, t.matched) for t in cars.reference] == [(1, 1), (2, None)]
    total = of_cars(found)
    assert (total.references, total.predicted, total.found, total.missed, total.invented) == (2, 2, 1, 1, 1)
    assert total.rates["precision"].value == total.rates["recall"].value == total.rates["f1"].value == 0.5
    assert total.rates["sq"].value == pytest.approx(30 / 36)
    assert total.rates["rq"].value == 0.5
    assert total.rates["pq"].value == pytest.approx(15 / 36)
    assert [row["state"] for row in found.rows()] == ["found", "missed", "invented"]
    listed = summed(found)
    assert listed.missed == (
        {"case_id": "c", "structure": "car", "number": 2, "text": "36.0 pixels, long axis 7.81 pixels"},
    )
    assert [entry["number"] for entry in listed.invented] == [2]


def test_one_prediction_over_two_references_finds_one():
    found = detect(canvas(np.s_[2:18, 2:8]), canvas(A, B), options=DetectionOptions(min_iou=0.3))
    (cars,) = found.structures
    assert cars.predicted[0].matched == 1
    assert cars.predicted[0].iou == pytest.approx(36 / 96)
    assert cars.reference[1].iou == pytest.approx(36 / 96)
    total = of_cars(found)
    assert (total.found, total.missed, total.invented) == (1, 1, 0)
    # With an IoU of one half or less nothing is matched for the panoptic quality.
    assert total.rates["pq"].value == 0.0
    assert total.rates["sq"].reason == "no instance is matched with an IoU above 0.5"


def test_two_predictions_on_one_reference_one_is_invented():
    prediction = canvas(np.s_[2:5, 2:8], np.s_[6:8, 2:8])
    options = DetectionOptions(match="overlap", min_overlap=0.3)
    (cars,) = detect(prediction, canvas(A), options=options).structures
    assert [(c.matched, c.invented) for c in cars.predicted] == [(1, False), (None, True)]


def test_touching_instances_are_one():
    reference = canvas(A, np.s_[8:14, 2:8])
    (cars,) = detect(canvas(A), reference).structures
    assert len(cars.reference) == 1
    assert cars.predicted[0].iou == pytest.approx(0.5)
    assert cars.predicted[0].matched == 1
    corner = canvas(A, np.s_[8:14, 8:14])
    assert len(detect(corner, corner).structures[0].reference) == 1
    faces = RecogniseOptions(labels=("car",), connectivity="faces")
    assert len(detect(corner, corner, recognise=faces).structures[0].reference) == 2


def test_the_assignment_finds_more_pairs_than_the_greedy_one():
    def pair(p, r, iou):
        return Overlap(predicted=p, reference=r, iou=iou, covered=iou, centre=False)

    # Greedy takes (1, 1) and leaves 2 and the second reference without a partner.
    chosen = assign([pair(1, 1, 0.6), pair(1, 2, 0.3), pair(2, 1, 0.3)])
    assert {p: o.reference for p, o in chosen.items()} == {1: 2, 2: 1}
    # As many pairs either way: the larger sum of IoU.
    chosen = assign([pair(1, 1, 0.5), pair(1, 2, 0.4), pair(2, 1, 0.2), pair(2, 2, 0.4)])
    assert {p: o.reference for p, o in chosen.items()} == {1: 1, 2: 2}
    # A tie: the more confident one, then the one of smaller number.
    tied = [pair(1, 1, 0.5), pair(2, 1, 0.5)]
    assert list(assign(tied, [0.2, 0.9])) == [2]
    assert list(assign(tied)) == [1]
    assert assign([]) == {}


def test_the_rules_of_matching():
    # A ring around the reference: IoU small, its centre in the reference.
    ring = canvas(np.s_[2:16, 2:16])
    ring[3:15, 3:15] = 0
    target = canvas(np.s_[7:11, 7:11])
    by_rule = {
        rule: detect(ring, target, options=DetectionOptions(match=rule)).structures[0].predicted[0].matched
        for rule in ("iou", "overlap", "centre")
    }
    assert by_rule == {"iou": None, "overlap": None, "centre": 1}
    part = canvas(np.s_[7:8, 7:9])
    assert (
        detect(part, target, options=DetectionOptions(match="overlap")).structures[0].predicted[0].matched
        == 1
    )
    assert (
        detect(part, target, options=DetectionOptions(match="overlap", min_overlap=0.2))
        .structures[0]
        .predicted[0]
        .matched
        is None
    )


def test_empty_sets():
    nothing, cars = canvas(), canvas(A)
    empty = of_cars(detect(nothing, nothing))
    assert (empty.references, empty.predicted) == (0, 0)
    assert empty.rates["f1"].value is None
    assert empty.rates["f1"].reason == "no case has an instance, predicted or in the reference"
    invented = of_cars(detect(cars, nothing, sure=[0.5]))
    assert (invented.rates["precision"].value, invented.rates["f1"].value) == (0.0, 0.0)
    assert invented.rates["pq"].value == 0.0
    assert invented.rates["recall"].reason == "no case has a reference instance"
    assert invented.rates["mean_ap"].value is None
    missed = of_cars(detect(nothing, cars))
    assert (missed.rates["recall"].value, missed.rates["pq"].value) == (0.0, 0.0)
    assert missed.rates["precision"].reason == "no instance was predicted"
    assert missed.rates["ap_0.5"].value == 0.0
    assert missed.rates["froc_1"].value == 0.0


def test_open_voxels_count_for_nothing():
    reference = canvas(A)
    reference[8:14, 2:8] = 255
    # Grown into what is open: the IoU is that of the rest.
    grown = canvas(np.s_[2:14, 2:8])
    (cars,) = detect(grown, reference).structures
    assert cars.predicted[0].iou == 1.0
    alone = canvas(np.s_[9:13, 3:7])
    (cars,) = detect(alone, reference).structures
    assert cars.predicted[0].set_aside
    total = of_cars(detect(alone, reference))
    assert (total.missed, total.invented, total.set_aside) == (1, 0, 1)
    assert total.rates["precision"].reason == "no instance was predicted"


def test_a_reference_that_does_not_tell_is_not_judged():
    reference = canvas()
    encoded = TABLE.encode(np.where(canvas(A) > 0, 3, 0), scheme="either")
    found = detect_case(
        canvas(A),
        encoded,
        ImageFacts(shape=reference.shape),
        table=TABLE,
        recognise=CARS,
        options=IOU,
        case_id="c",
    )
    assert not found.structures[0].judged
    summary = summed(found)
    assert summary.not_judged == ({"case_id": "c", "structure": "car"},)
    assert summary.structures["car"].cases == 0
    assert summary.missed == summary.invented == ()


def test_least_size_counts_on_both_sides():
    recognise = RecogniseOptions(labels=("car",), min_pixels=20)
    found = detect(canvas(A, np.s_[20:22, 3:5]), canvas(B, np.s_[20:22, 3:5]), recognise=recognise)
    assert (len(found.structures[0].predicted), len(found.structures[0].reference)) == (1, 1)


@pytest.mark.parametrize("match", ["iou", "overlap", "centre"])
def test_what_lies_over_a_reference_below_the_least_size_is_no_false_alarm(match):
    recognise = RecogniseOptions(labels=("car",), min_pixels=20)
    small, larger, elsewhere = np.s_[20:24, 3:7], np.s_[20:25, 3:7], np.s_[2:7, 12:17]
    found = detect(
        canvas(larger, elsewhere),
        canvas(small),
        recognise=recognise,
        options=DetectionOptions(match=match),
    )
    states = [(c.voxels, c.set_aside, c.invented) for c in found.structures[0].predicted]
    assert states == [(25, False, True), (20, True, False)]
    assert found.structures[0].reference == ()
    summary = summed(found).structures["car"]
    assert (summary.invented, summary.set_aside) == (1, 1)


def test_grids_must_agree():
    with pytest.raises(GeometryError, match="must share a grid"):
        detect(canvas(A), canvas(A, shape=(20, 30)))


def test_json_round_trip():
    found = detect(canvas(A, B), canvas(A, np.s_[11:17, 2:8]), sure=[0.9, 0.5], patient_id="p")
    again = CaseDetection.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    json.dumps(summed(found).to_json(), allow_nan=False)


def test_all_found_is_no_certainty():
    cases = [detect(canvas(A), canvas(A), sure=[0.9], case_id=str(n), patient_id=str(n)) for n in range(11)]
    cases.append(detect(canvas(), canvas(), case_id="healthy", patient_id="healthy"))
    rates = of_cars(*cases).rates
    exact = (0.025 ** (1 / 11), 1.0)
    for name in ("recall", "precision", "f1", "pq", "ap_0.5", "froc_1"):
        assert rates[name].interval == pytest.approx(exact), name
    missed = [detect(canvas(), canvas(A), case_id=str(n), patient_id=str(n)) for n in range(4)]
    assert of_cars(*missed).rates["recall"].interval == pytest.approx((0.0, 1 - 0.025**0.25))


# Curves


def ranking(*cases: tuple[str, list[float], list[bool], int]) -> Ranking:
    ranked = [
        RankedCase(patient_id=p, confidences=tuple(c), found=tuple(f), references=n) for p, c, f, n in cases
    ]
    patients = sorted({case.patient_id for case in ranked})
    columns = np.array([patients.index(case.patient_id) for case in ranked], dtype=np.intp)
    return Ranking.of(ranked, columns, len(patients))


def ones(rank: Ranking) -> np.ndarray:
    return np.ones((1, len(rank.cases)), dtype=np.int32)


def test_average_precision_by_hand():
    rank = ranking(("p", [0.9, 0.8, 0.7], [True, False, True], 2))
    # Precision 1 up to recall 0.5 (51 of the 101 recalls), then 2 / 3.
    assert average_precision(rank, ones(rank))[0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # At each recall counts the best precision at that recall or a larger one.
    late = ranking(("p", [0.9, 0.8, 0.7, 0.6], [False, True, True, True], 3))
    assert average_precision(late, ones(late))[0] == pytest.approx(0.75)
    perfect = ranking(("p", [0.9], [True], 1))
    assert average_precision(perfect, ones(perfect))[0] == pytest.approx(1.0)
    half = ranking(("p", [0.9], [True], 2))
    assert average_precision(half, ones(half))[0] == pytest.approx(51 / 101)
    nothing = ranking(("p", [], [], 2))
    assert average_precision(nothing, ones(nothing))[0] == 0.0
    no_reference = ranking(("p", [0.5], [False], 0))
    assert np.isnan(average_precision(no_reference, ones(no_reference))[0])


def test_equal_confidences_enter_together():
    one = ranking(("p", [0.5, 0.5], [True, False], 1))
    other = ranking(("p", [0.5, 0.5], [False, True], 1))
    assert average_precision(one, ones(one))[0] == average_precision(other, ones(other))[0] == 0.5
    assert froc_points(one) == froc_points(other) == [(0.5, 1.0, 1.0)]


def test_froc_by_hand():
    rank = ranking(("p", [0.9, 0.6, 0.3], [True, False, True], 2), ("q", [0.8], [False], 1), ("q", [], [], 1))
    # Three cases, four references; invented at 0.8 and 0.6.
    assert froc_points(rank) == [
        (0.9, 0.0, 0.25),
        (0.8, pytest.approx(1 / 3), 0.25),
        (0.6, pytest.approx(2 / 3), 0.25),
        (0.3, pytest.approx(2 / 3), 0.5),
    ]
    shares = froc_sensitivities(rank, ones(rank), (0.125, 1 / 3, 0.5, 1))[0]
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.25, 0.5])


def test_duplicates_are_invented_in_the_curves():
    prediction = canvas(np.s_[2:5, 2:8], np.s_[6:8, 2:8])
    options = DetectionOptions(match="overlap", min_overlap=0.3, ap_iou=(0.3,))
    total = of_cars(detect(prediction, canvas(A), options=options, sure=[0.4, 0.9]), options=options)
    # The more confident one, of 12 pixels, takes the reference for the FROC.
    assert total.curve == ((0.9, 0.0, 1.0), (0.4, 1.0, 1.0))
    assert total.rates["ap_0.3"].value == 1.0


def test_without_confidence_there_is_no_curve():
    total = of_cars(detect(canvas(A), canvas(A)))
    assert total.rates["mean_froc"].reason == "some predicted instances have no confidence"
    assert total.curve == ()


def test_bootstrap_draws_patients_with_all_their_cases():
    good, bad = detect(canvas(A), canvas(A), case_id="a", patient_id="p", sure=[0.9]), []
    for n in range(3):
        bad.append(detect(canvas(B), canvas(A), case_id=f"b{n}", patient_id="q", sure=[0.5]))
    total = of_cars(good, *bad)
    # A resample holds p twice, q twice or both: recall 1, 0 or 1 / 4.
    assert total.rates["recall"].value == 0.25
    assert total.rates["recall"].interval == (0.0, 1.0)
    assert of_cars(good).rates["recall"].interval is None


def test_weights_of_patients_are_as_good_as_repeated_cases():
    rng = np.random.default_rng(5)
    cases = []
    for p in "abc":
        count = int(rng.integers(2, 6))
        falling = sorted(np.round(rng.random(count), 1).tolist(), reverse=True)
        cases.append((p, falling, (rng.random(count) < 0.6).tolist(), count))
    rank = ranking(*cases)
    weights = PatientBootstrap.draw(list("abc"), samples=20, level=0.9, seed=1).weights
    for row in weights:
        repeated = [
            (f"{p}{n}", c, f, k) for (p, c, f, k), w in zip(cases, row, strict=True) for n in range(w)
        ]
        again = ranking(*repeated)
        assert average_precision(rank, row[None])[0] == pytest.approx(
            average_precision(again, ones(again))[0]
        )
        np.testing.assert_allclose(
            froc_sensitivities(rank, row[None], (0.5, 1, 2)),
            froc_sensitivities(again, ones(again), (0.5, 1, 2)),
        )


# Laws

blobs = st.lists(
    st.tuples(st.integers(0, 24), st.integers(0, 15), st.integers(1, 6), st.integers(1, 5)), max_size=7
)


def drawn(rectangles) -> np.ndarray:
    return canvas(*(np.s_[i : i + a, j : j + b] for i, j, a, b in rectangles))


@settings(max_examples=15)
@given(mine=blobs, theirs=blobs, seed=st.integers(0, 5))
def test_laws_of_detection(mine, theirs, seed):
    prediction, reference = drawn(mine), drawn(theirs)
    sure = np.round(np.random.default_rng(seed).random(30), 1).tolist()
    found = detect(prediction, reference, sure=sure, options=DetectionOptions(min_iou=0.2))
    total = of_cars(found)
    rates = {name: rate.value for name, rate in total.rates.items()}
    assert total.found + total.missed == total.references
    assert total.found + total.invented == total.predicted
    if rates["pq"] is not None:
        assert rates["pq"] == pytest.approx((rates["sq"] or 0.0) * rates["rq"])
    shares = [rates[f"froc_{level:g}"] for level in IOU.froc]
    if shares[0] is not None:
        assert all(a <= b for a, b in pairwise(shares))
        precisions = [rates[f"ap_{t:g}"] for t in IOU.ap_iou]
        assert all(0 <= p <= 1 for p in precisions)
    # The matching is one to one.
    taken = [c.matched for c in found.structures[0].predicted if c.matched is not None]
    assert len(set(taken)) == len(taken) == total.found
    # Mirrored, the instances come in another order and the numbers stay.
    names = {(c.voxels, c.iou): value for c, value in zip(found.structures[0].predicted, sure, strict=False)}
    turned = detect(prediction[::-1, ::-1], reference[::-1, ::-1], options=DetectionOptions(min_iou=0.2))
    again = of_cars(turned)
    assert (again.found, again.missed, again.invented) == (total.found, total.missed, total.invented)
    for name in ("pq", "sq", "rq", "f1"):
        assert again.rates[name].value == pytest.approx(rates[name])
    assert len(names) <= total.predicted


@settings(max_examples=6)
@given(st.permutations(range(4)), st.data())
def test_the_order_of_cases_makes_no_difference(order, data):
    cases = [
        detect(
            drawn(data.draw(blobs)),
            drawn(data.draw(blobs)),
            case_id=f"c{n}",
            patient_id=f"p{n % 3}",
            sure=[0.9, 0.5, 0.5, 0.2, 0.1, 0.1, 0.1],
        )
        for n in range(4)
    ]
    assert summed(*(cases[n] for n in order)).to_json() == summed(*cases).to_json()


def test_swapped_sides_swap_precision_and_recall():
    prediction, reference = canvas(A, np.s_[20:25, 9:15]), canvas(np.s_[2:8, 3:8])
    one, other = of_cars(detect(prediction, reference)), of_cars(detect(reference, prediction))
    assert one.rates["precision"].value == other.rates["recall"].value == 0.5
    assert one.rates["pq"].value == other.rates["pq"].value


def test_slabs_make_no_difference(monkeypatch):
    rng = np.random.default_rng(2)
    shape = (14, 11, 9)
    prediction = (rng.random(shape) < 0.12).astype(np.uint8)
    reference = np.where(rng.random(shape) < 0.5, prediction, rng.random(shape) < 0.05).astype(np.uint8)
    options = DetectionOptions(match="centre")
    whole = detect(prediction, reference, options=options)
    monkeypatch.setattr(medseg.components, "SLAB_VOXELS", 300)
    assert detect(prediction, reference, options=options) == whole
    assert len(whole.structures[0].pairs) > 3
