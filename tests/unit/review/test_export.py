"""Cases out for correction: what lies in the folder, read by other programs' readers."""

import json
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from reviewed_results import TABLE, flag, oblique, predicted, record, values_of, write_results

from medseg.errors import ConfigError, MissingPackageError, StorageError
from medseg.export.nifti import write_segmentation
from medseg.io.read import read_image
from medseg.provenance import sha256_file, write_json
from medseg.review.command import review
from medseg.review.options import ReviewOptions


@pytest.fixture
def made(tmp_path):
    images, results = write_results(tmp_path)
    path = results / "c1" / "measurements.json"
    value = json.loads(path.read_text())
    write_json(path, value | {"verdict": "review", "flags": [flag("Q201", "review")]})
    return images, results


def out(results, folder, **options):
    return review(results, ReviewOptions(export=folder, **options))


def test_the_list_is_written_and_ranked(made):
    result = review(made[1], ReviewOptions())
    assert result.exit_code == 0
    lines = (made[1] / "review" / "review.csv").read_text().splitlines()
    assert lines[0].startswith("rank,case_id,level,score,flags")
    assert [line.split(",")[1] for line in lines[1:]] == ["c1", "c0", "c2"]
    assert result.lines == ("3 cases: 1 review, 2 pass",)


def test_image_mask_and_segmentation_lie_on_the_source_grid(made, tmp_path):
    images, results = made
    result = out(results, tmp_path / "out", images=(images,), first=2)
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "HOWTO.txt", "c0", "c1", "labels.ctbl", "labels.itksnap.txt", "review-export.json",
    ]  # fmt: skip
    home = tmp_path / "out" / "c1"
    for name in ("image.nii.gz", "mask.nii.gz"):
        np.testing.assert_allclose(nibabel.load(home / name).affine, oblique(), atol=1e-4)
    np.testing.assert_array_equal(values_of(home / "mask.nii.gz"), TABLE.values[predicted(1)])
    np.testing.assert_array_equal(values_of(home / "image.nii.gz"), values_of(images / "c1.nii.gz"))
    seg = SimpleITK.ReadImage(str(home / "mask.seg.nrrd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(seg).T, TABLE.values[predicted(1)])


def test_the_record_has_the_digest_of_every_file(made, tmp_path):
    out(made[1], tmp_path / "out", images=(made[0],), cases=("c2",))
    value = json.loads((tmp_path / "out" / "review-export.json").read_text())
    assert value["schema"] == "medseg.review-export/1"
    assert value["model"]["name"] == "test-organs"
    (entry,) = value["cases"]
    assert entry["case_id"] == "c2"
    assert entry["prediction_sha256"] == sha256_file(made[1] / "c2" / "segmentation.nii.gz")
    for name, digest in entry["files"].items():
        assert sha256_file(tmp_path / "out" / "c2" / name) == digest
    howto = (tmp_path / "out" / "HOWTO.txt").read_text()
    assert "itksnap -g c2/image.nii.gz -s c2/mask.nii.gz -l labels.itksnap.txt" in howto
    assert "slicer.util.loadSegmentation" in howto


def test_a_second_export_adds_cases_and_leaves_edited_masks_alone(made, tmp_path):
    folder = tmp_path / "out"
    out(made[1], folder, images=(made[0],), first=1)
    (folder / "c1" / "mask.nii.gz").write_bytes(b"edited")
    out(made[1], folder, images=(made[0],), first=3)
    assert (folder / "c1" / "mask.nii.gz").read_bytes() == b"edited"
    assert len(json.loads((folder / "review-export.json").read_text())["cases"]) == 3


def test_other_folders_and_other_results_are_not_written_into(made, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds other files"):
        out(made[1], tmp_path / "full", images=(made[0],))
    out(made[1], tmp_path / "out", images=(made[0],), cases=("c0",))
    shutil.copy(made[1] / "c1" / "segmentation.nii.gz", made[1] / "c0" / "segmentation.nii.gz")
    with pytest.raises(StorageError, match="export of other results"):
        out(made[1], tmp_path / "out", images=(made[0],))


def test_images_are_found_by_hash_and_an_unknown_one_is_told(made, tmp_path):
    images, results = made
    (images / "c0.nii.gz").rename(images / "another_name.nii.gz")
    (images / "c2.nii.gz").unlink()
    result = out(results, tmp_path / "out", images=(images,))
    assert result.exit_code == 1
    assert result.facts["exported"] == ["c1", "c0"]
    assert "its image is not known" in result.facts["failed"]["c2"]
    assert out(results, tmp_path / "none").exit_code == 3


def test_a_radiograph_gets_a_grid_that_all_programs_agree_on(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (30, 22), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "film.png")
    volume = read_image([tmp_path / "film.png"])
    classes = np.zeros(volume.spatial_shape, np.uint8)
    classes[3:9, 4:20] = 1
    results = tmp_path / "results"
    write_segmentation(results / "film" / "segmentation.nii.gz", classes, volume, TABLE)
    write_json(results / "film" / "measurements.json", record("film", sha256_file(tmp_path / "film.png")))
    write_json(results / "predictions.json", {"cases": [{"case_id": "film"}]})
    out(results, tmp_path / "out", images=(tmp_path / "film.png",))
    found = [
        SimpleITK.ReadImage(str(tmp_path / "out" / "film" / n)) for n in ("image.nii.gz", "mask.seg.nrrd")
    ]
    for image in found:
        assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1), "upright in the axial view"
        assert image.GetSize() == (22, 30, 1)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found[0])[0], picture)
    # ITK takes the run's own mask, which has no affine, for the same grid.
    own = SimpleITK.ReadImage(str(results / "film" / "segmentation.nii.gz"))
    assert own.GetDirection() == found[0].GetDirection()


def test_bad_commands_say_what_to_do(made, tmp_path):
    with pytest.raises(ConfigError, match=r"--case x: .* it has c0, c1, c2"):
        out(made[1], tmp_path / "out", cases=("x",))
    with pytest.raises(ConfigError, match="give one of the two"):
        review(made[1], ReviewOptions(export=tmp_path / "a", take_back=tmp_path / "b"))
    with pytest.raises(StorageError, match=r"neither run\.json nor predictions\.json"):
        review(made[0], ReviewOptions())
    with pytest.raises(StorageError, match="is no folder"):
        review(tmp_path / "nothing", ReviewOptions())


def test_a_viewer_that_is_not_installed_is_told_before_anything_is_written(made, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match="3D Slicer was not found"):
        review(made[1], ReviewOptions(open_with="slicer", export=tmp_path / "out", images=(made[0],)))
    assert not (tmp_path / "out").exists()


def test_a_viewer_opens_one_case_after_the_other(made, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "itksnap"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    review(made[1], ReviewOptions(open_with="itksnap", export=tmp_path / "out", images=(made[0],), first=2))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    home = (tmp_path / "out").resolve()
    assert calls[0] == (f"-g {home}/c1/image.nii.gz -s {home}/c1/mask.nii.gz -l {home}/labels.itksnap.txt")
