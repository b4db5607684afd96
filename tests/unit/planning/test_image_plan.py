"""Preprocessing and augmentation by what the images are."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from medseg.labels import Label, LabelTable
from medseg.planning.fingerprint import ChannelStatistics
from medseg.planning.grids import Grid, coarse_axis, target_spacing
from medseg.planning.image_plan import image_kind, plan_augment, plan_preprocess
from medseg.planning.machine import Machine
from medseg.transforms.options import AugmentStep, PreprocessStep

CPU = Machine(device="cpu", cores=2, ram_bytes=8 * 10**9)
GPU = Machine(device="cuda", cores=8, ram_bytes=8 * 10**9, gpu_bytes=24 * 10**9)
STEPS = TypeAdapter(tuple[PreprocessStep, ...])


def grids(fingerprint):
    return [
        Grid(case_id=case.case_id, shape=case.shape, spacing_mm=case.spacing_mm) for case in fingerprint.cases
    ]


def plan(fingerprint, machine=CPU, **options):
    found = plan_preprocess(fingerprint, grids(fingerprint), machine=machine, **options)
    STEPS.validate_python(found.value)
    return found


def test_mr_of_one_spacing_is_turned_and_standardised_only(fingerprint_of):
    found = plan(fingerprint_of([(35, 52, 36), (34, 47, 40)], [(1.0, 1.0, 1.0)] * 2, whole=False))
    assert found.value == [{"use": "orient", "to": "RAS"}, {"use": "standardise", "method": "zscore"}]
    assert "all images have 1 x 1 x 1 mm" in found.reason


def test_skull_stripped_mr_is_standardised_within_the_brain(fingerprint_of):
    found = plan(fingerprint_of([(35, 52, 36)], [(1.0, 1.0, 1.0)], zero_share=0.7))
    assert found.value[-1] == {"use": "standardise", "method": "masked", "threshold": 0.0}
    negative = plan(fingerprint_of([(35, 52, 36)], [(1.0, 1.0, 1.0)], zero_share=0.7, low=-3.0))
    assert negative.value[-1]["method"] == "zscore"


def test_ct_is_windowed_by_its_foreground_and_standardised(fingerprint_of):
    statistics = [ChannelStatistics(low=-60.0, median=80.0, high=240.0, mean=90.0, std=50.0)]
    fingerprint = fingerprint_of(
        [(90, 80, 70)], [(3.0, 3.0, 3.0)], low=-1024.0, high=2000.0, intensities=statistics
    )
    step = plan(fingerprint).value[-1]
    assert step == {"use": "normalise", "method": "window", "low": -60.0, "high": 240.0, "to": [-3.0, 3.0]}


@pytest.mark.parametrize(
    ("fields", "declared", "kind"),
    [
        ({"modality": "CT"}, (), "ct"),
        ({"modality": "MR", "low": -1024.0}, (), "other"),
        ({"low": -1024.0}, (), "ct"),
        ({"low": -1024.0}, ("MR", ""), "other"),
        ({"low": -1024.0, "whole": False}, (), "other"),
        ({"low": 0.0}, ("CT", ""), "ct"),
    ],
)
def test_the_kind_follows_files_then_settings_then_values(fingerprint_of, fields, declared, kind):
    assert image_kind(fingerprint_of([(9, 9, 9)], [None], **fields), declared)[0] == kind


def test_pictures_keep_their_fixed_scale_and_a_common_size(fingerprint_of):
    found = plan(
        fingerprint_of([(480, 360)] * 3, [None] * 3, channels=3, format="picture", low=0.0, high=255.0)
    )
    assert found.value == [{"use": "normalise", "method": "window", "low": 0, "high": 255}]


def test_films_of_many_sizes_are_turned_and_brought_to_one(fingerprint_of):
    found = plan(
        fingerprint_of(
            [(2000, 2400), (1800, 2400), (2000, 2500)],
            [None] * 3,
            modality="DX",
            high=4095.0,
            patient_orientation=("L", "F"),
        )
    )
    assert found.value == [
        {"use": "orient", "to": "LF"},
        {"use": "resize", "size": [416, 512], "keep_aspect": True},
        {"use": "normalise", "method": "percentile", "low": 0.5, "high": 99.5},
    ]


def test_spacings_that_differ_are_resampled_to_their_median(fingerprint_of):
    spacings = [(0.7, 0.7, 2.0), (0.8, 0.8, 2.5), (0.9, 0.9, 2.0)]
    found = plan(fingerprint_of([(60, 60, 40)] * 3, spacings))
    assert found.value[1] == {"use": "resample", "spacing_mm": [0.8, 0.8, 2.0]}


def test_a_coarse_axis_gets_the_tenth_percentile():
    sizes = [(320, 320, 20)] * 3
    spine = [
        Grid(case_id=str(n), shape=shape, spacing_mm=(0.5, 0.5, thick))
        for n, (shape, thick) in enumerate(zip(sizes, (3.0, 4.0, 5.0), strict=True))
    ]
    target, reason = target_spacing(spine, patch_voxels=None, structure_mm3=None)
    assert target == (0.5, 0.5, 3.2)
    assert "10th percentile" in reason
    assert coarse_axis((0.5, 0.5, 4.0)) == 2
    assert coarse_axis((4.0, 0.5, 0.5)) == 0
    assert coarse_axis((1.0, 1.0, 3.0)) is None


def test_an_unknown_spacing_leaves_all_as_they_are():
    mixed = [Grid(case_id="a", shape=(9, 9, 9), spacing_mm=(1.0, 1.0, 1.0))]
    mixed.append(Grid(case_id="b", shape=(9, 9, 9), spacing_mm=None))
    target, reason = target_spacing(mixed, patch_voxels=None, structure_mm3=None)
    assert target is None
    assert reason == "1 of 2 images do not say their spacing"


def test_a_cpu_shows_huge_images_coarser_while_structures_stay(fingerprint_of):
    huge = [Grid(case_id="a", shape=(512, 512, 400), spacing_mm=(0.8, 0.8, 1.0))] * 2
    target, reason = target_spacing(huge, patch_voxels=1 << 18, structure_mm3=None)
    assert target == pytest.approx((1.47, 1.47, 1.84), rel=0.01)
    assert "times coarser" in reason
    kept, _ = target_spacing(huge, patch_voxels=1 << 18, structure_mm3=128.0)
    assert kept is None
    assert target_spacing(huge, patch_voxels=None, structure_mm3=None)[0] is None


@pytest.mark.parametrize(("side", "flips"), [("none", True), ("left", False)])
def test_flips_are_left_out_where_labels_have_sides(fingerprint_of, side, flips):
    table = LabelTable(labels=(Label(name="organ", value=1, colour="#111111", side=side),))
    found = plan_augment(fingerprint_of([(9, 9, 9)], [None]), table, spacing_mm=(1.0, 1.0, 1.0))
    TypeAdapter(tuple[AugmentStep, ...]).validate_python(found.value)
    assert any(step["use"] == "flip" for step in found.value) == flips
