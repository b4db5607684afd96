"""Looks at probabilities on disk: whole, with their key, made again where they are damaged."""

import numpy as np

from medseg.calibration.look import CaseLook
from medseg.calibration.reliability import ReliabilitySums
from medseg.calibration.voxels import VoxelSample
from medseg.data.manifest import Case
from medseg.pipeline.looks import MOST_CASES, LookStore, chosen_cases


def look() -> CaseLook:
    rng = np.random.default_rng(0)

    def sums():
        one = ReliabilitySums.empty()
        one.add(rng.random(50), rng.random(50) > 0.5)
        return one

    return CaseLook(
        patient_id="p1",
        unscaled={"": sums(), "lung": sums()},
        calibrated={"": sums(), "lung": sums()},
        sample=VoxelSample(values=rng.random((3, 7)).astype(np.float32), allowed=rng.random((7, 3)) > 0.5),
        sizes={},
    )


def test_a_look_comes_back_with_its_key_alone(tmp_path):
    store, given = LookStore(tmp_path / "looks"), look()
    assert store.read("case/1", "key", patient_id="p1") is None
    store.write("case/1", "key", given)
    assert store.read("case/1", "other", patient_id="p1") is None
    found = store.read("case/1", "key", patient_id="p1")
    assert found.patient_id == "p1"
    for state in ("unscaled", "calibrated"):
        for name, sums in getattr(given, state).items():
            np.testing.assert_array_equal(getattr(found, state)[name].row(), sums.row())
            assert getattr(found, state)[name].table.shape == sums.table.shape
    np.testing.assert_array_equal(found.sample.values, given.sample.values)
    np.testing.assert_array_equal(found.sample.allowed, given.sample.allowed)


def test_a_damaged_look_is_as_good_as_none(tmp_path):
    store = LookStore(tmp_path)
    store.write("c", "key", look())
    (path,) = tmp_path.glob("*.npz")
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"\0" * len(data)):
        path.write_bytes(broken)
        assert store.read("c", "key", patient_id="p1") is None


def test_of_many_cases_the_same_are_chosen_in_any_order():
    cases = [Case(case_id=f"c{n}", patient_id=f"p{n}", images=()) for n in range(MOST_CASES[3] + 9)]
    chosen = chosen_cases(cases, dims=3)
    assert len(chosen) == MOST_CASES[3]
    assert chosen_cases(cases[::-1], dims=3) == chosen
    assert chosen_cases(cases, dims=2) == {case.case_id for case in cases}
