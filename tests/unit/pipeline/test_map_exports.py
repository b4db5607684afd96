"""Maps that are asked for lie beside the mask and are told in the record."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.data.phantoms import make_chest_phantom
from medseg.pipeline.case_files import maps_of
from medseg.pipeline.predict_folder import predict_folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.png"
    image = make_chest_phantom(2).image[::4, ::4]
    Image.fromarray(np.round(255 * image.T).astype(np.uint8)).save(path)
    return path


def test_exports_that_are_maps():
    assert maps_of(("nifti", "probabilities", "entropy")) == ("entropy", "probabilities")
    assert maps_of(("nifti", "png")) == ()


def test_maps_are_written_on_the_grid_of_the_film(film, tmp_path):
    result = predict_folder(
        [film], model="chest-xray-lungs", output=tmp_path, formats="nifti,entropy,disagreement,probabilities"
    )
    assert result.exit_code == 0
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    names = {path.name for path in folder.glob("*.nii.gz")}
    assert names == {
        *(
            "segmentation.nii.gz",
            "entropy.nii.gz",
            "probability_lung_right.nii.gz",
            "probability_lung_left.nii.gz",
        ),
    }
    mask = np.asarray(nib.load(folder / "segmentation.nii.gz").dataobj)
    right = nib.load(folder / "probability_lung_right.nii.gz").get_fdata()
    assert right.shape == mask.shape
    assert right[mask == 1].mean() > 0.9 > 0.1 > right[mask == 0].mean()
    entropy = nib.load(folder / "entropy.nii.gz").get_fdata()
    assert 0 <= entropy.min() < 0.05 < entropy.max() <= 1
    record = json.loads((folder / "measurements.json").read_text())
    assert record["maps"] == ["entropy", "probability_lung_left", "probability_lung_right"]
    assert "disagreement" not in record
    said = json.loads((tmp_path / "predictions.json").read_text())["cases"][0]["notes"]
    assert "no map of the disagreement: the model is a single network" in said


def test_maps_of_an_earlier_result_go_with_it(film, tmp_path):
    predict_folder([film], model="chest-xray-lungs", output=tmp_path, formats="nifti,entropy")
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (folder / "entropy.nii.gz").exists()
    predict_folder([film], model="chest-xray-lungs", output=tmp_path, formats="nifti")
    assert not (folder / "entropy.nii.gz").exists()
