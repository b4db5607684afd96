"""Masks read without medseg: highdicom, pydicom, nibabel, SimpleITK and ray casting, in world coordinates.

Each reader answers one question: which label has the tissue at these points (RAS+ mm)? Array indices
of the file never meet those of the truth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

Points = NDArray[np.float64]
Labels = NDArray[np.int64]

TOLERANCE_VOXELS = 0.02
_LPS = np.array([-1.0, -1.0, 1.0])


class OffGridError(AssertionError):
    """The points do not fall on voxel centres: the mask's grid is not the image's."""


def _look_up(array: NDArray[np.integer], affine: NDArray[np.float64], points: Points) -> Labels:
    """Value at each point of an array whose affine maps indices to the points' world; 0 outside."""
    index = (np.linalg.inv(affine) @ np.vstack([points.T, np.ones(len(points))]))[:3].T
    whole = np.rint(index).astype(np.int64)
    off = float(np.abs(index - whole).max())
    if off > TOLERANCE_VOXELS:
        raise OffGridError(f"voxel centres are off by {off:.3f} voxels")
    inside = ((whole >= 0) & (whole < array.shape)).all(axis=1)
    found = np.zeros(len(points), dtype=np.int64)
    found[inside] = array[tuple(whole[inside].T)]
    return found


def seg_by_highdicom(path: Path, points: Points) -> tuple[Labels, int]:
    """Segment number at each point, and the number of voxels in any segment, by highdicom."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return _look_up(volume.array, volume.affine, points * _LPS), int(np.count_nonzero(volume.array))


def seg_by_planes(path: Path, points: Points) -> tuple[Labels, int]:
    """The same from each frame's own plane position, by pydicom; also where planes are sheared."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    normal = np.cross(*cosines)
    found, total = np.zeros(len(points), dtype=np.int64), 0
    for frame, item in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        offset = points * _LPS - np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        near = np.flatnonzero(np.abs(offset @ normal) < 0.05)
        column, row = (offset[near] @ cosines.T / spacing[::-1]).T
        whole = np.rint([row, column]).astype(int)
        off = float(np.abs(np.array([row, column]) - whole).max(initial=0))
        if off > TOLERANCE_VOXELS:
            raise OffGridError(f"voxel centres are off by {off:.3f} pixels")
        inside = ((whole >= 0) & (whole < np.array(frame.shape)[:, None])).all(axis=0)
        hit = near[inside][frame[tuple(whole[:, inside])] > 0]
        if (found[hit] > 0).any():
            raise OffGridError("two segments hold one voxel")
        found[hit] = number
        total += int(np.count_nonzero(frame))
    return found, total


def nifti_by_nibabel(path: Path, points: Points) -> tuple[Labels, int]:
    """Value at each point and number of voxels that are not 0, by nibabel."""
    image = nib.load(path)
    array = np.asarray(image.dataobj).astype(np.int64)
    return _look_up(array, image.affine, points), int(np.count_nonzero(array))


def nifti_by_itk(path: Path, points: Points) -> tuple[Labels, int]:
    """The same by SimpleITK, whose world is LPS+ and which knows no shear."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).astype(np.int64).T
    return _look_up(array, affine, points * _LPS), int(np.count_nonzero(array))


def rtstruct_masks(
    path: Path, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> Mapping[str, NDArray[np.bool_]]:
    """Mask of each region of interest at the voxel centres of a grid, by ray casting.

    A voxel is inside when a ray from its centre crosses the contours of its slice an odd number of
    times.

    Parameters
    ----------
    path : Path
    affine : (4, 4) float64 array
        The true grid: voxel to RAS+ mm, slices along the third axis.
    shape : (int, int, int)

    Raises
    ------
    OffGridError
        A contour that lies on no slice.
    """
    structures = pydicom.dcmread(path)
    names = {int(item.ROINumber): str(item.ROIName) for item in structures.StructureSetROISequence}
    to_index = np.linalg.inv(affine)
    masks = {}
    for roi in structures.ROIContourSequence:
        slices: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
        for contour in roi.get("ContourSequence", []):
            world = np.array(contour.ContourData, dtype=float).reshape(-1, 3) * _LPS
            index = (to_index @ np.vstack([world.T, np.ones(len(world))]))[:3].T
            k = round(float(np.median(index[:, 2])))
            off = float(np.abs(index[:, 2] - k).max())
            if off > TOLERANCE_VOXELS or not 0 <= k < shape[2]:
                raise OffGridError(f"a contour lies {off:.3f} slices from slice {k}")
            slices[k].append(index[:, :2])
        mask = np.zeros(shape, dtype=np.bool_)
        for k, polygons in slices.items():
            mask[:, :, k] = _inside(polygons, shape[:2])
        masks[names[int(roi.ReferencedROINumber)]] = mask
    return masks


def _inside(polygons: list[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(I, J) whether pixel centres lie inside closed polygons, even-odd."""
    odd = np.zeros(shape, dtype=np.bool_)
    columns = np.arange(shape[0])
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            for j in range(max(0, int(np.ceil(min(y0, y1)))), min(shape[1], int(np.ceil(max(y0, y1))))):
                crossing = x0 + (j - y0) * (x1 - x0) / (y1 - y0)
                odd[columns < crossing, j] ^= True
    return odd
