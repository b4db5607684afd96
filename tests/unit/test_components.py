"""Components found slab by slab are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg import components
from medseg.components import components_of, components_of_array


@pytest.fixture(autouse=True, params=[1, 50, 10**9])
def slab(monkeypatch, request):
    monkeypatch.setattr(components, "SLAB_VOXELS", request.param)


@st.composite
def masks(draw):
    shape = tuple(draw(st.integers(1, 9)) for _ in range(draw(st.integers(2, 3))))
    density = draw(st.sampled_from([0.15, 0.35, 0.6, 0.9]))
    return np.random.default_rng(draw(st.integers(0, 999))).random(shape) < density


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(masks(), st.booleans())
def test_numbers_sizes_and_rims_are_those_of_scipy(mask, faces_only):
    structure = ndimage.generate_binary_structure(mask.ndim, 1 if faces_only else mask.ndim)
    wanted, count = ndimage.label(mask, structure=structure)
    found = components_of_array(mask, faces_only=faces_only)
    assert found.count == count
    numbers = np.concatenate([part for _, part in found.slabs()])
    np.testing.assert_array_equal(numbers, wanted)
    np.testing.assert_array_equal(found.sizes[1:], np.bincount(wanted.ravel(), minlength=count + 1)[1:])
    inner = np.pad(
        np.ones([max(0, n - 2) for n in mask.shape]), [(min(1, n), min(1, n - 1)) for n in mask.shape]
    )
    assert inner.shape == mask.shape
    rim = set(wanted[inner == 0].tolist()) - {0}
    assert set(np.flatnonzero(found.at_rim).tolist()) == rim


def test_the_largest_are_told_and_of_two_alike_the_first():
    mask = np.zeros((9, 5), bool)
    mask[0, 0] = mask[2, :3] = mask[4, 1:4] = True
    mask[6:8] = True
    found = components_of_array(mask)
    assert found.sizes.tolist() == [0, 1, 3, 3, 10]
    assert np.flatnonzero(found.largest(2)).tolist() == [2, 4]


def test_an_empty_mask_has_none():
    found = components_of(lambda rows: np.zeros((rows.stop - rows.start, 4), bool), (7, 4))
    assert found.count == 0
    assert not found.largest().any()
    assert sum(part.sum() for _, part in found.slabs()) == 0
