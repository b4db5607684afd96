import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.errors import GeometryError
from medseg.evaluation import surface
from medseg.evaluation.steps import image_diagonal
from medseg.evaluation.surface import assd, border, crop_box, hd, hd95, nsd, surface_distances


def square(shape, *box):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in box)] = True
    return mask


def test_border_counts_the_image_edge_as_outside():
    mask = np.ones((4, 5), dtype=bool)
    expected = np.ones((4, 5), dtype=bool)
    expected[1:3, 1:4] = False
    np.testing.assert_array_equal(border(mask), expected)


def test_no_border_runs_along_unknown_voxels():
    mask = square((7, 7), (2, 5), (2, 5))
    unknown = square((7, 7), (5, 7), (0, 7))
    found = border(mask, unknown)
    assert found.sum() == 7
    assert not found[4, 3]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_border_equals_erosion(dims):
    from scipy.ndimage import binary_erosion

    mask = np.random.default_rng(1).random((9, 8, 7)[:dims]) < 0.8
    np.testing.assert_array_equal(border(mask), mask & ~binary_erosion(mask))


def test_one_voxel_apart_by_hand():
    one, two = square((8, 9), (1, 2), (2, 3)), square((8, 9), (4, 5), (6, 7))
    distances = surface_distances(one, two, spacing=(2.0, 0.5))
    assert hd95(distances) == pytest.approx(np.hypot(6.0, 2.0))
    assert nsd(distances, 6.0) == 0.0
    assert nsd(distances, 6.33) == 1.0
    assert hd95(surface_distances(one, two, spacing=None)) == 5.0


def test_shifted_square_by_hand():
    # 3 x 3 squares shifted by one along i, spacing 2 mm: of 8 border voxels each, those that
    # coincide or face each other are 0 mm away and the outer row of three is 2 mm away.
    one, two = square((9, 9), (2, 5), (2, 5)), square((9, 9), (3, 6), (2, 5))
    distances = surface_distances(one, two, spacing=(2.0, 1.0))
    # The middle of the first mask's row 3 is a border voxel of the second mask only.
    assert sorted(distances.to_reference) == [0, 0, 0, 0, 1, 2, 2, 2]
    assert hd95(distances) == pytest.approx(2.0)
    assert nsd(distances, 1.0) == pytest.approx(10 / 16)


def test_directions_differ_and_the_larger_counts():
    long, short = square((40, 5), (0, 40), (2, 3)), square((40, 5), (0, 20), (2, 3))
    distances = surface_distances(long, short, spacing=None)
    assert np.percentile(distances.to_prediction, 95) == 0.0
    assert hd95(distances) == pytest.approx(np.percentile([0] * 20 + list(range(1, 21)), 95))


@pytest.mark.parametrize("steps", [3, 7])
def test_tolerance_that_equals_the_distance_counts(steps):
    one, two = square((9, 9), (1, 2), (2, 3)), square((9, 9), (1 + steps, 2 + steps), (2, 3))
    assert (1 + steps) * 0.1 - 0.1 > steps / 10
    assert nsd(surface_distances(one, two, spacing=(0.1, 0.1)), steps / 10) == 1.0


def test_empty_masks_have_no_distances():
    empty, full = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    assert surface_distances(empty, empty, spacing=None) is None
    assert surface_distances(full, empty, spacing=None) is None
    assert surface_distances(full, full, spacing=None, unknown=full) is None
    assert crop_box(empty) is None


def test_unknown_part_is_left_out():
    reference = square((12, 12), (2, 6), (2, 10))
    prediction = reference.copy()
    prediction[6:12, 2:10] = True
    unknown = square((12, 12), (6, 12), (0, 12))
    distances = surface_distances(prediction, reference, spacing=None, unknown=unknown)
    assert hd95(distances) == 0.0
    assert hd95(surface_distances(prediction, reference, spacing=None)) > 5


