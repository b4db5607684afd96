"""A tool chain without medseg's readers and writers, slow and plain, to try the battery itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from toolchain import TABLE, LabelMap, Toolchain

from medseg.errors import GeometryError
from medseg.geometry import affine_from_slices
from medseg.volume import Source, Volume

_LPS = np.array([-1.0, -1.0, 1.0])


def _frames(image: Dataset) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """(position, real values, frame number or 0) of each frame of a file."""
    if "PerFrameFunctionalGroupsSequence" not in image:
        values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        return [(np.array(image.ImagePositionPatient, dtype=float), values, 0)]
    found = []
    shared = image.SharedFunctionalGroupsSequence[0]
    for number, (frame, item) in enumerate(
        zip(image.pixel_array, image.PerFrameFunctionalGroupsSequence, strict=True), start=1
    ):
        groups = item if "PixelValueTransformationSequence" in item else shared
        rescale = groups.PixelValueTransformationSequence[0]
        values = frame * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        found.append((position, values, number))
    return found


def read(paths: Sequence[Path]) -> Volume:
    """Slices by position; a gap or two slices at one place are refused."""
    images = {str(d.SOPInstanceUID): (p, d) for p in paths for d in [pydicom.dcmread(p)]}
    first = next(iter(images.values()))[1]
    place = first if "ImageOrientationPatient" in first else first.SharedFunctionalGroupsSequence[0]
    measures = place if "PixelSpacing" in place else place.PixelMeasuresSequence[0]
    plane = place if "ImageOrientationPatient" in place else place.PlaneOrientationSequence[0]
    cosines = np.array(plane.ImageOrientationPatient, dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    slices = [(p, v, n, f, u) for u, (f, d) in images.items() for p, v, n in _frames(d)]
    slices.sort(key=lambda s: float(s[0] @ normal))
    gaps = np.diff([s[0] @ normal for s in slices])
    if gaps.min() < 1e-3:
        raise GeometryError("two slices at the same position")
    if gaps.max() > gaps.min() + 1e-3:
        raise GeometryError(f"a slice is missing: gap of {gaps.max():.2f} mm, {gaps.min():.2f} mm elsewhere")
    positions = np.array([s[0] for s in slices])
    spacing = (float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1]))
    return Volume(
        array=np.stack([s[1].T for s in slices], axis=-1)[None],
        affine=affine_from_slices(positions, cosines, spacing),
        source=Source(
            paths=tuple(s[3] for s in slices),
            format="dicom",
            sop_instance_uids=tuple(s[4] for s in slices),
            frame_numbers=tuple(s[2] for s in slices if s[2]),
        ),
    )


def write_seg(path: Path, label_map: LabelMap, volume: Volume) -> None:
    """BINARY, by highdicom."""
    images = [pydicom.dcmread(p) for p in dict.fromkeys(volume.source.paths)]
    frames = label_map.transpose(2, 1, 0)
    if volume.source.frame_numbers:
        frames = frames[np.argsort(volume.source.frame_numbers)]
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label.name,
            segmented_property_category=CodedConcept("123037004", "SCT", "Anatomical Structure"),
            segmented_property_type=CodedConcept(label.code.value, label.code.scheme, label.code.meaning),
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(TABLE.labels, start=1)
        if label.code
    ]
    seg = hd.seg.Segmentation(
        images, np.ascontiguousarray(frames), "BINARY", descriptions, generate_uid(), 9, generate_uid(), 1,
        "hand", "hand", "1", "1",
    )  # fmt: skip
    seg.save_as(path)


def write_nifti(path: Path, label_map: LabelMap, volume: Volume) -> None:
    """By nibabel."""
    nib.save(nib.Nifti1Image(np.ascontiguousarray(label_map), volume.affine), path)


def write_rtstruct(path: Path, label_map: LabelMap, volume: Volume) -> None:
    """Each run of pixels along i as a contour of its own: its four corners."""
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, label in enumerate(TABLE.labels, start=1):
        name, roi = Dataset(), Dataset()
        name.ROINumber, name.ROIName, roi.ReferencedROINumber = number, label.name, number
        roi.ContourSequence = []
        edges = np.diff((label_map == number).astype(np.int8), axis=0, prepend=0, append=0).transpose(2, 1, 0)
        for (k, j, low), (_, _, high) in zip(
            *[np.argwhere(edges)[start::2] for start in (0, 1)], strict=True
        ):
            index = np.array([(i - 0.5, j + up, k, 1) for i, up in
                              ((low, -0.5), (high, -0.5), (high, 0.5), (low, 0.5))])  # fmt: skip
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
            world = (volume.affine @ index.T)[:3].T * _LPS
            contour.ContourData = [f"{value:.6f}" for value in world.ravel()]
            roi.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(name)
        dataset.ROIContourSequence.append(roi)
    dataset.save_as(path, enforce_file_format=True)


HANDMADE = Toolchain(read=read, write_seg=write_seg, write_rtstruct=write_rtstruct, write_nifti=write_nifti)
