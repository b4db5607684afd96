"""`medseg predict` on folders: what is an input, what is refused, what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.data.phantoms import make_chest_phantom
from medseg.errors import ConfigError, StorageError
from medseg.pipeline.predict_folder import predict_folder

MODEL = "chest-xray-lungs"


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """A drawn film, rows x columns, 8 bits."""
    return np.round(255 * make_chest_phantom(5).image.T).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, film) -> Path:
    Image.fromarray(film).save(tmp_path / "film.png")
    return tmp_path


def names(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir() if path.is_dir())


def test_an_output_inside_the_input_is_not_read_again(folder):
    output = folder / "lungs"
    for _ in range(2):
        result = predict_folder([folder], model=MODEL, output=output)
        assert result.exit_code == 0
        assert names(output) == ["film"]
    assert len(result.facts["cases"]) == 1


def test_polarity_depth_and_colour_of_the_file_do_not_matter(folder, film):
    Image.fromarray(255 - film).save(folder / "negative.png")
    Image.fromarray(film.astype(np.uint16) * 200).save(folder / "deep.png")
    Image.fromarray(np.stack([film] * 3, axis=-1)).save(folder / "rgb.tif")
    assert predict_folder([folder], model=MODEL, output=folder / "out").exit_code == 0
    masks = {
        n: np.asarray(Image.open(folder / "out" / n / "mask.png"))
        for n in ("film", "negative", "deep", "rgb")
    }
    for name in ("negative", "deep", "rgb"):
        assert np.mean(masks[name] == masks["film"]) > 0.98, name
    right, left = (np.nonzero(masks["film"] == value)[1].mean() for value in (1, 2))
    assert right < left, "the patient's right lung lies on the left of the picture"


def test_one_bad_image_does_not_take_the_others_along(folder, film):
    Image.fromarray(np.zeros_like(film)).save(folder / "black.png")
    (folder / "cut.png").write_bytes((folder / "film.png").read_bytes()[:2000])
    result = predict_folder([folder], model=MODEL, output=folder / "out")
    assert result.exit_code == 1
    errors = {case["case_id"]: case.get("error", "") for case in result.facts["cases"]}
    assert "no image content" in errors["black"]
    assert "truncated" in errors["cut"]
    assert errors["film"] == ""
    assert names(folder / "out") == ["film"], "nothing half-written stays"


def test_a_photograph_is_refused_and_can_be_forced(tmp_path):
    i, j = np.mgrid[:300, :400]
    photo = np.stack([i % 256, j % 256, (i * j) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    refused = predict_folder([tmp_path], model=MODEL, output=tmp_path / "out")
    assert refused.exit_code == 3
    assert "in colour" in refused.facts["cases"][0]["error"]
    forced = predict_folder([tmp_path], model=MODEL, output=tmp_path / "out", accept_unlike=True)
    assert forced.exit_code == 0
    assert json.loads((tmp_path / "out" / "photo" / "measurements.json").read_text())["verdict"] != "pass"


def test_area_without_spacing_is_in_pixels_and_says_so(folder):
    predict_folder([folder], model=MODEL, output=folder / "out")
    record = json.loads((folder / "out" / "film" / "measurements.json").read_text())
    area = record["measurements"]["structures"]["lung_left"]["quantities"]["area"]
    assert area["unit"] == "pixels"
    assert record["image"]["spacing_mm"] is None


def test_wrong_words_are_one_sentence(folder):
    with pytest.raises(
        ConfigError, match="expected one or more of nifti, dicom-seg, dicom-seg-labelmap, rtstruct, dicom-sr"
    ):
        predict_folder([folder], model=MODEL, output=folder / "out", formats="nrrd")
    with pytest.raises(StorageError, match="does not exist"):
        predict_folder([folder / "nowhere"], model=MODEL, output=folder / "out")


def test_each_lung_is_told_by_itself(folder):
    output = folder / "out"
    for _ in range(2):
        result = predict_folder([folder], model=MODEL, output=output, recognise="all", formats="nifti,coco")
        assert result.exit_code == 0
    record = json.loads((output / "film" / "measurements.json").read_text())
    found = record["instances"]
    largest = {item["structure"]: item for item in found["instances"] if item["number"] == 1}
    for name in ("lung_right", "lung_left"):
        item = largest[name]
        assert 0.8 < item["quantities"]["confidence"]["value"] <= 1
        assert item["quantities"]["area"]["unit"] == "pixels"
        assert item["place"]["text"] == name.removeprefix("lung_")
    lines = (output / "instances.csv").read_text().splitlines()
    assert len(lines) == 1 + len(found["instances"])
    coco = json.loads((output / "coco.json").read_text())
    assert sum(a["area"] for a in coco["annotations"]) == sum(i["voxels"] for i in found["instances"])
    assert all(0 < a["score"] <= 1 for a in coco["annotations"])
    predict_folder([folder], model=MODEL, output=output, formats="nifti")
    assert not [path.name for path in output.glob("**/*") if path.stem in ("instances", "coco")]


def test_a_file_that_another_program_left_stays(folder):
    (folder / "out").mkdir()
    (folder / "out" / "coco.json").write_text("theirs")
    predict_folder([folder], model=MODEL, output=folder / "out", formats="nifti")
    assert (folder / "out" / "coco.json").read_text() == "theirs"


def test_targets_must_be_asked_for_by_their_names(folder):
    with pytest.raises(ConfigError, match="coco holds recognised targets"):
        predict_folder([folder], model=MODEL, output=folder / "out", formats="coco")
    with pytest.raises(ConfigError, match=r"recognise\.labels names 'liver'"):
        predict_folder([folder], model=MODEL, output=folder / "out", recognise="liver")
