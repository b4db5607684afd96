"""RT structure sets judged by programs that had no part in writing them (dciodvfy, plastimatch)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "export"))

from ct_series import GRIDS, write_series

from medseg.export.rtstruct import write_rtstruct
from medseg.io.rtstruct import read_rtstruct
from medseg.labels import Code, Label, LabelTable
from medseg.volume import ImageGrid

pytestmark = pytest.mark.slow

SHAPE = (47, 38, 9)
KIDNEY = Code(scheme="SCT", value="64033007", meaning="Kidney")
TABLE = LabelTable(
    labels=(
        Label(name="kidney_right", value=1, colour="#3aa0ff", side="right", pair="kidney_left", code=KIDNEY),
        Label(name="kidney_left", value=2, colour="#b684f5", side="left", pair="kidney_right", code=KIDNEY),
        Label(name="plain", value=3, colour="#ffb03a"),
    )
)


def program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def some_label_map() -> np.ndarray:
    """Three structures that no shift or mirror image equals, one with a hole and an island in it."""
    i, j, k = np.indices(SHAPE)
    label_map = np.zeros(SHAPE, dtype=np.uint8)
    label_map[((i - 13) / 10) ** 2 + ((j - 17) / 13) ** 2 + ((k - 4) / 4.2) ** 2 < 1] = 1
    label_map[((i - 13) / 5) ** 2 + ((j - 19) / 6) ** 2 + ((k - 4) / 3) ** 2 < 1] = 0
    label_map[12:15, 18:21, 4] = 1
    label_map[28:40, 7:14, 1:7] = 2
    label_map[34:44, 22:33, 0:8] = np.where(np.random.default_rng(2).random((10, 11, 8)) < 0.8, 3, 0)
    return label_map


@pytest.fixture(params=GRIDS)
def case(request, tmp_path) -> tuple[ImageGrid, np.ndarray, Path]:
    grid, label_map, path = (
        write_series(tmp_path / "ct", GRIDS[request.param], SHAPE),
        some_label_map(),
        tmp_path / "rt.dcm",
    )
    write_rtstruct(
        path,
        label_map,
        grid,
        TABLE,
        algorithm_name="box-finder",
        algorithm_version="1.2",
        weights_sha256="ab" * 32,
    )
    return grid, label_map, path


def test_dciodvfy_finds_no_error(case):
    _, _, path = case
    done = subprocess.run(
        [program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
    )
    said = (done.stdout + done.stderr).splitlines()
    assert "RTStructureSet" in said
    assert [line for line in said if line.startswith(("Error", "Warning"))] == []


@pytest.mark.parametrize("case", ["oblique"], indirect=True)
def test_dciodvfy_judges(case, tmp_path):
    _, _, path = case
    broken = pydicom.dcmread(path)
    del broken.StructureSetLabel
    broken.save_as(tmp_path / "broken.dcm")
    done = subprocess.run(
        [program("dciodvfy"), "-new", str(tmp_path / "broken.dcm")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Error - </StructureSetLabel" in done.stdout + done.stderr


def test_patient_study_and_frame_of_reference_are_the_images(case):
    grid, _, path = case
    files = [str(p) for p in grid.source.paths]
    done = subprocess.run(
        [program("dcentvfy"), *files, str(path)], capture_output=True, text=True, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    # The structure set must refer to its study by UID, and a study is no object that dcentvfy could be given.
    assert all("Missing SOPInstanceUID that was referenced - 2.25.75 " in line for line in said), said


# plastimatch 1.9.4 fills contours in the plane x, y and on a straight grid: sagittal, coronal and
# tilted slices are beyond it, whoever wrote the contours.
@pytest.mark.parametrize("case", ["axial", "oblique", "left_handed", "micro"], indirect=True)
def test_plastimatch_finds_the_same_voxels(case, tmp_path):
    grid, label_map, path = case
    out = tmp_path / "masks"
    command = [program("plastimatch"), "convert", "--input", str(path)]
    command += [
        "--referenced-ct",
        str(tmp_path / "ct"),
        "--output-prefix",
        str(out),
        "--prefix-format",
        "nii.gz",
    ]
    subprocess.run(command, capture_output=True, text=True, check=True)
    for number, label in enumerate(TABLE.labels, start=1):
        found = nib.load(out / f"{label.name}.nii.gz")
        index = np.argwhere(np.asarray(found.dataobj) > 0)
        world = index @ found.affine[:3, :3].T + found.affine[:3, 3]
        index = (np.c_[world, np.ones(len(world))] @ np.linalg.inv(grid.affine).T)[:, :3]
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        assert {tuple(v) for v in np.rint(index).astype(int).tolist()} == {
            tuple(v) for v in np.argwhere(label_map == number).tolist()
        }


def test_medseg_finds_the_same_voxels(case):
    grid, label_map, path = case
    np.testing.assert_array_equal(read_rtstruct(path, like=grid).label_map(), label_map)
