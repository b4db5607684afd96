"""Corruptions: exact turns, cut fields of view, what each one does to known images, strength that grows."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.stress.corruptions import CORRUPTIONS, corrupted, cropped, levels_of, rotated, voxels_per_length
from medseg.transforms.corruptions import (
    add_noise,
    blur,
    coarsen,
    compress,
    corrupt,
    fade,
    ghost,
    smear,
    tone,
    uneven,
)
from medseg.volume import Volume

OBLIQUE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0.5, -7], [0, 0, 3.0, 11], [0, 0, 0, 1]], dtype=np.float64)


def picture(shape=(40, 28), seed=0):
    return np.random.default_rng(seed).uniform(0, 200, (1, *shape)).astype(np.float32)


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (-90, 1), (180, 2), (0, 0)])
def test_quarter_turns_are_exact(degrees, turns):
    array = picture((9, 9))
    sets = np.random.default_rng(1).integers(0, 3, (1, 9, 9)).astype(np.int16)
    volume, mask = rotated(Volume(array=array), sets, degrees)
    np.testing.assert_array_equal(mask[0], np.rot90(sets[0], turns))
    np.testing.assert_allclose(volume.array[0], np.rot90(array[0], turns), atol=1e-4)


def test_a_quarter_turn_is_exact_in_mm_and_in_every_slice():
    # 8 x 6 mm in pixels of 1 x 2 mm.
    sets = np.zeros((1, 8, 3, 2), dtype=np.int16)
    sets[0, 3:5, 1:2] = 1
    array = np.random.default_rng(0).uniform(0, 1, sets.shape).astype(np.float32)
    volume = Volume(array=array, affine=np.diag([1.0, 2, 3, 1]), spacing_mm=(1.0, 2.0, 3.0))
    _, mask = rotated(volume, sets, 90)
    # 2 x 2 mm about the centre is the same after a quarter turn; 6 x 2 mm becomes 2 x 6 mm.
    np.testing.assert_array_equal(mask, sets)
    sets[0, 1:7, 1:2] = 1
    _, mask = rotated(volume, sets, 90)
    turned = np.zeros_like(sets)
    turned[0, 3:5, :] = 1
    np.testing.assert_array_equal(mask, turned)


def test_a_cut_field_of_view_keeps_voxels_in_their_place():
    shape = (10, 8, 6)
    array = np.random.default_rng(0).uniform(0, 1, (1, *shape)).astype(np.float32)
    sets = (array > 0.5).astype(np.int16)
    volume = Volume(array=array, affine=OBLIQUE, spacing_mm=(1.5, 2.0, 3.04))
    found, mask = cropped(volume, sets, 0.25, np.random.default_rng(3))
    assert found.spatial_shape == (8, 6, 4)
    start = np.rint(np.linalg.solve(OBLIQUE[:3, :3], (found.affine - OBLIQUE)[:3, 3])).astype(int)
    part = (0, *(slice(s, s + n) for s, n in zip(start, found.spatial_shape, strict=True)))
    np.testing.assert_array_equal(found.array[0], array[part])
    np.testing.assert_array_equal(mask[0], sets[part])
    np.testing.assert_allclose(found.affine @ [1, 2, 3, 1], OBLIQUE @ [*(start + np.array([1, 2, 3])), 1])
    np.testing.assert_array_equal(volume.affine, OBLIQUE)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("dims", [2, 3])
def test_every_corruption_is_repeatable_and_leaves_its_input_alone(kind, dims):
    shape = (30, 22) if dims == 2 else (16, 12, 10)
    array = picture(shape)
    kept = array.copy()
    sets = (array > 100).astype(np.int16)
    volume = Volume(array=array, spacing_mm=None if dims == 2 else (1.0, 1.5, 2.0))
    levels, unit = levels_of(kind, dims)
    assert unit
    first, mask = corrupted(volume, sets, kind, levels[2], seed=5)
    again, _ = corrupted(volume, sets, kind, levels[2], seed=5)
    np.testing.assert_array_equal(first.array, again.array)
    np.testing.assert_array_equal(array, kept)
    assert first.array.dtype == np.float32
    assert mask.shape[1:] == first.spatial_shape
    assert np.isfinite(first.array).all()
    if kind not in ("rotation", "crop"):
        np.testing.assert_array_equal(mask, sets)


@pytest.mark.parametrize("kind", [k for k in CORRUPTIONS if k not in ("rotation", "crop")])
def test_a_higher_severity_changes_more(kind):
    i, j = np.mgrid[:60, :48]
    smooth = (100 + 60 * np.sin(i / 7) * np.cos(j / 5)).astype(np.float32)[None]
    changes = []
    for level in levels_of(kind, 2)[0]:
        found = corrupt(smooth, kind, level, np.random.default_rng(2), voxels=[3, 3])
        changes.append(float(np.abs(found - smooth).mean()))
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_known_values():
    random = np.random.default_rng(0)
    flat = np.concatenate([np.zeros((1, 100, 100)), np.full((1, 100, 100), 100)], axis=2).astype(np.float32)
    middle = np.where(flat == 0, 20, 80).astype(np.float32)
    middle[0, 0, :2] = 0, 100
    noisy = add_noise(middle, 0.05, random)
    # 5 % of the range of 60 between the percentiles.
    assert np.std(noisy[middle == 80] - 80) == pytest.approx(3, rel=0.05)
    np.testing.assert_allclose(fade(flat, 0.5), np.where(flat == 0, 25, 75))
    np.testing.assert_allclose(tone(np.float32([[[0, 50, 100]]]), 2), [[[0, 25, 100]]], atol=1e-4)
    impulse = np.zeros((1, 9, 5), dtype=np.float32)
    impulse[0, 4, 2] = 1
    np.testing.assert_allclose(smear(impulse, 0, 2)[0, :, 2], [0, 0, 0, 0.25, 0.5, 0.25, 0, 0, 0])
    assert blur(impulse, [0, 1.0])[0, 3].sum() == 0, "an axis without strength stays sharp"
    assert blur(impulse, [1.0, 0])[0, :, 2].sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(coarsen(flat, 1), flat)
    assert np.abs(compress(flat, 95) - flat).max() < 3


def test_a_field_stays_within_its_strength_and_spares_the_minimum():
    image = np.full((1, 31, 23), 50, dtype=np.float32)
    image[0, 0, 0] = 10
    found = uneven(image, 0.3, np.random.default_rng(4))
    ratio = (found - 10)[0][image[0] == 50] / 40
    assert 0.7 - 1e-5 <= ratio.min() < ratio.max() <= 1.3 + 1e-5
    assert max(1 - ratio.min(), ratio.max() - 1) > 0.25
    assert found[0, 0, 0] == 10


def test_ghosts_keep_the_mean_and_spread_along_one_axis():
    image = np.zeros((1, 32, 20), dtype=np.float32)
    image[0, 10:14, 8:12] = 100
    found = ghost(image, 0, 5.0, np.random.default_rng(0))
    assert np.abs(found[0, :, :8]).max() < 1e-3
    assert np.abs(found[0, 20:, 8:12]).max() > 0.5
    np.testing.assert_allclose(ghost(image, 1, 0.0, np.random.default_rng(0)), image, atol=1e-4)


def test_lengths_are_mm_of_volumes_and_percent_of_pictures():
    assert voxels_per_length(Volume(array=np.zeros((1, 300, 200), dtype=np.float32))) == [3, 3]
    volume = Volume(array=np.zeros((1, 4, 5, 6), dtype=np.float32), spacing_mm=(0.5, 1.0, 2.0))
    assert voxels_per_length(volume) == [2, 1, 0.5]
