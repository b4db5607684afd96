"""Sizes of structures against references, and the intervals of measured sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.calibration.size_intervals import with_intervals
from medseg.calibration.sizes import NO_CASES, SizePair, fit_sizes, size_pairs
from medseg.evaluation.measure import measure_case
from medseg.labels import Label, LabelScheme, LabelTable
from medseg.models.calibration_record import CalibrationRecord, SizeIntervalRecord

TABLE = LabelTable(
    labels=(Label(name="liver", value=1, colour="#ff0000"), Label(name="spleen", value=2, colour="#00ff00")),
    regions={"organs": ("liver", "spleen")},
    schemes={"organ": LabelScheme(name="organ", values={1: ("liver", "spleen")})},
)


def maps():
    prediction, reference = np.zeros((2, 12, 9, 7), dtype=np.int64)
    prediction[2:6, 2:5, 2:5] = 1
    reference[2:6, 2:6, 2:5] = 1
    prediction[8:10, 3:5, 3:5] = 2
    return prediction, reference


def test_sizes_are_counted_in_both_masks():
    found = size_pairs(*maps(), TABLE)
    assert found["liver"] == SizePair(predicted=36, reference=48, unknown=0, cut_off=False)
    assert found["spleen"] == SizePair(predicted=8, reference=0, unknown=0, cut_off=False)
    assert found["organs"] == SizePair(predicted=44, reference=48, unknown=0, cut_off=False)
    assert all(pair.counts for pair in found.values())


def test_what_is_cut_off_not_told_or_in_neither_does_not_count():
    prediction, reference = maps()
    reference[5, 3, :] = 1
    found = size_pairs(prediction, reference, TABLE)
    assert (found["liver"].cut_off, found["spleen"].cut_off, found["organs"].cut_off) == (True, False, True)
    prediction, reference = maps()
    reference[8:10, 3:5, 3:5] = TABLE.sets.index(frozenset({1, 2}))
    found = size_pairs(prediction, reference, TABLE)
    assert (found["liver"].unknown, found["spleen"].unknown, found["organs"].unknown) == (8, 8, 0)
    assert [pair.counts for pair in found.values()] == [False, False, True]
    assert not SizePair(predicted=0, reference=0, unknown=0, cut_off=False).counts


def test_each_structure_gets_its_own_interval_or_a_reason():
    cases = [
        (f"p{k}", {"liver": SizePair(predicted=100, reference=100 + k, unknown=0, cut_off=False)})
        for k in range(1, 20)
    ]
    found = fit_sizes(cases, ["liver", "spleen"])
    assert found["liver"].quantile == pytest.approx(math.log(1.18))
    assert (found["spleen"].quantile, found["spleen"].reason) == (None, NO_CASES)


def measured(record, *, shift=0):
    label_map = np.zeros((12, 9, 7), dtype=np.uint8)
    label_map[2 - shift : 6 - shift, 2:5, 2:5] = 1
    measures = measure_case(
        label_map, table=TABLE, measures=("volume",), case_id="c", spacing_mm=(10.0, 10.0, 10.0)
    )
    return with_intervals(measures, record)


def record_of(**sizes):
    return CalibrationRecord(
        data="validation: 20 images of 20 patients",
        sizes={
            name: SizeIntervalRecord(level=0.9, quantile=q, cases=20, patients=20, reason="" if q else "few")
            for name, q in sizes.items()
        },
    )


def test_volumes_come_with_their_ends():
    found = measured(record_of(liver=math.log(1.2), spleen=math.log(1.5), organs=None)).to_json()[
        "structures"
    ]
    liver = found["liver"]
    assert liver["quantities"]["volume"]["value"] == pytest.approx(36)
    assert (liver["volume_ml_low"], liver["volume_ml_high"]) == pytest.approx((30.0, 43.2))
    assert liver["interval"] == 0.9
    assert liver["quantities"]["volume"]["interval"] == {
        "low": pytest.approx(30.0),
        "high": pytest.approx(43.2),
        "level": 0.9,
    }
    assert (found["spleen"]["volume_ml_low"], found["spleen"]["interval_reason"]) == (None, "absent")
    assert (found["organs"]["volume_ml_high"], found["organs"]["interval_reason"]) == (None, "few")


def test_structures_that_are_cut_off_have_no_interval():
    found = measured(record_of(liver=0.2), shift=2).to_json()["structures"]["liver"]
    assert (found["volume_ml_low"], found["interval_reason"]) == (None, "cut off by the field of view")


def test_rows_tell_the_ends_and_models_without_calibration_tell_nothing():
    rows = {(r["structure"], r["measure"]): r for r in measured(record_of(liver=math.log(1.2))).rows()}
    assert rows["liver", "volume_ml_low"]["value"] == pytest.approx(30.0)
    assert rows["liver", "volume_ml_high"]["note"] == "90 % interval"
    assert rows["liver", "interval"]["value"] == 0.9
    assert ("spleen", "volume_ml_low") not in rows
    plain = measured(None)
    assert not [key for s in plain.to_json()["structures"].values() for key in s if "interval" in key]
    assert {row["measure"] for row in plain.rows()} == {"volume"}
