"""Synthetic chest radiographs whose lung and heart masks are exact, and DICOM studies made of them.

A phantom is drawn in three steps: a body (`thorax`, `thorax_detail`), the X-ray shadow it casts with
scatter and noise, and the tone that a detector's software gives the picture. Everything follows from
the seed; nothing in a phantom comes from a person.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes

from medseg.data import thorax_detail as detail
from medseg.data.tables import write_csv
from medseg.data.thorax import (
    Anatomy,
    Outline,
    Sex,
    Tissue,
    View,
    draw_anatomy,
    render_tissue,
    spine_mm,
    trace_outline,
)
from medseg.data.thorax_film import (
    DETECTORS,
    DetectorName,
    Field,
    Film,
    Mask,
    collimate,
    expose,
    smooth_noise,
    splat,
)
from medseg.io.dicom_encode import encode_frame
from medseg.provenance import whole_file

# Attenuation per mm at about 60 keV; bone stands for what compact bone adds to soft tissue.
_SOFT, _BONE, _METAL = 0.019, 0.08, 0.9
_LUNG_AIR = 0.76  # share of air in inflated lung

Finding = Literal["opacity", "nodule", "effusion", "electrodes", "line", "tube", "pacemaker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChestPhantom:
    """A synthetic frontal chest radiograph with its truth.

    Parameters
    ----------
    image : (I, J) float32 array
        Display values in [0, 1], air and lung dark. i is the column index and grows towards the
        patient's left, j the row index and grows towards the feet: Patient Orientation L, F.
    masks : dict of str to (I, J) bool array
        "lung_right", "lung_left": the visible lung fields, heart and mediastinum left out, opacities
        inside the lung left in. "heart". A pixel belongs to a structure when its centre does; the
        three are disjoint.
    spacing_mm : (float, float)
        Along i and j, at the detector.
    sex, view, age_years, detector
        The person and the examination.
    marker : str
        Side letter in the picture, at that side of the patient: "R" or "L".
    findings : tuple of str
        Diseases and devices in the picture.
    """

    image: Field
    masks: dict[str, Mask]
    spacing_mm: tuple[float, float]
    sex: Sex
    view: View
    age_years: int
    detector: DetectorName
    marker: Literal["R", "L"]
    findings: tuple[Finding, ...]


def make_chest_phantom(seed: int, *, visit: int = 0, detector: DetectorName | None = None) -> ChestPhantom:
    """Draw the chest radiograph of one made-up person.

    Parameters
    ----------
    seed : int
        The person; 0 or more.
    visit : int, optional
        Another examination of the same person: another breath, pose, framing and noise.
    detector : str, optional
        Make of the receptor; drawn from the seed unless given.

    Returns
    -------
    ChestPhantom
        The same for the same arguments, bit for bit, on one platform.
    """
    person = np.random.default_rng([seed, 1])
    sex: Sex = "F" if person.uniform() < 0.48 else "M"
    view: View = "AP" if person.uniform() < 0.25 else "PA"
    anatomy = draw_anatomy(person, sex=sex, view=view)
    age = int(person.integers(22, 88))
    rng = np.random.default_rng([seed, 2, visit])
    if visit:
        anatomy = _another_breath(anatomy, rng)
    names: tuple[DetectorName, ...] = ("cr_a", "cr_b", "dx_c", "dx_d")
    drawn = names[int(rng.integers(4))]
    film, outline = _frame(anatomy, rng), trace_outline(anatomy)
    findings = _draw_findings(anatomy, rng)
    tissue = render_tissue(anatomy, outline, film, rng)
    shadow = _cast_shadow(anatomy, outline, film, tissue, findings=findings, rng=rng)
    marker: Literal["R", "L"] = "R" if rng.uniform() < 0.6 else "L"
    shadow += _METAL * _side_marker(marker, anatomy, film, rng)
    lungs = tissue.lung_right | tissue.lung_left
    make = DETECTORS[detector or drawn]
    image = expose(shadow, film, make, lungs=lungs, heart=tissue.heart, rng=rng)
    return ChestPhantom(
        image=collimate(image, lungs, rng),
        masks={"lung_right": tissue.lung_right, "lung_left": tissue.lung_left, "heart": tissue.heart},
        spacing_mm=(film.spacing_mm, film.spacing_mm),
        sex=sex, view=view, age_years=age, detector=detector or drawn, marker=marker, findings=findings,
    )  # fmt: skip


def _another_breath(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    lift = float(rng.normal(0, 0.015))
    return replace(
        anatomy,
        dome_right=anatomy.dome_right + lift,
        dome_left=anatomy.dome_left + lift,
        turn=float(rng.normal(0, 0.03)),
        scapula=float(np.clip(anatomy.scapula + rng.normal(0, 0.08), 0, 0.6)),
    )


def _frame(anatomy: Anatomy, rng: np.random.Generator) -> Film:
    """Where the picture lies: the whole lungs and a changing border."""
    width = anatomy.half_width_mm
    top = width * rng.uniform(0.22, 0.50)
    field = np.array(
        [width * rng.uniform(2.45, 2.85), top + anatomy.height_mm + width * rng.uniform(0.14, 0.6)]
    )
    finest = field.max() / 768
    spacing = float(
        rng.choice([s for s in (0.48, 0.5, 0.54, 0.56, 0.6, 0.64, 0.68, 0.7) if s >= finest] or [0.7])
    )
    columns, lines = (int(n) for n in field / spacing)
    centre = (float(rng.normal(0, 0.03)) * width, 0.5 * lines * spacing - top)
    shape = (columns + (columns == lines), lines)
    return Film(shape=shape, spacing_mm=spacing, centre_mm=centre, tilt_rad=float(rng.normal(0, 0.015)))


def _draw_findings(anatomy: Anatomy, rng: np.random.Generator) -> tuple[Finding, ...]:
    mobile = anatomy.view == "AP"
    odds: tuple[tuple[Finding, float], ...] = (
        ("opacity", 0.16), ("nodule", 0.10), ("electrodes", 0.6 * mobile), ("line", 0.45 * mobile),
        ("tube", 0.3 * mobile), ("pacemaker", 0.07),
    )  # fmt: skip
    drawn = tuple(name for name, chance in odds if rng.uniform() < chance)
    return (*drawn, "effusion") if anatomy.effusion else drawn


def _cast_shadow(
    anatomy: Anatomy,
    outline: Outline,
    film: Film,
    tissue: Tissue,
    *,
    findings: tuple[Finding, ...],
    rng: np.random.Generator,
) -> Field:
    """Log attenuation of the patient without scatter, (I, J)."""
    bones = [*detail.ribs(anatomy, outline, rng), *detail.shoulder_girdle(anatomy, rng)]
    bone = splat(film, bones, blur_mm=0.45) + 0.36 * spine_mm(anatomy, film, rng)
    aerated = np.clip(1.3 * tissue.air_mm / np.maximum(tissue.room_mm, 1), 0, 1)
    vessel = splat(film, detail.vessels(anatomy, outline, rng), blur_mm=0.35) * aerated
    hollow = splat(film, detail.airways(anatomy), blur_mm=0.7) * (1 - aerated)
    hollow += splat(film, detail.gas(anatomy, outline, rng), blur_mm=0.7)
    grain = 1 + 0.008 * smooth_noise(rng, film, 2.0) + 0.006 * smooth_noise(rng, film, 6)
    air = tissue.air_mm * (grain + 0.015 * smooth_noise(rng, film, 40))
    if "opacity" in findings or "nodule" in findings:
        air = air * (1 - _disease(tissue, film, findings, rng))
    metal = splat(film, detail.devices(anatomy, findings, rng), blur_mm=0.4)
    soft = tissue.soft_mm - _LUNG_AIR * air - hollow + 2.0 * vessel
    total = np.maximum(_SOFT * soft + _BONE * float(rng.uniform(0.75, 1.1)) * bone, 0)
    # the beam hardens: thick parts attenuate less per mm
    return np.asarray(total * (1 - 0.03 * total) + _METAL * metal, dtype=np.float32)


def _disease(tissue: Tissue, film: Film, findings: tuple[Finding, ...], rng: np.random.Generator) -> Field:
    """Share of the air that fluid or tissue has replaced."""
    x, z = film.coordinates()
    inside = np.flatnonzero(tissue.lung_right | tissue.lung_left)
    filled = np.zeros(film.shape, dtype=np.float32)
    if "opacity" in findings:
        patchy = np.clip(0.62 + 0.35 * smooth_noise(rng, film, 12), 0, 1)
        for _ in range(int(rng.integers(1, 4))):
            at = inside[rng.integers(inside.size)]
            squared = ((x - x.flat[at]) / rng.uniform(16, 34)) ** 2 + (
                (z - z.flat[at]) / rng.uniform(16, 40)
            ) ** 2
            filled = np.maximum(filled, rng.uniform(0.4, 0.8) * np.exp(-squared) * patchy)
    if "nodule" in findings:
        for _ in range(int(rng.integers(1, 3))):
            at, radius = inside[rng.integers(inside.size)], rng.uniform(6, 13)
            squared = ((x - x.flat[at]) ** 2 + (z - z.flat[at]) ** 2) / radius**2
            depth = 2 * radius * np.sqrt(np.clip(1 - squared, 0, None)) / np.maximum(tissue.air_mm, 30)
            filled = np.maximum(filled, np.clip(depth, 0, 0.9))
    return filled


def _side_marker(marker: str, anatomy: Anatomy, film: Film, rng: np.random.Generator) -> Field:
    """Lead letters beside the neck, on the side that they name; mm of metal."""
    height = rng.uniform(9, 14)
    top = film.centre_mm[1] - 0.5 * film.shape[1] * film.spacing_mm
    side = -1 if marker == "R" else 1
    text = marker if rng.uniform() < 0.6 else f"{marker} {anatomy.view}"
    x = side * rng.uniform(0.80, 0.98) * anatomy.half_width_mm + film.centre_mm[0] - 0.4 * height * len(text)
    clouds = detail.letters(
        text, corner=(x, top + rng.uniform(7, 14)), height_mm=height, lean=rng.normal(0, 0.08)
    )
    return splat(film, clouds, blur_mm=0.3)


@dataclass(frozen=True, slots=True)
class _Storage:
    """How one study is written: what differs between archives."""

    modality: Literal["CR", "DX"]
    photometric: Literal["MONOCHROME1", "MONOCHROME2"]
    bits: int
    syntax: Literal["explicit", "implicit", "rle", "j2k", "jpegls"]
    spacing: Literal["imager", "calibrated", "both", "none"]
    name: str
    windowed: bool = True
    mirrored: bool = False


_SYNTAXES = {
    "explicit": uid.ExplicitVRLittleEndian, "implicit": uid.ImplicitVRLittleEndian, "rle": uid.RLELossless,
    "j2k": uid.JPEG2000Lossless, "jpegls": uid.JPEGLSLossless,
}  # fmt: skip
_STORAGE = (
    _Storage("DX", "MONOCHROME2", 12, "explicit", "imager", "IM0001.dcm"),
    _Storage("CR", "MONOCHROME1", 10, "explicit", "imager", "CR000001"),
    _Storage("DX", "MONOCHROME2", 14, "rle", "calibrated", "image.dcm"),
    _Storage("CR", "MONOCHROME2", 12, "implicit", "imager", "00000001"),
    _Storage("DX", "MONOCHROME1", 12, "j2k", "imager", "DX.1.1.dcm"),
    _Storage("CR", "MONOCHROME2", 8, "jpegls", "none", "IM-0001-0001.dcm", windowed=False),
    _Storage("DX", "MONOCHROME2", 16, "implicit", "calibrated", "I1"),
    _Storage("CR", "MONOCHROME1", 12, "rle", "imager", "IM0001.dcm", mirrored=True),
    _Storage("DX", "MONOCHROME2", 10, "jpegls", "imager", "image.dcm"),
    _Storage("CR", "MONOCHROME2", 16, "j2k", "imager", "CR000001", windowed=False),
    _Storage("DX", "MONOCHROME1", 14, "explicit", "calibrated", "DX.1.1.dcm"),
    _Storage("CR", "MONOCHROME2", 10, "implicit", "both", "IM0001.dcm"),
)
_SOP_CLASSES = {
    "CR": uid.ComputedRadiographyImageStorage, "DX": uid.DigitalXRayImageStorageForPresentation
}  # fmt: skip
_RIGHT, _LEFT = 1, 2  # values in the written masks
_MAGNIFICATION = 1.08


def write_chest_studies(folder: Path, *, cases: int = 24, seed: int = 7) -> Path:
    """Write synthetic chest studies as an archive would hand them out, with masks and a manifest.

    `studies/<case>/` holds one DICOM file each, `masks/<case>.nii.gz` its mask on the stored grid
    (I, J, 1) with 1 for the right and 2 for the left lung, `manifest.csv` one row per case. Cases
    differ in modality, view, photometric interpretation, bit depth, transfer syntax, spacing and
    orientation; some patients have two studies.

    Parameters
    ----------
    folder : Path
        Made where missing; files of the same names are replaced, each whole or not at all.
    cases : int, optional
        Number of studies.
    seed : int, optional
        The same cases and seed give the same bytes.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    StorageError
        A file cannot be written.
    """
    digits = max(3, len(str(cases)))
    rows = []
    for index, (person, visit) in enumerate(_attendance(cases)):
        storage = _STORAGE[index % len(_STORAGE)]
        make: tuple[DetectorName, DetectorName] = (
            ("cr_a", "cr_b") if storage.modality == "CR" else ("dx_c", "dx_d")
        )
        detector = make[(index // 3) % 2]
        phantom = make_chest_phantom(_person_seed(seed, person), visit=visit, detector=detector)
        case_id, patient_id = f"cxr-{index + 1:0{digits}d}", f"PHANTOM-{seed}-{person + 1:0{digits}d}"
        image, mask = Path("studies") / case_id / storage.name, Path("masks") / f"{case_id}.nii.gz"
        dataset = _to_dicom(phantom, storage, seed=seed, index=index, patient=(patient_id, person, visit))
        with whole_file(folder / image) as part:
            dataset.save_as(part, enforce_file_format=True)
        with whole_file(folder / mask) as part:
            part.write_bytes(_mask_bytes(phantom, storage))
        rows.append({
            "case_id": case_id, "patient_id": patient_id, "image": image.as_posix(), "label": mask.as_posix(),
            "sex": phantom.sex, "view": phantom.view, "modality": storage.modality,
            "photometric": storage.photometric, "bits_stored": storage.bits, "detector": detector,
            "findings": " ".join(phantom.findings),
        })  # fmt: skip
    manifest = folder / "manifest.csv"
    write_csv(manifest, rows)
    return manifest


def _attendance(cases: int) -> list[tuple[int, int]]:
    """(person, visit) of each study: every eighth person, or so, comes back."""
    seen: list[tuple[int, int]] = []
    for index in range(cases):
        person = seen[-1][0] if seen else -1
        seen.append((person, 1) if index % 8 == 5 else (person + 1, 0))
    return seen


def _person_seed(seed: int, person: int) -> int:
    return int.from_bytes(hashlib.sha256(f"medseg chest {seed} {person}".encode()).digest()[:6])


def _uid(seed: int, *parts: object) -> str:
    """A UID under 2.25 from the seed and what it names."""
    text = "/".join(["medseg phantom", str(seed), *(str(part) for part in parts)])
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])}"


def _mask_bytes(phantom: ChestPhantom, storage: _Storage) -> bytes:
    """The mask of a stored picture as a compressed NIfTI file without patient coordinates."""
    mask = _RIGHT * phantom.masks["lung_right"].astype(np.uint8) + _LEFT * phantom.masks["lung_left"]
    stored = mask[::-1] if storage.mirrored else mask
    image = nib.Nifti1Image(np.ascontiguousarray(stored[:, :, None], dtype=np.uint8), affine=None)
    spacing = _spacing(phantom, storage)
    if spacing is not None:
        image.header.set_zooms((*spacing, 1.0))
        image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def _spacing(phantom: ChestPhantom, storage: _Storage) -> tuple[float, float] | None:
    """Spacing along i and j that a reader of the file can know, mm."""
    if storage.spacing == "none":
        return None
    share = _MAGNIFICATION if storage.spacing == "calibrated" else 1.0
    return (round(phantom.spacing_mm[0] / share, 4), round(phantom.spacing_mm[1] / share, 4))


def _to_dicom(
    phantom: ChestPhantom, storage: _Storage, *, seed: int, index: int, patient: tuple[str, int, int]
) -> FileDataset:
    """A conformant CR or DX object, PS3.3 A.2 and A.26."""
    patient_id, person, visit = patient
    dataset = FileDataset("", {}, file_meta=_file_meta(seed, index, storage), preamble=b"\0" * 128)
    day = f"2020{1 + index // 28 % 12:02d}{1 + index % 28:02d}"
    dataset.update(_plain(
        SpecificCharacterSet="ISO_IR 192", SOPClassUID=_SOP_CLASSES[storage.modality],
        SOPInstanceUID=_uid(seed, index, "instance"), StudyInstanceUID=_uid(seed, index, "study"),
        SeriesInstanceUID=_uid(seed, index, "series"), StudyDate=day, SeriesDate=day, AcquisitionDate=day,
        ContentDate=day, StudyTime="080000", SeriesTime="080000", AcquisitionTime="080000",
        ContentTime="080000",
        AccessionNumber=f"PH{index + 1:06d}", StudyID=str(index + 1), SeriesNumber=1, InstanceNumber=1,
        AcquisitionNumber=1, Modality=storage.modality, PatientName=f"Phantom^Chest {person + 1:02d}",
        PatientID=patient_id, PatientBirthDate="", PatientSex=phantom.sex, ReferringPhysicianName="",
        PatientAge=f"{phantom.age_years + visit:03d}Y", StudyDescription="Chest phantom",
        SeriesDescription=f"Chest {phantom.view}", Manufacturer="medseg phantom",
        ManufacturerModelName=f"Phantom {phantom.detector}", SoftwareVersions="1", BodyPartExamined="CHEST",
        ViewPosition=phantom.view, ImageType=["ORIGINAL", "PRIMARY"], BurnedInAnnotation="NO",
        PatientOrientation=["R", "F"] if storage.mirrored else ["L", "F"], LossyImageCompression="00",
    ))  # fmt: skip
    _put_pixels(dataset, phantom, storage)
    _put_spacing(dataset, phantom, storage)
    if storage.modality == "DX":
        _put_dx_modules(dataset, phantom, storage)
    else:
        dataset.KVP, dataset.PlateID, dataset.FilterType = "110", "1", "NONE"
    if storage.syntax == "jpegls":
        dataset.compress(uid.JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
    elif storage.syntax in ("rle", "j2k"):
        _compress(dataset, _SYNTAXES[storage.syntax], storage.bits)
    return dataset


def _compress(dataset: Dataset, syntax: str, bits: int) -> None:
    pixels = np.frombuffer(dataset.PixelData, dtype=f"<u{dataset.BitsAllocated // 8}")
    frame = pixels.reshape(dataset.Rows, dataset.Columns)
    dataset.PixelData = encapsulate([encode_frame(frame, syntax, bits_stored=bits)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax


def _plain(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _file_meta(seed: int, index: int, storage: _Storage) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = _SOP_CLASSES[storage.modality]
    meta.MediaStorageSOPInstanceUID = _uid(seed, index, "instance")
    packed = storage.syntax in ("rle", "j2k", "jpegls")
    meta.TransferSyntaxUID = _SYNTAXES["explicit" if packed else storage.syntax]
    meta.ImplementationClassUID = _uid(0, "implementation")
    meta.ImplementationVersionName = "MEDSEG_PHANTOM"
    return meta


def _put_pixels(dataset: FileDataset, phantom: ChestPhantom, storage: _Storage) -> None:
    """Display values as stored values, and the window that brings them back."""
    picture = phantom.image[::-1] if storage.mirrored else phantom.image
    if storage.photometric == "MONOCHROME1":
        picture = 1 - picture
    top = 2**storage.bits - 1
    low, high = (round(0.06 * top), round(0.91 * top)) if storage.windowed else (0, top)
    kind = np.uint8 if storage.bits == 8 else np.uint16
    stored = np.rint(low + picture.T.astype(np.float64) * (high - low)).astype(kind)
    dataset.update(_plain(
        SamplesPerPixel=1, PhotometricInterpretation=storage.photometric, Rows=stored.shape[0],
        Columns=stored.shape[1], BitsAllocated=8 * kind().itemsize, BitsStored=storage.bits,
        HighBit=storage.bits - 1, PixelRepresentation=0, PixelData=np.ascontiguousarray(stored).tobytes(),
    ))  # fmt: skip
    dataset["PixelData"].VR = "OB" if kind is np.uint8 else "OW"
    if storage.windowed or storage.modality == "DX":
        # PS3.3 C.11.2.1.2.1: LINEAR shifts the centre by half a unit
        dataset.WindowCenter, dataset.WindowWidth = f"{(low + high + 1) / 2:g}", str(high - low + 1)


def _put_spacing(dataset: FileDataset, phantom: ChestPhantom, storage: _Storage) -> None:
    if storage.spacing == "none":
        return
    at_detector = [f"{value:.4g}" for value in reversed(phantom.spacing_mm)]
    dataset.ImagerPixelSpacing = at_detector
    if storage.spacing == "both":
        dataset.PixelSpacing = at_detector
    elif storage.spacing == "calibrated":
        known = _spacing(phantom, storage)
        dataset.PixelSpacing = [f"{value:.4f}" for value in reversed(known or ())]
        dataset.PixelSpacingCalibrationType = "GEOMETRY"
        dataset.PixelSpacingCalibrationDescription = "centre of the chest"


def _put_dx_modules(dataset: FileDataset, phantom: ChestPhantom, storage: _Storage) -> None:
    """DX Anatomy Imaged, DX Image, DX Detector, DX Positioning, Acquisition Context."""
    inverse = storage.photometric == "MONOCHROME1"
    view = codes.cid4010.PosteroAnterior if phantom.view == "PA" else codes.cid4010.AnteroPosterior
    dataset.update(_plain(
        PresentationIntentType="FOR PRESENTATION", ImageLaterality="U", PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=1 if inverse else -1, RescaleIntercept="0", RescaleSlope="1",
        RescaleType="US", PresentationLUTShape="INVERSE" if inverse else "IDENTITY",
        DetectorType="DIRECT", DetectorID="1",
        AcquisitionContextSequence=[], AnatomicRegionSequence=[_code("51185008", "Thorax")],
        ViewCodeSequence=[_code(view.value, view.meaning)], AcquisitionDeviceProcessingDescription="",
        PositionerType="NONE", KVP="110", WindowCenterWidthExplanation="NORMAL",
    ))  # fmt: skip


def _code(value: str, meaning: str) -> Dataset:
    return _plain(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)
