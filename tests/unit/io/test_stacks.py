"""Slices taken apart and put in order: what is found, what is split, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_slice import SliceHeader
from medseg.io.stacks import build_stacks

FORM = PixelFormat(
    keyword="PixelData",
    rows=4,
    columns=6,
    samples=1,
    bits_allocated=16,
    bits_stored=12,
    high_bit=11,
    signed=False,
    photometric="MONOCHROME2",
)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def at(z, *, name=None, uid=None, direction=AXIAL, position=None, **parts):
    """One header of an axial slice at height z, unless told otherwise."""
    number = name or f"z{z:g}-{'-'.join(str(v) for v in parts.values())}"
    return SliceHeader(
        path=Path(f"/series/{number}"),
        frame=0,
        frames=1,
        patient="P-1",
        sop_class_uid="1.2",
        sop_instance_uid=uid or f"1.9.{number}",
        series_instance_uid="1.3",
        study_instance_uid="1.4",
        frame_of_reference_uid="1.5",
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        position_lps=position or (-10.0, -20.0, float(z)),
        orientation_lps=direction,
        pixel_spacing_mm=(0.7, 0.5),
        thickness_mm=2.0,
        slope=1.0,
        intercept=0.0,
        value_type="HU",
        parts={key.replace("_", " "): (str(value).encode(),) for key, value in parts.items()},
        form=FORM,
        pixels=None,
        transfer_syntax="1.2.840.10008.1.2.1",
        stored_as="1.2.840.10008.1.2.1",
        inflated=None,
    )


def differ(one, other):
    return False


def equal(one, other):
    return True


def build(slices, same_pixels=differ):
    return build_stacks(slices, same_pixels=same_pixels)


def heights(stack):
    return [header.position_lps[2] for header in stack.slices]


@given(st.permutations(range(7)))
def test_order_follows_positions_whatever_the_names(order):
    slices = [at(2.5 * z, name=f"file{n}") for n, z in enumerate(order)]
    (stack,) = build(slices)
    assert heights(stack) == [2.5 * z for z in range(7)]
    np.testing.assert_allclose(stack.affine[:3, 3], [10, 20, 0])
    np.testing.assert_allclose(stack.affine[:3, :3], np.diag([-0.5, -0.7, 2.5]))
    assert not stack.problems


def test_a_missing_slice_is_told_with_its_place():
    (stack,) = build([at(z) for z in (0, 5, 10, 20, 25)])
    assert stack.affine is None
    assert (
        "1 slice is missing: 10.000 mm between slices 3 and 4 of 5 (z10- and z20-), 5.000 mm"
        in stack.problems[0]
    )


def test_several_gaps_are_counted():
    (stack,) = build([at(z) for z in (0, 2, 4, 10, 12, 16)])
    assert stack.problems[0].startswith("3 slices are missing: 6.000 mm between slices 3 and 4 of 6")


@pytest.mark.parametrize("heights_mm", [(0, 5, 10, 17.5, 25), (0, 5, 10, 14, 20), (0, 4.2, 5.3, 9.5, 13.7)])
def test_changing_spacing_is_told(heights_mm):
    (stack,) = build([at(z) for z in heights_mm])
    assert "not evenly spaced" in stack.problems[0]


def test_rounding_of_positions_is_no_change_of_spacing():
    (stack,) = build([at(round(z * 1.0416667, 2)) for z in range(40)])
    assert not stack.problems


def test_a_slice_out_of_line_is_told():
    slices = [at(z) for z in (0, 5, 10, 15)]
    slices[2] = replace(slices[2], position_lps=(-7.0, -20.0, 10.0))
    (stack,) = build(slices)
    assert "slice 3 of 4 lies 3.000 mm from where an even step" in stack.problems[0]


def test_tilt_gives_a_sheared_affine_and_a_note():
    tilted = (1.0, 0.0, 0.0, 0.0, np.cos(0.3), -np.sin(0.3))
    (stack,) = build([at(z, direction=tilted) for z in (0, 5, 10)])
    assert stack.tilt_degrees == pytest.approx(np.degrees(0.3))
    np.testing.assert_allclose(stack.affine[:3, 2], [0, 0, 5])
    assert "tilted by 17.19 degrees" in stack.notes[0]


def test_orientations_are_taken_apart():
    slices = [at(z) for z in (0, 5)] + [
        at(0, direction=CORONAL, position=(0.0, 7.0 * n, 50.0), name=f"c{n}") for n in range(3)
    ]
    axial, coronal = sorted(build(slices), key=lambda stack: len(stack.slices))
    assert (axial.part, coronal.part) == ("axial 6 x 4", "coronal 6 x 4")
    assert not axial.problems
    assert not coronal.problems


def test_other_sizes_and_pixel_spacings_are_taken_apart():
    wide = replace(at(10), form=replace(FORM, columns=8))
    coarse = replace(at(15), pixel_spacing_mm=(0.9, 0.5))
    parts = {stack.part: len(stack.slices) for stack in build([at(0), at(5), wide, coarse])}
    assert parts == {"axial 6 x 4": 1, "axial 8 x 4": 1} or sorted(parts) == ["axial 6 x 4", "axial 8 x 4"]
    assert len(build([at(0), at(5), wide, coarse])) == 3


def test_b_values_are_taken_apart_by_number():
    slices = [at(z, b_value=b, name=f"{b}-{z}") for z in (0, 3, 6) for b in (0, 1000, 50)]
    slices = [replace(s, parts={"b-value": s.parts["b value"]}) for s in slices]
    assert [stack.part for stack in build(slices)] == ["b-value 0", "b-value 50", "b-value 1000"]


def test_directions_within_a_b_value():
    slices = [at(z, name=f"b0-{z}", sequence="ep_b0") for z in (0, 3)]
    slices += [at(z, name=f"b1-{d}-{z}", sequence="ep_b1000", direction_=d) for z in (0, 3) for d in (1, 2)]
    slices = [replace(s, parts={k.strip(): v for k, v in s.parts.items()}) for s in slices]
    assert [stack.part for stack in build(slices)] == [
        "sequence ep_b0",
        "sequence ep_b1000, direction 1",
        "sequence ep_b1000, direction 2",
    ]


def test_time_points_without_a_number_are_ranked_by_time():
    slices = [
        at(z, acquisition_time=f"1200{10 * t + n:02d}", name=f"{t}-{n}")
        for t in range(3)
        for n, z in enumerate((0, 3, 6))
    ]
    stacks = build(slices)
    assert [stack.part for stack in stacks] == [f"number {n} by acquisition time" for n in (1, 2, 3)]
    assert [header.path.name for header in stacks[1].slices] == ["1-0", "1-1", "1-2"]


def test_an_incomplete_time_point_is_refused():
    slices = [at(z, time_point=t, name=f"{t}-{z}") for t in (1, 2) for z in (0, 3, 6)][:-1]
    (stack,) = build(slices)
    assert "2 different images lie at one place (1-0 and 2-0, and 1 more places)" in stack.problems[0]


def test_a_doubled_slice_with_equal_pixels_counts_once_and_is_noted():
    slices = [at(z) for z in (0, 5, 10)] + [at(5, name="again")]
    (stack,) = build(slices, equal)
    assert heights(stack) == [0, 5, 10]
    assert "1 slices are there twice" in stack.notes[0]
    (stack,) = build(slices, differ)
    assert "different images lie at one place" in stack.problems[0]


def test_one_uid_for_two_images_is_refused_and_for_two_copies_noted():
    slices = [at(z) for z in (0, 5, 10)]
    copy = replace(slices[1], path=Path("/series/sub/copy"))
    (stack,) = build([*slices, copy], equal)
    assert stack.notes == ("1 files are copies of others and were left out",)
    (stack,) = build([*slices, copy], differ)
    assert "have one SOP Instance UID but are different images" in stack.problems[0]


def test_images_at_one_place_become_single_slices():
    stacks = build([at(61.5, acquisition=n) for n in (12, 13, 14)])
    assert [stack.part for stack in stacks] == ["acquisition 12", "acquisition 13", "acquisition 14"]
    assert all(len(stack.slices) == 1 for stack in stacks)


def test_thickness_of_a_single_slice_is_not_made_up_in_silence():
    (stack,) = build([replace(at(3), thickness_mm=None)])
    assert "unknown thickness" in stack.notes[0]
    (stack,) = build([at(3)])
    assert not stack.notes
    np.testing.assert_allclose(stack.affine[:3, 2], [0, 0, 2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position_lps": None}, "no usable ImagePositionPatient"),
        ({"orientation_lps": None}, "no usable ImageOrientationPatient"),
        ({"orientation_lps": (1.0, 0.0, 0.0, 0.5, 1.0, 0.0)}, "right angle"),
        ({"orientation_lps": (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)}, "unit vectors"),
        ({"pixel_spacing_mm": (0.7, 0.0)}, "PixelSpacing is not"),
        ({"pixel_spacing_mm": (0.7, -1.0)}, "PixelSpacing is not"),
        ({"pixel_spacing_mm": None}, "PixelSpacing is not"),
    ],
)
def test_slices_without_a_usable_place_are_refused(change, words):
    (stack,) = build([replace(at(z), **change) for z in (0, 5, 10)])
    assert stack.affine is None
    assert words in stack.problems[0]


def test_localizers_and_frames_of_reference_stay_apart():
    scout = replace(at(20), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    elsewhere = replace(at(25), frame_of_reference_uid="1.6")
    assert sorted(len(stack.slices) for stack in build([at(0), at(5), scout, elsewhere])) == [1, 1, 2]
