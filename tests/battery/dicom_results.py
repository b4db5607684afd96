"""Made-up DICOM images and segmentations of them, written with pydicom and highdicom alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from medseg.geometry import affine_lps_to_ras
from medseg.labels import Code, Label, LabelTable
from medseg.volume import Source, Volume

CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
}
TABLE = LabelTable(
    labels=(
        Label(
            name="kidney_right",
            value=1,
            colour="#3aa0ff",
            side="right",
            pair="kidney_left",
            code=Code(scheme="SCT", value="64033007", meaning="Kidney"),
        ),
        Label(
            name="kidney_left",
            value=2,
            colour="#b684f5",
            side="left",
            pair="kidney_right",
            code=Code(scheme="SCT", value="64033007", meaning="Kidney"),
        ),
        Label(
            name="liver",
            value=5,
            colour="#ffb03a",
            code=Code(scheme="SCT", value="10200004", meaning="Liver"),
        ),
    ),
    regions={"kidneys": ("kidney_right", "kidney_left")},
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A source in a folder, the volume that it is, and a label map on it."""

    folder: Path
    volume: Volume
    label_map: np.ndarray
    headers: list[Dataset]


def turned(*degrees: float) -> np.ndarray:
    """Rotation about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def base(modality: str, rows: int, columns: int, **elements: object) -> Dataset:
    """Header of one image; a None removes an element."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.Modality = CLASSES[modality], modality
    image.SpecificCharacterSet = "ISO_IR 100"
    image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID = "2.25.100", "2.25.20", "2.25.30"
    image.PatientName, image.PatientID = "Ph\xe4ntom^Eins", "PH-1"
    image.PatientBirthDate, image.PatientSex = "19700101", "O"
    image.StudyDate, image.StudyTime, image.StudyID = "20240229", "101112", "S1"
    image.AccessionNumber, image.ReferringPhysicianName = "A1", ""
    image.SeriesNumber, image.InstanceNumber = 3, 1
    image.ContentDate, image.ContentTime = "20240229", "101500"
    image.AcquisitionDate, image.AcquisitionTime = "20240229", "101400"
    image.Manufacturer = "maker"
    image.PhotometricInterpretation, image.SamplesPerPixel = "MONOCHROME2", 1
    image.Rows, image.Columns = rows, columns
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    for keyword, value in elements.items():
        if value is None:
            image.pop(keyword, None)
        else:
            setattr(image, keyword, value)
    return image


def _save(image: Dataset, path: Path) -> None:
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


_OWN: dict[str, dict[str, object]] = {
    "CT": {"RescaleIntercept": 0, "RescaleSlope": 1, "RescaleType": "HU", "KVP": 120, "AcquisitionNumber": 1},
    "MR": {
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "EchoTime": 10,
        "RepetitionTime": 500,
        "EchoTrainLength": 1,
    },
    "PT": {"RescaleIntercept": 0, "RescaleSlope": 1, "Units": "BQML"},
}


def write_series(
    folder: Path,
    *,
    modality: str = "CT",
    shape: tuple[int, int, int] = (56, 48, 20),
    spacing: tuple[float, float, float] = (0.8, 0.65, 2.5),
    degrees: tuple[float, float, float] = (17, -11, 23),
    shear: tuple[float, float] = (0.0, 0.0),
    header: dict[str, str] | None = None,
    edge: bool = False,
    labels: tuple[int, ...] = (1, 2, 3),
) -> Made:
    """A stack of slices with three ellipsoids, oblique by `degrees`, sheared by mm a slice along i and j.

    `edge`: the liver leaves the image.
    """
    columns, rows, slices = shape
    axes = turned(*degrees)
    step = axes @ np.array([*shear, spacing[2]])
    affine_lps = np.eye(4)
    affine_lps[:3, 0], affine_lps[:3, 1] = axes[:, 0] * spacing[0], axes[:, 1] * spacing[1]
    affine_lps[:3, 2], affine_lps[:3, 3] = step, (-30.0, -200.0, 700.5)
    label_map = ellipsoids(shape, edge=edge)
    label_map[~np.isin(label_map, labels)] = 0
    noise = np.random.default_rng(3).normal(0, 4, shape)
    values = np.array([-50, 30, 40, 110])[label_map] + 60 * (modality != "CT") + noise
    array = np.clip(np.round(values), -1000 if modality == "CT" else 0, 3000).astype(np.int16)
    headers, paths = [], []
    for k in range(slices):
        own = dict(_OWN[modality], FrameOfReferenceUID="2.25.40", PositionReferenceIndicator="")
        image = base(modality, rows, columns, SOPInstanceUID=f"2.25.{1000 + k}", InstanceNumber=k + 1, **own)
        image.PixelSpacing, image.SliceThickness = [spacing[1], spacing[0]], 3.0
        image.ImageOrientationPatient = [round(float(v), 9) for v in (*axes[:, 0], *axes[:, 1])]
        image.ImagePositionPatient = [round(float(v), 6) for v in affine_lps[:3, 3] + k * step]
        image.WindowCenter, image.WindowWidth = 40, 300
        image.PixelData = array[:, :, k].T.tobytes()
        paths.append(folder / f"{(7 * k) % slices:03d}.dcm")
        _save(image, paths[-1])
        headers.append(image)
    volume = Volume(
        array=array[None].astype(np.float32),
        affine=affine_lps_to_ras(affine_lps),
        spacing_mm=tuple(float(v) for v in np.linalg.norm(affine_lps[:3, :3], axis=0)),
        spacing_origin="pixel_spacing",
        modality=modality,
        source=Source(
            paths=tuple(paths),
            format="dicom",
            sop_class_uid=str(CLASSES[modality]),
            sop_instance_uids=tuple(str(h.SOPInstanceUID) for h in headers),
            series_instance_uid="2.25.20",
            study_instance_uid="2.25.30",
            frame_of_reference_uid="2.25.40",
        ),
        header={"window_center": "40", "window_width": "300", **(header or {})},
    )
    return Made(folder=folder, volume=volume, label_map=label_map, headers=headers)


