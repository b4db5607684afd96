"""Which part of a case a sample shows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.patches import PLACES_PER_SET, PatchSampler, find_places, structure_sets
from medseg.errors import ConfigError
from medseg.labels import Label, LabelScheme, LabelTable

TABLE = LabelTable(
    labels=tuple(
        Label(name=name, value=value, colour="#3aa0ff") for value, name in enumerate("abc", start=1)
    ),
    regions={"ab": ("a", "b"), "only_c": ("c",)},
    ignore=255,
    schemes={
        "half": LabelScheme(name="half", values={7: ("a", "b"), 8: ("background", "c")}),
    },
)
BOTH = TABLE.sets.index(frozenset({1, 2}))
OPEN = TABLE.sets.index(frozenset({0, 3}))
IGNORED = len(TABLE.sets) - 1


def sampler(size=(4, 6, 3), *, foreground=1.0, structures=((1,), (2,), (3,))) -> PatchSampler:
    return PatchSampler(size=size, foreground=foreground, structures=structures)


def starts(chosen: PatchSampler, label: np.ndarray, *, centred: bool, count: int = 200) -> np.ndarray:
    places = find_places(label, ignored_set=IGNORED, seed=5)
    found = [
        chosen.start(label.shape[1:], places, centred=centred, seed=seed, case_id="x")
        for seed in range(count)
    ]
    return np.array(found)


def test_structures_are_labels_and_regions_and_hold_only_what_is_sure():
    assert structure_sets(TABLE) == ((1,), (2,), (3,), (1, 2, BOTH))


def test_places_are_voxels_of_their_set_without_background_and_ignored_ones():
    label = np.random.default_rng(1).integers(0, IGNORED + 1, (1, 9, 7, 5)).astype(np.int16)
    places = find_places(label, ignored_set=IGNORED, seed=3)
    assert places.sets == tuple(range(1, IGNORED))
    for row, index in enumerate(places.sets):
        voxels = places.voxels[places.offsets[row] : places.offsets[row + 1]]
        assert len(voxels) == places.counts[row] == (label == index).sum()
        assert (label[0][tuple(voxels.T)] == index).all()


def test_large_structures_keep_a_sample_that_is_spread_and_follows_from_the_seed():
    label = np.ones((1, 30, 20, 10), dtype=np.int16)
    one, again, other = (find_places(label, ignored_set=9, seed=seed).voxels for seed in (1, 1, 2))
    assert len(one) == len({tuple(v) for v in one.tolist()}) == PLACES_PER_SET
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    np.testing.assert_allclose(one.mean(axis=0), [14.5, 9.5, 4.5], atol=0.7)


def test_a_case_without_structures_has_no_places_and_its_patches_come_from_anywhere():
    label = np.full((1, 8, 9, 7), IGNORED, dtype=np.int16)
    label[0, :4] = 0
    assert find_places(label, ignored_set=IGNORED, seed=0).voxels.shape == (0, 3)
    found = starts(sampler(), label, centred=True)
    assert found.min(axis=0).tolist() == [0, 0, 0]
    assert found.max(axis=0).tolist() == [4, 3, 4]


def test_small_structures_are_shown_as_often_as_large_ones():
    label = np.zeros((1, 60, 50, 40), dtype=np.int16)
    label[0, :20], label[0, 30, 25, 20], label[0, 50, 30:32, 3] = 1, 2, 3
    seen: Counter[int] = Counter()
    chosen = sampler((5, 5, 5))
    for start in starts(chosen, label, centred=True, count=300):
        part = label[0][tuple(slice(s, s + 5) for s in start)]
        seen.update(np.unique(part[part > 0]).tolist())
    assert all(70 < seen[index] < 130 for index in (1, 2, 3))


def test_the_structure_is_in_the_patch_but_not_always_in_its_middle():
    label = np.zeros((1, 40, 50, 30), dtype=np.int16)
    label[0, 20, 30, 14] = 2
    found = starts(sampler((12, 16, 8)), label, centred=True)
    place = np.array([20, 30, 14]) - found
    assert (place >= 0).all()
    assert (place < (12, 16, 8)).all()
    assert (np.ptp(place, axis=0) >= (4, 6, 2)).all()


def test_open_voxels_are_centred_on_for_the_region_that_surely_holds_them_alone():
    label = np.zeros((1, 20, 30, 10), dtype=np.int16)
    label[0, 3, 4, 5], label[0, 16, 25, 7] = OPEN, BOTH
    everything = PatchSampler(size=(3, 3, 3), foreground=1, structures=structure_sets(TABLE))
    found = starts(everything, label, centred=True, count=30)
    assert (np.abs(found + 1 - (16, 25, 7)) <= 1).all()
    labels_alone = sampler((3, 3, 3))
    assert np.ptp(starts(labels_alone, label, centred=True), axis=0).min() > 5


@given(
    shape=st.lists(st.integers(1, 30), min_size=2, max_size=3),
    size=st.lists(st.integers(1, 30), min_size=3, max_size=3),
    centred=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=150, deadline=None)
def test_patches_stay_in_the_image_or_reach_beyond_it_on_both_sides_alike(shape, size, centred, seed):
    size = size[: len(shape)]
    label = np.zeros((1, *shape), dtype=np.int16)
    label[(0, *(n // 2 for n in shape))] = 1
    places = find_places(label, ignored_set=4, seed=0)
    start = sampler(tuple(size)).start(shape, places, centred=centred, seed=seed, case_id="x")
    for begin, extent, count in zip(start, size, shape, strict=True):
        if extent <= count:
            assert 0 <= begin <= count - extent
        else:
            assert begin == (count - extent) // 2


@given(share=st.floats(0, 1), first=st.integers(0, 10**7), count=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_any_samples_in_a_row_hold_their_share_of_centred_ones(share, first, count):
    chosen = sampler(foreground=share)
    centred = sum(chosen.is_centred(number) for number in range(first, first + count))
    assert abs(centred - share * count) <= 1.001


def test_a_patch_with_other_axes_than_the_image_is_refused():
    with pytest.raises(ConfigError, match=r"patch_size \[4, 6, 3\] names 3 axes, .* of case x has 2"):
        sampler().start((5, 5), None, centred=False, seed=1, case_id="x")
