"""Masks onto grids: exact on one lattice, refused or resampled elsewhere, never lost in silence."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.geometry import axis_codes, lattice_map
from medseg.io.align import onto_grid
from medseg.io.read import read_image
from medseg.tilt import shear_of, straighten_labels
from medseg.volume import ImageGrid, Volume

DIRECTION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = DIRECTION * (0.7, 0.9, 3.0), (12.5, -7.25, 90)
SHAPE = (7, 6, 5)
ORIENTATIONS = [(p, f) for p in permutations(range(3)) for f in product((False, True), repeat=3)]


def labels(shape=SHAPE) -> np.ndarray:
    """Each voxel another value, none of them 0."""
    return (np.arange(np.prod(shape)).reshape(shape) + 1).astype(np.int16)


def volume(array: np.ndarray, affine: np.ndarray | None = AFFINE) -> Volume:
    return Volume(array=array[np.newaxis], affine=affine)


def turned(array: np.ndarray, affine: np.ndarray, axes, flips) -> Volume:
    """The same label map stored with its axes in another order and direction."""
    matrix, shape = np.zeros((4, 4)), array.shape
    matrix[3, 3] = 1
    for target, (source, flip) in enumerate(zip(axes, flips, strict=True)):
        matrix[source, target] = -1 if flip else 1
        matrix[source, 3] = shape[source] - 1 if flip else 0
    picked = array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return volume(picked, affine @ matrix)


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_all_axis_orders_and_directions_are_moved_exactly(axes, flips):
    mask = turned(labels(), AFFINE, axes, flips)
    found = onto_grid(mask, ImageGrid(shape=SHAPE, affine=AFFINE))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, labels())
    back = onto_grid(volume(found), mask.grid)
    np.testing.assert_array_equal(back, mask.array[0])


boxes = st.tuples(*[st.tuples(st.integers(-3, n - 1), st.integers(1, n + 3)) for n in SHAPE])


@settings(max_examples=60, deadline=None)
@given(box=boxes, orientation=st.sampled_from(ORIENTATIONS))
def test_parts_of_one_lattice(box, orientation):
    """A grid that covers another part: inside the labels, outside 0; a loss is an error."""
    start, size = np.array([a for a, _ in box]), tuple(n for _, n in box)
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ start
    grid = ImageGrid(shape=size, affine=affine)
    expected = np.zeros(size, np.int16)
    for index in np.ndindex(size):
        source = tuple(np.array(index) + start)
        if all(0 <= v < n for v, n in zip(source, SHAPE, strict=True)):
            expected[index] = labels()[source]
    mask = turned(labels(), AFFINE, *orientation)
    if not expected.any():
        with pytest.raises(GeometryError, match="do not share a grid"):
            onto_grid(mask, grid, resample="nearest")
        return
    np.testing.assert_array_equal(onto_grid(mask, grid, resample="nearest"), expected)
    if np.count_nonzero(expected) == labels().size:
        np.testing.assert_array_equal(onto_grid(mask, grid), expected)
    else:
        with pytest.raises(GeometryError, match=r"of 210 labelled voxels lie outside of the image"):
            onto_grid(mask, grid)


def test_same_grid_is_not_copied():
    mask = volume(labels())
    assert np.shares_memory(onto_grid(mask, mask.grid), mask.array)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (np.diag([-1.0, -1, 1, 1]), "LPS and RAS coordinates were confused"),
        (np.diag([-1.0, 1, 1, 1]), "fits with left and right exchanged"),
        (np.diag([1.0, 1, -1, 1]), "fits with head and foot exchanged"),
    ],
)
def test_hints_on_what_went_wrong(change, words):
    grid = rf"7 x 6 x 5 voxels of 0\.7 x 0\.9 x 3 mm, axes {axis_codes(AFFINE)}"
    message = rf"{grid}.*corners lie up to .* mm apart.*{words}"
    with pytest.raises(GeometryError, match=message):
        onto_grid(volume(labels(), change @ AFFINE), ImageGrid(shape=SHAPE, affine=AFFINE))


def test_hints_on_lost_positions():
    grid = ImageGrid(shape=SHAPE, affine=AFFINE)
    moved = AFFINE.copy()
    moved[:3, 3] += (0.3, 0.4, 0)
    with pytest.raises(GeometryError, match=r"fits when it is moved by 0\.50 mm"):
        onto_grid(volume(labels(), moved), grid)
    with pytest.raises(GeometryError, match="affine of the mask is that of a file without one"):
        onto_grid(volume(labels(), np.eye(4)), grid)
    with pytest.raises(GeometryError, match="has 5 x 6 x 7 voxels and no affine; the mask looks as if"):
        onto_grid(volume(labels(SHAPE[::-1]), None), grid)
    np.testing.assert_array_equal(onto_grid(volume(labels(), None), grid), labels())


def itk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


@settings(max_examples=15, deadline=None)
@given(shift=st.tuples(*[st.floats(-3, 3)] * 3), scale=st.floats(0.5, 2.1), seed=st.integers(0, 50))
def test_nearest_equals_simpleitk(shift, scale, seed):
    target = np.eye(4)
    target[:3, :3] = np.diag([1.1 * scale, 0.8, 1.7])
    target[:3, 3] = (AFFINE @ [4, 3.5, 3, 1])[:3] - target[:3, :3] @ [4.5, 4, 3.5] + shift
    source = np.random.default_rng(seed).integers(1, 5, (9, 8, 7)).astype(np.uint8)
    shape = (10, 9, 8)
    found = onto_grid(volume(source, AFFINE), ImageGrid(shape=shape, affine=target), resample="nearest")
    theirs = sitk.Resample(
        itk(source, AFFINE),
        itk(np.zeros(shape, np.uint8), target),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    # ITK takes the higher of two equally near voxels.
    assert np.mean(found == sitk.GetArrayFromImage(theirs).T) > 0.99


def test_a_mask_elsewhere_is_refused_even_when_resampling():
    far = AFFINE.copy()
    far[:3, 3] += 1000.123
    with pytest.raises(GeometryError, match="do not share a grid"):
        onto_grid(volume(labels(), far), ImageGrid(shape=SHAPE, affine=AFFINE), resample="nearest")


def test_mask_on_the_straightened_grid_goes_back():
    tilted = AFFINE.copy()
    tilted[:3, 2] += tilted[:3, 1] * 0.37
    shear = shear_of(tilted, SHAPE)
    assert shear is not None
    straight = straighten_labels(labels(), shear)
    for axes, flips in ORIENTATIONS[::7]:
        mask = turned(straight, shear.straight_affine, axes, flips)
        np.testing.assert_array_equal(onto_grid(mask, ImageGrid(shape=SHAPE, affine=tilted)), labels())
    with pytest.raises(GeometryError, match="labelled voxels lie outside"):
        onto_grid(
            volume(np.ones_like(straight), shear.straight_affine), ImageGrid(shape=SHAPE, affine=tilted)
        )


def test_single_slices_whatever_their_thickness():
    thick = AFFINE.copy()
    thick[:3, 2] *= -4.7
    flat = labels((7, 6, 1))[..., 0]
    mask = turned(flat[..., np.newaxis], thick, (1, 0, 2), (False, True, False))
    found = onto_grid(
        Volume(array=mask.array[..., 0], affine=mask.affine), ImageGrid(shape=(7, 6), affine=AFFINE)
    )
    np.testing.assert_array_equal(found, flat)


def test_axis_codes():
    assert axis_codes(np.diag([-1.0, -1, 1, 1])) == "LPS"
    assert axis_codes(np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, -3, 0, 0], [0, 0, 0, 1]])) == "PIR"


def test_real_image_in_36_orientations(shared_data):
    """Every file of the collection holds the same head; its values go exactly onto any other."""
    paths = sorted((shared_data / "orientations").glob("*.nii.gz"))
    assert len(paths) == 36
    reference = read_image([shared_data / "orientations" / "RAS.nii.gz"])
    for path in paths:
        image = read_image([path])
        assert axis_codes(image.affine) == path.name[:3]
        move = lattice_map(image.affine, image.spatial_shape, reference.affine, reference.spatial_shape)
        assert move is not None
        assert move.target_shape == reference.spatial_shape
        np.testing.assert_allclose(image.affine @ move.matrix, reference.affine, atol=1e-4)
        np.testing.assert_array_equal(onto_grid(image, reference.grid), reference.array[0])