def ellipsoids(shape: tuple[int, ...], *, edge: bool) -> np.ndarray:
    """Two of one kind and a large one, none symmetrical to another."""
    grid = [
        np.arange(n).reshape([-1 if a == axis else 1 for a in range(len(shape))]) / n
        for axis, n in enumerate(shape)
    ]
    label_map = np.zeros(shape, dtype=np.uint8)
    blobs = [
        ((0.27, 0.62, 0.4), 0.11, 1),
        ((0.73, 0.6, 0.55), 0.09, 2),
        ((0.4, 0.0 if edge else 0.28, 0.5), 0.2, 3),
    ]
    for centre, radius, index in blobs:
        apart = sum(((g - c) / radius) ** 2 for g, c in zip(grid, centre, strict=False))
        label_map[apart <= 1] = index
    return label_map


def write_radiograph(folder: Path, *, modality: str = "CR", edge: bool = False, **elements: object) -> Made:
    """A film of 121 rows and 107 columns."""
    shape = (107, 121)
    label_map = ellipsoids(shape, edge=edge)
    ramp = np.add.outer(np.arange(shape[0]) * 9, np.arange(shape[1]) * 4)
    array = (ramp + np.array([300, 1500, 1200, 2000])[label_map]).astype(np.int16)
    own: dict[str, object] = {
        "PixelRepresentation": 0,
        "BitsStored": 12,
        "HighBit": 11,
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PatientOrientation": ["L", "F"],
        "BodyPartExamined": "ABDOMEN",
        "ViewPosition": "AP",
    }
    image = base(modality, shape[1], shape[0], **{**own, **elements})
    image.PixelData = array.T.tobytes()
    _save(image, folder / "film.dcm")
    spacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing")
    volume = Volume(
        array=array[None].astype(np.float32),
        spacing_mm=None if spacing is None else (float(spacing[1]), float(spacing[0])),
        spacing_origin="unknown"
        if spacing is None
        else "pixel_spacing"
        if "PixelSpacing" in image
        else "imager_pixel_spacing",
        patient_orientation=("L", "F"),
        modality=modality,
        source=Source(
            paths=(folder / "film.dcm",),
            format="dicom",
            sop_class_uid=str(image.SOPClassUID),
            sop_instance_uids=("2.25.100",),
            series_instance_uid="2.25.20",
            study_instance_uid="2.25.30",
        ),
    )
    return Made(folder=folder, volume=volume, label_map=label_map, headers=[image])


def write_seg(made: Made, path: Path, *, kind: str = "BINARY", table: LabelTable = TABLE) -> Path:
    """Segmentation by highdicom, as any program might have written it."""
    algorithm = hd.AlgorithmIdentificationSequence(
        name="abdomen",
        family=codes.cid7162.ArtificialIntelligence,
        version="1.2",
        parameters={"weights_sha256": "ab" * 32},
    )
    segments = []
    for number, label in enumerate(table.labels, 1):
        concept = hd.sr.CodedConcept(label.code.value, label.code.scheme, label.code.meaning)
        if label.side in ("left", "right"):
            side = ("7771000", "Left") if label.side == "left" else ("24028007", "Right")
            concept.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(side[0], "SCT", side[1])]
        segments.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=label.name,
                segmented_property_category=hd.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
                segmented_property_type=concept,
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
                tracking_uid=f"2.25.{7000 + number}",
                tracking_id=label.name,
                display_color=hd.color.CIELabColor.from_rgb(*bytes.fromhex(label.colour[1:])),
            )
        )
    flat = made.volume.spatial_dims == 2
    pixels = made.label_map.T if flat else made.label_map.transpose(2, 1, 0)
    seg = hd.seg.Segmentation(
        source_images=made.headers,
        pixel_array=np.ascontiguousarray(pixels),
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid="2.25.50",
        series_number=901,
        sop_instance_uid="2.25.51",
        instance_number=1,
        manufacturer="other",
        manufacturer_model_name="other",
        software_versions="1",
        device_serial_number="1",
        content_creator_name="other^",
        omit_empty_frames=True,
    )
    if flat:
        seg.PatientOrientation = made.headers[0].PatientOrientation
        seg.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence", None)
    seg.ContentDate, seg.ContentTime = "20240301", "080000"
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)
    return path
