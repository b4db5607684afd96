"""The shipped hippocampus model on a real image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.models.bundle import read_bundle
from medseg.pipeline.predict_folder import predict_folder


def test_it_finds_both_parts_on_the_grid_of_the_image(shared_data: Path, tmp_path: Path) -> None:
    """The case was trained on by four of the five networks: this shows that the bundle works, not how well."""
    folder = shared_data / "hippocampus"
    image = next((folder / "imagesTr").glob("hippocampus_001*"))
    truth = np.asarray(nib.load(next((folder / "labelsTr").glob("hippocampus_001*"))).dataobj)
    predict_folder([image], model="mr-hippocampus", output=tmp_path / "out", formats="nifti")
    written = nib.load(next((tmp_path / "out").glob("*/segmentation.nii.gz")))
    found = np.asarray(written.dataobj)
    assert np.allclose(written.affine, nib.load(image).affine)
    for value in (1, 2):
        both = np.count_nonzero((found == value) & (truth == value))
        total = np.count_nonzero(found == value) + np.count_nonzero(truth == value)
        assert 2 * both / total == pytest.approx(0.9, abs=0.08)


def test_its_bundle_is_below_8_mb_and_tells_its_training() -> None:
    bundle = read_bundle("mr-hippocampus")
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 8e6
    assert bundle.record.training.input_ranges["spacing_finest_mm"] == (1.0, 1.0)
    assert bundle.record.licence == "CC-BY-SA-4.0"
    assert bundle.record.limitations
