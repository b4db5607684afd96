"""The geometry battery through medseg's reader and writers: no silent error.

336 of its cases, in which any three of axis order, flips, turn and way of handing over meet; all 1680
where MEDSEG_WHOLE_BATTERY=1.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from geometry_battery import FAULTS, VARIATIONS, Case, Outcome, all_cases, covering_cases, run_case, summary
from toolchain import MEDSEG

from medseg.io.read import read_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_PROCESSES = 2
_CASES_PER_TASK = 28
CASES = all_cases() if os.environ.get("MEDSEG_WHOLE_BATTERY") == "1" else covering_cases()


def run_cases(cases: list[Case]) -> list[Outcome]:
    """In a worker process: the cases one after the other; warnings are errors there as well."""
    warnings.simplefilter("error")
    return [run_case(case, MEDSEG) for case in cases]


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    tasks = [CASES[start : start + _CASES_PER_TASK] for start in range(0, len(CASES), _CASES_PER_TASK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_PROCESSES, mp_context=context) as pool:
        return [outcome for batch in pool.map(run_cases, tasks) for outcome in batch]


def test_no_silent_error(outcomes, capsys):
    with capsys.disabled():
        sys.stdout.write(f"\n{summary(outcomes)}\n")
    silent = [f"{outcome.case.name}: {outcome.detail}" for outcome in outcomes if outcome.status == "silent"]
    assert len(outcomes) == len(CASES)
    assert silent == []


@pytest.mark.parametrize("variation", VARIATIONS)
def test_only_faulty_inputs_are_refused_and_by_name(outcomes, variation):
    mine = [outcome for outcome in outcomes if outcome.case.variation == variation]
    unexpected = [f"{o.case.name}: {o.status} {o.detail}" for o in mine if not o.as_expected]
    assert len(mine) == len(CASES) / len(VARIATIONS)
    assert unexpected == []
    assert {o.status for o in mine} == {"refused" if variation in FAULTS else "exact"}


def _in_ras(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine after axes are turned to RAS+ by the affine's own largest entries."""
    volume = read_image([path])
    assert volume.affine is not None
    array, affine = volume.array[0], volume.affine
    order = np.argmax(np.abs(affine[:3, :3]), axis=1)
    flips = [affine[world, axis] < 0 for world, axis in enumerate(order)]
    voxels = array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    corner = [array.shape[a] - 1 if affine[w, a] < 0 else 0 for w, a in enumerate(order)]
    origin = np.zeros(4)
    origin[order], origin[3] = corner, 1
    return voxels, np.column_stack([np.abs(affine[:3, :3][:, order]), (affine @ origin)[:3]])


def test_one_head_in_36_orientations(shared_data):
    paths = sorted((shared_data / "orientations").glob("*.nii.gz"))
    assert len(paths) == 36
    reference = nib.load(shared_data / "orientations" / "RAS.nii.gz")
    expected, _ = _in_ras(shared_data / "orientations" / "RAS.nii.gz")
    np.testing.assert_allclose(expected, np.asarray(reference.dataobj), rtol=1e-6)
    for path in paths:
        voxels, placed = _in_ras(path)
        np.testing.assert_array_equal(voxels, expected, err_msg=path.name)
        np.testing.assert_allclose(placed, reference.affine[:3], atol=1e-4, err_msg=path.name)
