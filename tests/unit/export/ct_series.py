"""A made-up CT series on any grid of three axes, tilted and left-handed ones included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medseg.geometry import affine_lps_to_ras, spacing_of
from medseg.volume import ImageGrid, Source


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Rotation by angles in degrees about x, then y, then z."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians([x, y, z])):
        a, b = [n for n in range(3) if n != axis]
        step = np.eye(3)
        step[[a, b], [a, b]], step[a, b], step[b, a] = np.cos(angle), -np.sin(angle), np.sin(angle)
        turned = step @ turned
    return turned


def affine_lps(
    directions: np.ndarray, spacing_mm: tuple[float, ...], origin: tuple[float, ...]
) -> np.ndarray:
    """(4, 4) affine from directions (columns), spacing and the first voxel's centre."""
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing_mm)
    affine[:3, 3] = origin
    return affine


#: Every kind of grid that a series can have.
GRIDS = {
    "axial": affine_lps(np.eye(3), (0.7, 0.5, 2.5), (-12.3, 45.6, -100.0)),
    "oblique": affine_lps(rotation(17, -11, 23), (0.65, 0.8, 2.5), (-112.34, -98.7, 30.25)),
    "left_handed": affine_lps(rotation(17, -11, 23) * [1, 1, -1], (0.65, 0.8, 2.5), (1.0, 2.0, 3.0)),
    "sagittal": affine_lps(
        np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0.0]]), (0.9, 0.4, 3.3), (-7.0, -90.0, 80.0)
    ),
    "coronal_flipped": affine_lps(
        np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0.0]]), (0.9, 1.4, 0.3), (60.0, -20.0, 310.5)
    ),
    "tilted": affine_lps(np.eye(3), (0.5, 0.5, 1.0), (0.0, -5.0, 7.0))
    @ np.array([[1, 0, 0, 0], [0, 1, 1.7, 0], [0, 0, 4, 0], [0, 0, 0, 1.0]]),
    "micro": affine_lps(rotation(5, 40, -8), (0.0021, 0.0033, 0.004), (0.1, -0.2, 0.05)),
}
SHAPE = (23, 17, 7)


def grid_in_memory(affine: np.ndarray, shape: tuple[int, ...] = SHAPE, **source: Any) -> ImageGrid:
    """The grid of such a series without its files."""
    slices = (*shape, 1)[2]
    values: dict[str, Any] = {
        "paths": tuple(Path(f"{k}.dcm") for k in range(slices)),
        "sop_class_uid": str(CTImageStorage),
        "sop_instance_uids": tuple(f"2.25.77.{k + 1}" for k in range(slices)),
        "series_instance_uid": "2.25.76",
        "study_instance_uid": "2.25.75",
        "frame_of_reference_uid": "2.25.74",
    }
    return ImageGrid(
        shape=shape,
        affine=affine_lps_to_ras(affine),
        spacing_mm=spacing_of(affine)[: len(shape)],
        modality="CT",
        source=Source(format="dicom", **(values | source)),
    )


def write_series(
    folder: Path,
    affine: np.ndarray,
    shape: tuple[int, ...] = SHAPE,
    *,
    only_first: bool = False,
    **elements: Any,
) -> ImageGrid:
    """Write the series; a None removes an element from every slice."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = (*shape, 1)[2]
    grid = grid_in_memory(affine, shape, paths=tuple(folder / f"{k:03}.dcm" for k in range(slices)))
    for k, path in enumerate(grid.source.paths[:1] if only_first else grid.source.paths):
        image = _slice(grid.source, affine, shape, k)
        for keyword, value in elements.items():
            if value is None:
                image.pop(keyword, None)
            else:
                setattr(image, keyword, value)
        image.save_as(path, enforce_file_format=True)
    return grid


def _slice(source: Source, affine: np.ndarray, shape: tuple[int, ...], k: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, source.sop_instance_uids[k]
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SeriesInstanceUID, image.StudyInstanceUID = source.series_instance_uid, source.study_instance_uid
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = source.frame_of_reference_uid, ""
    image.PatientName, image.PatientID = "Phantom^Box", "PH-2"
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyDate, image.StudyTime, image.StudyID = "20240229", "101112.5", "S1"
    image.AccessionNumber, image.ReferringPhysicianName = "A1", ""
    image.Modality, image.SeriesNumber, image.InstanceNumber = "CT", 3, k + 1
    image.Manufacturer, image.PatientPosition, image.KVP = "maker", "HFS", "120"
    image.ImageType, image.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    directions = (affine[:3, :3] / lengths).T
    image.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in directions[:2].ravel()]
    image.ImagePositionPatient = [f"{v:.9f}"[:16] for v in affine[:3, 3] + k * affine[:3, 2]]
    image.PixelSpacing = [f"{lengths[1]:.9f}"[:16], f"{lengths[0]:.9f}"[:16]]
    image.SliceThickness = f"{lengths[2]:.6f}"
    image.PhotometricInterpretation, image.SamplesPerPixel = "MONOCHROME2", 1
    image.Columns, image.Rows = shape[:2]
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleIntercept, image.RescaleSlope = "-1024", "1"
    image.PixelData = np.full(shape[0] * shape[1], 1000 + k, dtype="<u2").tobytes()
    return image
