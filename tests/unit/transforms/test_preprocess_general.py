"""Steps that models of other programs need: axes, zeros, channels, splines that keep the edges."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from medseg.errors import ConfigError, InputRefusedError
from medseg.transforms.framing import coarse_axis
from medseg.transforms.image_view import ArrayView, GridView, whole
from medseg.transforms.options import Crop, Normalise, Resample, Standardise, Transpose
from medseg.transforms.preprocess import prepare, preprocess
from medseg.volume import Volume


def volume(shape=(9, 12, 7), channels=1, seed=0, spacing=(1.0, 1.5, 3.0)):
    values = np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)
    return Volume(array=values, spacing_mm=spacing)


def zoomed(array, shape):
    """Splines of SciPy cut off at the range of the array, as scikit-image's resize gives them."""
    factors = np.array(shape) / array.shape
    found = ndimage.zoom(array.astype(np.float64), factors, order=3, mode="nearest", grid_mode=True)
    return np.clip(found, array.min(), array.max())


def cubic(*spacing, **more):
    return Resample(spacing_mm=spacing, interpolation="cubic", fit="extent", **more)


def test_axes_change_places():
    image = volume()
    found = preprocess(image, [Transpose(axes=(2, 0, 1))])
    np.testing.assert_array_equal(found.array[0], image.array[0].transpose(2, 0, 1))
    assert found.spacing_mm == (3.0, 1.0, 1.5)
    with pytest.raises(ConfigError, match=r"names 2 axes, the image has 3"):
        preprocess(image, [Transpose(axes=(1, 0))])
    with pytest.raises(ValidationError, match="0 to 1 once each"):
        Transpose(axes=(0, 0))


def test_the_box_around_what_is_not_zero_in_some_channel():
    array = np.zeros((2, 8, 9, 7), dtype=np.float32)
    array[0, 2, 3:5, 1] = -1
    array[1, 5, 3, 4] = 2
    found = preprocess(Volume(array=array), [Crop(method="nonzero")])
    np.testing.assert_array_equal(found.array, array[:, 2:6, 3:5, 1:5])
    empty = preprocess(Volume(array=array * 0), [Crop(method="nonzero")])
    assert empty.array.shape == array.shape


@pytest.mark.parametrize("keep_bytes", [0, np.inf])
def test_splines_keep_the_edges_and_the_range(keep_bytes):
    image = volume()
    prepared = prepare(image, [cubic(0.7, 2.0, 2.0)], keep_bytes=keep_bytes)
    # 9 / 0.7, 18 / 2, 21 / 2 in whole voxels; a half goes to the even number.
    assert prepared.image.shape == (13, 9, 10)
    np.testing.assert_allclose(prepared.array[0], zoomed(image.array[0], (13, 9, 10)), atol=1e-6)
    assert prepared.array.max() <= image.array.max()
    assert prepared.back == ("linear",) * 3
    box = (slice(3, 9), slice(0, 4), slice(5, 10))
    np.testing.assert_array_equal(prepared.image.read(box), prepared.array[(slice(None), *box)])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_coarse_axis_is_taken_from_the_nearest_slice(axis):
    spacing, target = [0.5, 0.5, 0.5], [0.4, 0.4, 0.4]
    spacing[axis], target[axis] = 2.0, 1.2
    image = volume(spacing=tuple(spacing))
    prepared = prepare(image, [cubic(*target, separate_above=3.0)], keep_bytes=0)
    assert prepared.back == tuple("nearest" if a == axis else "linear" for a in range(3))
    shape = prepared.image.shape
    slices = [zoomed(plane, np.delete(shape, axis)) for plane in np.moveaxis(image.array[0], axis, 0)]
    count = image.array.shape[1 + axis]
    places = count / shape[axis] * (np.arange(shape[axis]) + 0.5) - 0.5
    picks = ndimage.map_coordinates(np.arange(float(count)), [places], order=0, mode="nearest").astype(int)
    wanted = np.moveaxis(np.stack(slices)[picks], 0, axis)
    np.testing.assert_allclose(prepared.array[0], wanted, atol=1e-6)
    box = tuple(slice(1, n - 1) for n in shape)
    np.testing.assert_array_equal(prepared.image.read(box), prepared.array[(slice(None), *box)])


def test_which_axis_is_coarse():
    assert coarse_axis((5, 1, 1), (1, 1, 1), limit=3) == 0
    assert coarse_axis((1, 1, 1), (1, 1, 4), limit=3) == 2
    assert coarse_axis((3, 1, 1), (1, 1, 1), limit=3) is None
    # Thin slices: two axes share the largest spacing, and the second spacing is not asked.
    assert coarse_axis((0.2, 1, 1), (1, 1, 9), limit=3) is None
    assert coarse_axis((9, 1, 1), (1, 1, 1), limit=None) is None


