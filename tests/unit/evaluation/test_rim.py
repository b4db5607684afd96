import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from medseg.evaluation import rim as rims
from medseg.evaluation.rim import boundary_iou, rim


def blobs(shape, seed):
    noise = np.random.default_rng(seed).standard_normal((2, *shape))
    return [gaussian_filter(n, 3) > 0.01 for n in noise]


def near_border(mask, spacing, width):
    """By a distance transform to the eroded mask's rest, as MetricsReloaded defines the band."""
    edge = mask & ~binary_erosion(mask)
    return mask & (distance_transform_edt(~edge, sampling=spacing) <= width)


@pytest.mark.parametrize(("shape", "spacing"), [((41, 37), (0.7, 1.9)), ((21, 27, 17), (0.8, 0.6, 2.5))])
@pytest.mark.parametrize("width", [0.1, 1.95, 4.3])
def test_rim_equals_a_distance_transform(shape, spacing, width, monkeypatch):
    for mask in blobs(shape, 1):
        expected = near_border(mask, spacing, width)
        np.testing.assert_array_equal(rim(mask, steps=np.diag(spacing), width=width), expected)
    monkeypatch.setattr(rims, "_MOST_OFFSETS", 0)
    np.testing.assert_array_equal(rim(mask, steps=np.diag(spacing), width=width), expected)


def test_boundary_iou_by_hand():
    one, two = np.zeros((2, 12, 12), dtype=bool)
    one[2:9, 2:9], two[2:9, 3:10] = True, True
    # Two rings of 24 pixels: their upper and lower sides share six pixels each, and nothing else.
    assert boundary_iou(one, two, steps=np.eye(2), width=0.5) == pytest.approx(12 / 36)
    # With a rim that reaches the middle it is the plain IoU.
    assert boundary_iou(one, two, steps=np.eye(2), width=9) == pytest.approx(42 / 56)


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_boundary_iou_equals_the_formula_of_metrics_reloaded(distance):
    """There the band is nearer than `boundary_dist` voxels, without spacing."""
    one, two = blobs((31, 26, 14), 4)
    bands = [near_border(mask, (1, 1, 1), np.nextafter(distance, 0)) for mask in (one, two)]
    expected = np.count_nonzero(bands[0] & bands[1]) / np.count_nonzero(bands[0] | bands[1])
    found = boundary_iou(one, two, steps=np.eye(3), width=distance - 1e-6)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_sheared_grid_has_true_widths(monkeypatch):
    steps = np.array([[1.0, 0.0, 0.9], [0.0, 1.0, -0.4], [0.0, 0.0, 2.0]])
    mask = blobs((19, 17, 13), 2)[0]
    edge = mask & ~binary_erosion(mask)
    places, near = np.argwhere(mask), np.argwhere(edge) @ steps.T
    gaps = np.linalg.norm((places @ steps.T)[:, None] - near[None], axis=2).min(axis=1)
    expected = np.zeros_like(mask)
    expected[tuple(places[gaps <= 2.2].T)] = True
    np.testing.assert_array_equal(rim(mask, steps=steps, width=2.2), expected)


def test_unknown_voxels_have_no_rim():
    mask, unknown = np.zeros((2, 9, 9), dtype=bool)
    mask[2:6, 2:7], unknown[6:] = True, True
    found = rim(mask, steps=np.eye(2), width=0.5, unknown=unknown)
    assert not found[5, 3:6].any()
    assert found[2, 2:7].all()
    assert boundary_iou(np.zeros_like(mask), np.zeros_like(mask), steps=np.eye(2), width=1.0) is None
