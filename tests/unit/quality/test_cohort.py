import numpy as np
import pytest

from medseg.evaluation.measure import measure_case
from medseg.labels import Label, LabelTable
from medseg.quality.cohort import at_percentile, cohort_percentiles, cohort_record, percentile_of
from medseg.quality.ranges import fit_ranges

TABLE = LabelTable(
    labels=(Label(name="head", value=1, colour="#ffffff"), Label(name="tail", value=2, colour="#00ff00"))
)


def boxes(shape=(30, 24, 20)) -> np.ndarray:
    label_map = np.zeros(shape, np.uint8)
    label_map[4:14, 6:14, 5:15] = 1
    label_map[18:26, 6:14, 5:15] = 2
    return label_map


def record(label_map, affine, spacing, orientation=None):
    measures = measure_case(
        label_map,
        table=TABLE,
        measures=(),
        case_id="c",
        spacing_mm=spacing,
        affine=affine,
        patient_orientation=orientation,
    )
    return cohort_record(
        label_map, table=TABLE, measures=measures, affine=affine, patient_orientation=orientation
    )


def test_record_by_hand():
    found = record(boxes(), np.diag([2.0, 1.0, 3.0, 1.0]), (2.0, 1.0, 3.0))
    assert found["volume_ml head"] == pytest.approx(800 * 6 / 1000)
    assert found["step head"] == pytest.approx(0.0)
    # 13 voxels of 2 mm between the centres; both fill 1440 voxels of 6 mm3.
    assert found["offset right head/tail"] == pytest.approx(-13 * 2 / (1440 * 6) ** (1 / 3))
    assert found["offset anterior head/tail"] == pytest.approx(0.0)


def test_record_does_not_depend_on_the_stored_order():
    one = record(boxes(), np.diag([2.0, 1.0, 3.0, 1.0]), (2.0, 1.0, 3.0))
    affine = np.zeros((4, 4))
    affine[0, 2], affine[1, 0], affine[2, 1], affine[3, 3] = -2.0, 1.0, 3.0, 1.0
    two = record(np.ascontiguousarray(boxes().transpose(1, 2, 0)[:, :, ::-1]), affine, (1.0, 3.0, 2.0))
    assert {n: v for n, v in two.items() if "step" not in n} == pytest.approx(
        {n: v for n, v in one.items() if "step" not in n}
    )


def test_what_is_cut_off_has_no_size():
    label_map = boxes()
    label_map[0:14, 6:14, 5:15] = 1
    found = record(label_map, np.eye(4), (1.0, 1.0, 1.0))
    assert "volume_ml head" not in found
    assert "offset right head/tail" not in found
    assert "volume_ml tail" in found


def test_percentiles_of_a_cohort():
    ranges = fit_ranges([{"volume_ml head": float(v)} for v in range(101)])
    limits = ranges["volume_ml head"]
    assert at_percentile(limits, 5.0) == pytest.approx(5.0)
    assert percentile_of(50.0, limits) == pytest.approx(50.0)
    assert (percentile_of(-1.0, limits), percentile_of(1e6, limits)) == (0.0, 100.0)
    found = cohort_percentiles({"volume_ml head": 25.0, "step head": 0.1}, ranges)
    assert set(found) == {"volume_ml head"}
    assert found["volume_ml head"]["percentile"] == pytest.approx(25.0)
    old = {"low": 1.0, "median": 2.0, "high": 4.0, "count": 60.0}
    assert at_percentile(old, 99.5) == 4.0
    assert percentile_of(2.0, old) == pytest.approx(50.0)