def test_an_axis_may_be_left_alone():
    image = volume(spacing=(0.8, 0.8, 5.0))
    prepared = prepare(image, [cubic(1.6, 1.6, None, separate_above=3.0)])
    # 4.5 voxels become 4.
    assert prepared.image.shape == (4, 6, 7)
    planes = [zoomed(image.array[0, :, :, k], (4, 6)) for k in range(7)]
    np.testing.assert_allclose(prepared.array[0], np.stack(planes, axis=-1), atol=1e-6)


def test_linear_resampling_may_keep_the_edges():
    prepared = prepare(volume(), [Resample(spacing_mm=(2.0, 2.0, 2.0), fit="extent")])
    assert prepared.image.shape == (4, 9, 10)
    assert prepared.back == ("smooth",) * 3
    np.testing.assert_allclose(prepared.grid.axis_maps()[0][1:], (9 / 4, 0.5 * 9 / 4 - 0.5))


def test_the_way_back_follows_the_axes():
    prepared = prepare(
        volume(spacing=(1.0, 1.0, 5.0)), [cubic(1.0, 1.0, 4.0, separate_above=3.0), Transpose(axes=(2, 1, 0))]
    )
    assert prepared.back == ("nearest", "linear", "linear")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"separate_above": 3.0}, "belongs to interpolation cubic"),
        ({"interpolation": "cubic"}, "needs fit: extent"),
        ({"spacing_mm": (1.0, -1.0)}, "greater than 0"),
    ],
)
def test_resample_settings_fit_each_other(fields, match):
    with pytest.raises(ValidationError, match=match):
        Resample(**{"spacing_mm": (1.0, 1.0), **fields})


def test_one_channel_is_changed_and_the_others_are_not():
    image = volume(channels=3)
    found = preprocess(image, [Standardise(channels=(1,)), Normalise(method="range", channels=(2,))]).array
    np.testing.assert_array_equal(found[0], image.array[0])
    assert abs(found[1].mean()) < 1e-6
    assert found[1].std() == pytest.approx(1, abs=1e-6)
    assert (found[2].min(), found[2].max()) == (0, pytest.approx(1))
    with pytest.raises(ConfigError, match="channels names 3, but the image has 3"):
        preprocess(image, [Standardise(channels=(3,))])


def test_given_numbers_are_applied_after_the_clip():
    array = np.array([[[-500.0, 0.0], [100.0, 900.0]]], dtype=np.float32)
    step = Standardise(method="given", mean=50, std=10, clip=(-100, 200))
    np.testing.assert_array_equal(preprocess(Volume(array=array), [step]).array[0], [[-15, -5], [5, 15]])
    with pytest.raises(ValidationError, match="needs mean and std"):
        Standardise(method="given", mean=1)
    with pytest.raises(ValidationError, match="must ascend"):
        Standardise(method="given", mean=1, std=1, clip=(3, 2))
    with pytest.raises(ValidationError, match="clip belongs to method given"):
        Standardise(clip=(0, 1))


def test_only_what_is_not_zero_or_enclosed_is_standardised():
    array = np.zeros((2, 7, 8, 9), dtype=np.float32)
    random = np.random.default_rng(0)
    array[0, 1:6, 2:7, 3:8] = random.normal(50, 9, size=(5, 5, 5))
    array[1, 1:6, 2:7, 3:8] = random.normal(9, 2, size=(5, 5, 5))
    array[:, 3, 4, 5] = 0
    found = preprocess(Volume(array=array), [Standardise(method="nonzero", channels=(0,))]).array
    inside = np.zeros(array.shape[1:], dtype=bool)
    inside[1:6, 2:7, 3:8] = True
    values = array[0][inside]
    np.testing.assert_allclose(found[0][inside], (values - values.mean()) / values.std(), atol=1e-5)
    assert found[0, 3, 4, 5] != 0
    assert not found[0][~inside].any()
    np.testing.assert_array_equal(found[1], array[1])
    with pytest.raises(InputRefusedError, match="channel 0 do not vary"):
        preprocess(Volume(array=array * 0), [Standardise(method="nonzero")])


def test_views_of_splines_share_no_voxel_beyond_the_box():
    array = np.random.default_rng(0).normal(size=(1, 64, 20, 6)).astype(np.float32)
    seen = []

    class Watched(ArrayView):
        def read(self, box):
            seen.append(box)
            return super().read(box)

    from medseg.geometry import GridMap

    view = GridView(Watched(array), GridMap.resize((64, 20, 6), (32, 20, 6)), kinds=("cubic",) * 3)
    part = view.read((slice(8, 10), slice(0, 20), slice(0, 6)))
    assert seen[0][0].stop - seen[0][0].start < 48
    np.testing.assert_array_equal(part, whole(view)[:, 8:10])
