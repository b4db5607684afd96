"""Data sets in the layouts of others, made of tiny oblique NIfTI files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data.importers.front import ImportSummary, import_dataset
from medseg.data.importers.records import ImportOptions
from medseg.errors import ManifestError

# Oblique, anisotropic, left-handed; axes of different length.
AFFINE = np.array([[0.0, -1.2, 0.5, 10], [-0.8, 0.1, 0, -20], [0.1, 0.3, 2.9, 5], [0, 0, 0, 1]])
SHAPE = (4, 5, 3)


def write_nifti_file(path: Path, *, shape: tuple[int, ...] = SHAPE, shift: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = AFFINE.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), path)
    return path


@pytest.fixture(scope="session")
def nifti() -> Callable[..., Path]:
    """Writes a NIfTI file: `nifti(path, shape=..., shift=...)`."""
    return write_nifti_file


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., ImportSummary]:
    """Imports a folder into tmp_path/out/m.csv: `run(folder, **options)`."""

    def imported(folder: Path, **options) -> ImportSummary:
        return import_dataset(folder, tmp_path / "out" / "m.csv", ImportOptions(**options))

    return imported


@pytest.fixture
def refused(tmp_path: Path, run) -> Callable[..., str]:
    """The message of an import that is refused, after which no file is there."""

    def message(folder: Path, **options) -> str:
        with pytest.raises(ManifestError) as caught:
            run(folder, **options)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    return message


@pytest.fixture
def nnunet(tmp_path: Path) -> Callable[..., Path]:
    """An nnU-Net folder of two channels with cases a, b (training) and t (test); keywords change the JSON."""

    def made(**about) -> Path:
        folder = tmp_path / "Dataset007_Toy"
        for case, part in (("a", "Tr"), ("b", "Tr"), ("t", "Ts")):
            for channel in range(2):
                write_nifti_file(folder / f"images{part}" / f"{case}_{channel:04d}.nii.gz")
        for case in "ab":
            write_nifti_file(folder / "labelsTr" / f"{case}.nii.gz")
        text = {
            "channel_names": {"0": "T1", "1": "FLAIR"},
            "labels": {"background": 0, "liver": 1, "tumour": 2},
            "numTraining": 2,
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(text | about))
        return folder

    return made


@pytest.fixture
def msd(tmp_path: Path) -> Callable[..., Path]:
    """A Decathlon folder with cases x_1, x_2 (training) and x_3 (test); keywords change the JSON."""

    def made(**about) -> Path:
        folder = tmp_path / "Task99_Toy"
        entries = []
        for number in (1, 2):
            for part in ("imagesTr", "labelsTr"):
                write_nifti_file(folder / part / f"x_{number}.nii.gz")
                (folder / part / f"._x_{number}.nii.gz").write_bytes(b"Mac OS X")
            entries.append(
                {"image": f"./imagesTr/x_{number}.nii.gz", "label": f"./labelsTr/x_{number}.nii.gz"}
            )
        write_nifti_file(folder / "imagesTs" / "x_3.nii.gz")
        text = {
            "name": "Toy",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "Left lung", "2": "Right lung"},
            "numTraining": 2,
            "numTest": 1,
            "training": entries,
            "test": ["./imagesTs/x_3.nii.gz"],
        }
        (folder / "dataset.json").write_text(json.dumps(text | about))
        return folder

    return made


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """A BIDS tree: two sessions of sub-01 and one of sub-02, masks in derivatives/manual."""
    folder = tmp_path / "bids"
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"):
        subject, session = name.split("_")
        for suffix in ("T1w", "FLAIR"):
            write_nifti_file(folder / subject / session / "anat" / f"{name}_{suffix}.nii.gz")
        write_nifti_file(
            folder / "derivatives" / "manual" / subject / session / "anat" / f"{name}_space-orig_dseg.nii.gz"
        )
    (folder / "dataset_description.json").write_text('{"Name": "toy", "BIDSVersion": "1.10.0"}')
    (folder / "participants.tsv").write_text("participant_id\tage\tsplit\nsub-01\t41\tA\nsub-02\tn/a\tB\n")
    table = "index\tname\tcolor\n0\tBackground\t#000000\n1\tGray Matter\t#FF0000\n2\twhite\tn/a\n"
    (folder / "derivatives" / "manual" / "dseg.tsv").write_text(table)
    return folder
