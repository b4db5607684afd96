import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from medseg.errors import GeometryError
from medseg.geometry import GridMap
from medseg.transforms.regrid import label_to_grid, regrid


def ramp(shape: tuple[int, ...], slopes: tuple[float, ...], constant: float) -> np.ndarray:
    index = np.indices(shape, dtype=np.float64)
    return (constant + sum(s * i for s, i in zip(slopes, index, strict=True)))[None].astype(np.float32)


@pytest.mark.parametrize("target", [(20, 9), (173, 120), (40, 300), (7, 5)])
def test_a_ramp_stays_the_ramp_at_the_new_voxel_centres(target):
    source, slopes = (80, 61), (0.25, -0.5)
    image = ramp(source, slopes, 3.0)
    result = regrid(image, GridMap.resize(source, target))[0]
    places = [(np.arange(n) + 0.5) * s / n - 0.5 for s, n in zip(source, target, strict=True)]
    expected = 3.0 + slopes[0] * places[0][:, None] + slopes[1] * places[1][None]
    # The filter reaches one step to both sides: only the outermost lines lean on the rim.
    lean = [max(1, -(-n // s)) for s, n in zip(source, target, strict=True)]
    rim = tuple(slice(width, -width) for width in lean)
    np.testing.assert_allclose(result[rim], expected[rim], atol=3e-5)


@pytest.mark.parametrize("target", [(31, 17), (64, 97), (200, 40), (80, 61)])
def test_resize_agrees_with_torch(target):
    noise = np.random.default_rng(1).random((2, 80, 61), dtype=np.float32)
    image = gaussian_filter(noise, (0, 2, 2))
    image = (image - image.min()) / np.ptp(image)
    ours = regrid(image, GridMap.resize((80, 61), target))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None], size=target, mode="bilinear", align_corners=False, antialias=True
    )[0].numpy()
    # Where an axis shrinks we centre the sampled filter on its position, torch does not.
    tolerance = 0.01 if any(n < m for n, m in zip(target, (80, 61), strict=True)) else 1e-5
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_growing_in_3d_agrees_with_torch():
    image = np.random.default_rng(2).random((1, 9, 14, 11), dtype=np.float32)
    ours = regrid(image, GridMap.resize((9, 14, 11), (20, 15, 33)))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None], size=(20, 15, 33), mode="trilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_memory_order_does_not_change_the_result():
    image = np.random.default_rng(3).random((1, 50, 83), dtype=np.float32)
    grid = GridMap.resize((50, 83), (16, 21))
    turned = np.asfortranarray(image[0])[None]
    np.testing.assert_allclose(regrid(turned, grid), regrid(image, grid), atol=1e-6)


def test_shrinking_keeps_the_mean_and_removes_aliases():
    stripes = np.tile(np.array([0, 1], dtype=np.float32), 256)[:, None].repeat(96, axis=1)[None]
    result = regrid(stripes, GridMap.resize((512, 96), (50, 20)))
    np.testing.assert_allclose(result[:, 1:-1], 0.5, atol=0.01)


def test_flip_permute_crop_and_pad_are_exact_and_need_no_copy_unless_padded():
    image = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    turn = GridMap.permute_flip((3, 4, 5), (2, 0, 1), (True, False, True))
    turned = regrid(image, turn)
    np.testing.assert_array_equal(turned, image.transpose(0, 3, 1, 2)[:, ::-1, :, ::-1])
    assert np.shares_memory(turned, image)
    padded = regrid(image, GridMap.crop_or_pad((3, 4, 5), (-1, 1, 0), (5, 2, 6)))
    np.testing.assert_array_equal(padded[:, 1:4, :, :5], image[:, :, 1:3])
    assert padded[1, 0, 0, 0] == image[1].min()
    assert padded[0, 2, 0, 5] == image[0].min()


def test_a_crop_beside_the_image_is_all_outside():
    image = np.ones((1, 4, 6), dtype=np.float32)
    result = regrid(image, GridMap.crop_or_pad((4, 6), (10, 0), (3, 3)), outside=np.array([7.0]))
    assert (result == 7).all()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_constant_stays_constant_whatever_the_sizes(i, j, new_i, new_j):
    image = np.full((1, i, j), 0.7, dtype=np.float32)
    result = regrid(image, GridMap.resize((i, j), (new_i, new_j)))
    assert result.shape == (1, new_i, new_j)
    np.testing.assert_allclose(result, 0.7, rtol=1e-6)


def test_label_lookup_takes_the_lower_voxel_at_halves_and_fills_outside():
    label = np.array([[[1, 2, 3, 4, 5, 6]] * 4], dtype=np.int16)
    halved = label_to_grid(label, GridMap.resize((4, 6), (4, 3)))
    np.testing.assert_array_equal(halved[0, 0], [1, 3, 5])
    moved = label_to_grid(label, GridMap.crop_or_pad((4, 6), (0, -2), (4, 4)), fill=9)
    np.testing.assert_array_equal(moved[0, 0], [9, 9, 1, 2])
    assert moved.dtype == np.int16


def test_label_lookup_through_a_chain_is_one_lookup():
    label = np.random.default_rng(4).integers(0, 5, (1, 30, 44)).astype(np.int16)
    turn = GridMap.permute_flip((30, 44), (1, 0), (True, False))
    grid = turn.then(GridMap.crop_or_pad((44, 30), (3, -2), (40, 34)))
    expected = np.full((40, 34), 7, dtype=np.int16)
    expected[:, 2:32] = label[0].T[::-1][3:43]
    np.testing.assert_array_equal(label_to_grid(label, grid, fill=7)[0], expected)


def test_label_of_another_grid_is_refused():
    with pytest.raises(GeometryError, match=r"expected a label on the grid \(4, 6\), found \(6, 4\)"):
        label_to_grid(np.zeros((1, 6, 4), dtype=np.int16), GridMap.identity((4, 6)))