def test_diagonal():
    assert image_diagonal((30, 40), None) == 50.0
    assert image_diagonal((30, 40), np.diag([0.1, 0.1])) == pytest.approx(5.0)


def test_refusals():
    mask = np.ones((3, 3), dtype=bool)
    with pytest.raises(GeometryError, match=r"share a grid, found \(3, 3\) and \(2, 3\)"):
        surface_distances(mask, mask[:2], spacing=None)
    with pytest.raises(GeometryError, match="2 axes need 2 spacings"):
        surface_distances(mask, mask, spacing=(1.0, 1.0, 1.0))


@given(hnp.arrays(np.bool_, (2, 6, 7)), st.floats(0.2, 4.0), st.floats(0.2, 4.0))
@settings(max_examples=60, deadline=None)
def test_laws_of_distances(masks, first, second):
    spacing = (first, second)
    distances = surface_distances(*masks, spacing=spacing)
    if distances is None:
        assert not masks.any(axis=(1, 2)).all()
        return
    swapped = surface_distances(masks[1], masks[0], spacing=spacing)
    assert hd95(distances) == pytest.approx(hd95(swapped))
    assert 0.0 <= hd95(distances) <= image_diagonal(masks[0].shape, np.diag(spacing))
    assert 0.0 <= nsd(distances, 1.0) <= nsd(distances, 2.0) <= 1.0
    assert nsd(surface_distances(masks[0], masks[0], spacing=spacing), 0.01) == 1.0


def blobs(shape, seed):
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).standard_normal((2, *shape))
    return [gaussian_filter(n, 3) > 0.02 for n in noise]


# MONAI passes an argument that it has itself deprecated.
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((61, 47), None),
        ((61, 47), (0.143, 0.2)),
        ((31, 27, 19), (0.586, 0.586, 3.3)),
        ((31, 27, 1), (1, 2, 3)),
    ],
)
def test_equal_to_monai(shape, spacing):
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    for seed in range(3):
        masks = blobs(shape, seed)
        distances = surface_distances(*masks, spacing=spacing)
        tensors = [torch.from_numpy(m)[None, None].float() for m in masks]
        theirs = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
        assert hd95(distances) == pytest.approx(theirs.item(), rel=1e-6)
        for tolerance in (0.5, 1.0, 3.0):
            dice = compute_surface_dice(
                *tensors, class_thresholds=[tolerance], include_background=True, spacing=spacing
            )
            assert nsd(distances, tolerance) == pytest.approx(dice.item(), abs=1e-6)
        largest = compute_hausdorff_distance(*tensors, include_background=True, spacing=spacing)
        assert hd(distances) == pytest.approx(largest.item(), rel=1e-6)
        mean = compute_average_surface_distance(
            *tensors, include_background=True, symmetric=True, spacing=spacing
        )
        assert assd(distances) == pytest.approx(mean.item(), rel=1e-6)


def all_distances(prediction, reference, steps):
    """Both directions in full, each border voxel against each."""
    from scipy.ndimage import binary_erosion

    points = [np.argwhere(m & ~binary_erosion(m)) @ steps.T for m in (prediction, reference)]
    gaps = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    return gaps.min(axis=1), gaps.min(axis=0)


@pytest.mark.parametrize("near", [1, 40, 256])
@pytest.mark.parametrize(
    "steps",
    [
        np.array([[0.7, 0.0, 0.9], [0.0, 0.7, -0.4], [0.0, 0.0, 2.5]]),
        np.diag([0.1, 0.1, 5.0]),
        np.array([[0.5, 0.45], [0.0, 1.3]]),
    ],
)
def test_sheared_and_flat_grids_have_true_distances(steps, near, monkeypatch):
    """Whether a distance comes from the voxels around or from the tree."""
    monkeypatch.setattr(surface, "_NEAR_VOXELS", near)
    shape = (17, 15, 11)[: len(steps)]
    one, two = blobs(shape, 5)
    two[:6] = False
    distances = surface_distances(one, two, steps=steps)
    expected = all_distances(one, two, steps)
    np.testing.assert_allclose(distances.to_reference, expected[0], atol=1e-12)
    np.testing.assert_allclose(distances.to_prediction, expected[1], atol=1e-12)


