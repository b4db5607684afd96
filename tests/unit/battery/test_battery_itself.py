"""The battery tried on tools that are right, and on tools with the faults it is there to find."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from geometry_battery import (
    VARIATIONS,
    Case,
    all_cases,
    covering_cases,
    mirrored,
    rotation,
    run_case,
    some_cases,
    summary,
    truth_of,
)
from handmade import HANDMADE, write_nifti, write_rtstruct, write_seg

CASE = Case(axes=(2, 0, 1), flips=(True, False, True), turn=1, variation="shuffled")


def variant(name):
    return dataclasses.replace(CASE, variation=name)


def test_every_kind_of_case_is_there_once():
    cases = all_cases()
    assert len(cases) == len(set(cases)) == 48 * 5 * 7
    few = some_cases(48)
    assert len(set(few)) == 48
    assert set(Counter(case.variation for case in few).values()) <= {6, 7}
    assert len({case.axes for case in few}) == 6
    assert len({case.flips for case in few}) == 8


def test_a_fifth_of_the_cases_holds_every_three_values_that_can_meet():
    few, whole = covering_cases(), all_cases()
    assert len(few) == len(set(few)) == 48 * 7
    assert set(few) < set(whole)
    declared = [lambda c: c.axes, lambda c: c.flips, lambda c: c.turn, lambda c: c.variation]
    # What `write_case` makes of the number: transfer syntax, rescaling, storage class.
    derived = [lambda c: c.number % 5, lambda c: c.number % 3 == 0, lambda c: c.number % 2]
    for facts in [*itertools.combinations(declared, 3), *itertools.combinations(declared + derived, 2)]:
        met, possible = ({tuple(fact(case) for fact in facts) for case in cases} for cases in (few, whole))
        assert met == possible


def test_all_cuts_show_one_world():
    def world(case):
        truth = truth_of(case)
        inside = truth.label_map.ravel() > 0
        rows = np.column_stack([truth.points[inside], truth.label_map.ravel()[inside]])
        return rows[np.lexsort(np.round(rows, 6).T)]

    first = world(Case((0, 1, 2), (False,) * 3, 2, "reversed"))
    for axes, flips in (((2, 0, 1), (True, False, True)), ((1, 0, 2), (False, False, True))):
        np.testing.assert_allclose(world(Case(axes, flips, 2, "reversed")), first, atol=1e-9)
    assert np.linalg.det(rotation((17, -11, 23))) == pytest.approx(1)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_right_tools_pass(variation):
    outcome = run_case(variant(variation), HANDMADE)
    assert outcome.as_expected, outcome


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("variation", ["reversed", "tilted", "multi-frame"])
def test_a_mirrored_label_map_is_a_silent_error(variation, axis):
    outcome = run_case(variant(variation), HANDMADE, predict=mirrored(axis))
    assert outcome.status == "silent"
    assert "Dice" in outcome.detail


def shifted(write):
    """The writer, told that the volume lies half a voxel further."""

    def wrong(path, label_map, volume):
        move = np.eye(4)
        move[0, 3] = 0.5
        write(path, label_map, dataclasses.replace(volume, affine=volume.affine @ move))

    return wrong


def mirrored_writer(write):
    return lambda path, label_map, volume: write(path, np.ascontiguousarray(label_map[::-1]), volume)


@pytest.mark.parametrize(
    ("writer", "wrong", "words"),
    [
        ("write_seg", mirrored_writer(write_seg), "seg.dcm by seg_by_planes: Dice"),
        ("write_nifti", mirrored_writer(write_nifti), "mask.nii.gz by nifti_by_nibabel: Dice"),
        ("write_nifti", shifted(write_nifti), "off by 0.500 voxels"),
        ("write_rtstruct", mirrored_writer(write_rtstruct), "centroid of liver is off"),
    ],
)
def test_one_wrong_writer_is_a_silent_error(writer, wrong, words):
    outcome = run_case(CASE, dataclasses.replace(HANDMADE, **{writer: wrong}))
    assert outcome.status == "silent"
    assert words in outcome.detail


def test_contours_beside_the_slices_are_noticed():
    def wrong(path, label_map, volume):
        move = np.eye(4)
        move[2, 3] = 0.4
        write_rtstruct(path, label_map, dataclasses.replace(volume, affine=volume.affine @ move))

    outcome = run_case(CASE, dataclasses.replace(HANDMADE, write_rtstruct=wrong))
    assert (outcome.status, "a contour lies 0.400 slices" in outcome.detail) == ("silent", True)


def test_a_reader_that_closes_its_eyes_is_caught():
    def careless(paths):
        # Reads what the first of two rivals says, and takes a gap for an even step.
        keep = [path for path in paths if Path(path).name != "RIVAL"]
        return HANDMADE.read(keep)

    tools = dataclasses.replace(HANDMADE, read=careless)
    outcome = run_case(variant("doubled"), tools)
    assert (outcome.status, outcome.detail) == ("silent", "the faulty input was read without a word")


def test_the_wrong_words_are_no_refusal():
    outcome = run_case(variant("missing"), HANDMADE)
    assert outcome.as_expected
    assert not dataclasses.replace(outcome, detail="GeometryError: bad").as_expected
    assert not dataclasses.replace(outcome, case=CASE).as_expected
    assert summary([outcome]) == (
        "geometry battery: 1 cases, 0 exact, 1 refusals (1 missing), crashes = 0, silent errors = 0"
    )


def test_nifti_readers_agree_on_a_left_handed_grid(tmp_path):
    from second_opinion import nifti_by_itk, nifti_by_nibabel

    truth = truth_of(Case((1, 0, 2), (False, False, False), 3, "reversed"))
    nib.save(nib.Nifti1Image(np.ascontiguousarray(truth.label_map), truth.affine), tmp_path / "mask.nii.gz")
    for reader in (nifti_by_itk, nifti_by_nibabel):
        found, total = reader(tmp_path / "mask.nii.gz", truth.points)
        np.testing.assert_array_equal(found, truth.label_map.ravel())
        assert total == np.count_nonzero(truth.label_map)
