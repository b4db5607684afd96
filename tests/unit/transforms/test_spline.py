"""Splines as matrices: the very numbers of SciPy's zoom, axis by axis."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from scipy import ndimage

from medseg.transforms import regrid
from medseg.transforms.regrid import weigh_axis
from medseg.transforms.spline import spline_weights


@pytest.mark.parametrize("target", [(20, 31, 17), (7, 9, 40), (12, 15, 9), (1, 15, 30)])
def test_volumes_are_those_of_zoom(target):
    image = np.random.default_rng(0).normal(size=(12, 15, 9)).astype(np.float32) * 500
    expected = ndimage.zoom(
        image.astype(np.float64),
        np.array(target) / image.shape,
        order=3,
        mode="nearest",
        grid_mode=True,
    )
    found = image
    for axis, count in enumerate(target):
        found = weigh_axis(found, spline_weights(image.shape[axis], count), axis)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(image))


def test_constants_and_equal_lengths_are_kept():
    for length, count in ((30, 11), (11, 30), (5, 5), (1, 4)):
        weights = spline_weights(length, count)
        np.testing.assert_allclose(weights @ np.full(length, 3.0, np.float32), 3.0, rtol=1e-6)
    row = np.random.default_rng(1).random(9).astype(np.float32)
    np.testing.assert_array_equal(spline_weights(9, 9) @ row, row)


def test_far_voxels_have_no_weight():
    weights = spline_weights(200, 333)
    assert np.diff(weights.indptr).max() < 45


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_threads_change_no_bit(axis, monkeypatch):
    import torch

    image = np.random.default_rng(0).normal(size=(9, 14, 11)).astype(np.float32)
    weights = spline_weights(image.shape[axis], 7)
    alone = weigh_axis(image, weights, axis)
    seen = set()

    class Watched:
        shape, dtype = weights.shape, weights.dtype

        def __matmul__(self, values):
            seen.add(threading.get_ident())
            time.sleep(0.02)
            return weights @ values

    monkeypatch.setattr(regrid, "_SHARED_VALUES", 1)
    monkeypatch.setattr(regrid, "_PART_VALUES", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    np.testing.assert_array_equal(weigh_axis(image, Watched(), axis), alone)
    assert len(seen) == 2