def test_a_shear_is_not_seen_by_spacings_alone():
    steps = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, 2.0]])
    one, two = square((5, 9, 9), (2, 3), (2, 3), (2, 3)), square((5, 9, 9), (2, 3), (6, 7), (6, 7))
    # Four steps of (0, 1, 0) and four of (0, 2, 2): (0, 12, 8) mm.
    assert hd95(surface_distances(one, two, steps=steps)) == pytest.approx(np.hypot(12, 8))
    wrong = surface_distances(one, two, spacing=np.linalg.norm(steps, axis=0))
    assert hd95(wrong) == pytest.approx(np.hypot(4, 4 * np.hypot(2, 2)))


def test_one_stray_voxel_decides_hd_and_not_hd95():
    one = square((40, 40), (5, 25), (5, 25))
    two = one.copy()
    two[38, 38] = True
    distances = surface_distances(two, one, spacing=None)
    assert hd(distances) == pytest.approx(np.hypot(14, 14))
    assert hd95(distances) == 0.0
    assert assd(distances) == pytest.approx(np.hypot(14, 14) / (77 + 76))


def test_average_is_over_all_border_voxels_and_not_of_both_means():
    long, short = square((40, 5), (0, 40), (2, 3)), square((40, 5), (0, 20), (2, 3))
    distances = surface_distances(long, short, spacing=None)
    assert assd(distances) == pytest.approx(sum(range(1, 21)) / 60)


def test_full_size_radiograph_is_fast():
    i, j = np.ogrid[:4892, :4020]
    one = ((i - 1500) / 800) ** 2 + ((j - 2000) / 1500) ** 2 < 1
    two = ((i - 1520) / 810) ** 2 + ((j - 2030) / 1490) ** 2 < 1
    start = time.process_time()
    distances = surface_distances(one, two, spacing=(0.1, 0.1))
    assert time.process_time() - start < 2.0
    assert hd95(distances) == pytest.approx(4.0, abs=0.5)


# It still imports from names that SciPy has moved.
@pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning")
def test_dice_equals_that_of_surface_distance():
    """The only metric that it defines as we do: its borders lie between voxels and weigh by area."""
    peer = pytest.importorskip("surface_distance")
    from medseg.evaluation.joint_counts import joint_histogram
    from medseg.evaluation.overlap import overlap_metrics, structure_counts

    one, two = blobs((31, 27, 19), 3)
    histogram = joint_histogram(two.astype(int), one.astype(int), set_count=2, class_count=2)
    ours = overlap_metrics(structure_counts(histogram, np.eye(2, dtype=bool), [1]))["dice"]
    assert ours == pytest.approx(peer.compute_dice_coefficient(two, one), abs=1e-12)
    theirs = peer.compute_surface_distances(two, one, (0.6, 0.6, 2.0))
    ours = surface_distances(one, two, spacing=(0.6, 0.6, 2.0))
    # Their surface runs through the corners of voxels; the largest distance differs by less than a voxel.
    assert abs(peer.compute_robust_hausdorff(theirs, 100) - hd(ours)) < np.linalg.norm((0.6, 0.6, 2.0))


def test_large_blobs_are_fast():
    i, j, k = np.ogrid[:300, :280, :160]
    one = ((i - 150) / 120) ** 2 + ((j - 140) / 110) ** 2 + ((k - 80) / 70) ** 2 < 1
    two = ((i - 153) / 121) ** 2 + ((j - 138) / 108) ** 2 + ((k - 81) / 70) ** 2 < 1
    start = time.process_time()
    distances = surface_distances(one, two, spacing=(0.8, 0.8, 1.5))
    assert time.process_time() - start < 1.5
    assert 1.0 < hd95(distances) < 6.0
