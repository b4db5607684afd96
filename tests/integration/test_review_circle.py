"""The whole circle with real bytes: train or predict, review, correct, take back, fine-tune on the new list."""

import json

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import tiny_volumes
from small_cohorts import write_cohort, write_ct, write_small_bundle
from typer.testing import CliRunner

from medseg.cli import app
from medseg.data.manifest import read_manifest
from medseg.export.dicom_seg import write_dicom_seg
from medseg.io.read import read_image
from medseg.pipeline.api import run_pipeline
from medseg.pipeline.predict_folder import predict_folder
from medseg.review.command import review
from medseg.review.options import ReviewOptions

pytestmark = pytest.mark.slow


def medseg(*words, code=0):
    """Run the program; its standard output."""
    result = CliRunner().invoke(app, [*map(str, words), "--quiet"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def sign(path, **decisions):
    reviews = [{"case_id": k, "decision": v, "note": "", "files": {}} for k, v in decisions.items()]
    path.write_text(json.dumps({"schema": "medseg.review/1", "reviews": reviews}))


def draw(path, value=1):
    """Correct a mask by nibabel: a box more."""
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values[1:4, 1:3, 1:3] = value
    nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), path)
    return values


def test_from_a_run_to_its_fine_tuning(tmp_path):
    pipeline = tiny_volumes.write(tmp_path / "data")
    original = {p: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    done = run_pipeline(pipeline, output=tmp_path / "runs", overrides=["report.cases=all"])
    run = tmp_path / "runs" / "tiny" / done.facts["run"].rpartition("/")[2]
    out = tmp_path / "out"
    medseg("review", run, "--export", out, "--first", 4)
    cases = [entry["case_id"] for entry in json.loads((out / "review-export.json").read_text())["cases"]]
    assert len(cases) == 4
    # One by nibabel, one by SimpleITK in another order of axes, one in 3D Slicer's file, one left alone.
    first = draw(out / cases[0] / "mask.nii.gz")
    image = SimpleITK.ReadImage(str(out / cases[1] / "mask.nii.gz"))
    image[2, 3, 4] = 2 if image[2, 3, 4] != 2 else 1
    turned = SimpleITK.DICOMOrient(SimpleITK.Cast(image, SimpleITK.sitkFloat32), "SAL")
    SimpleITK.WriteImage(turned, str(out / cases[1] / "mask.nii.gz"))
    slicer = SimpleITK.ReadImage(str(out / cases[2] / "mask.seg.nrrd"))
    slicer[5, 5, 5] = 1 if slicer[5, 5, 5] != 1 else 2
    SimpleITK.WriteImage(slicer, str(out / cases[2] / "mask.seg.nrrd"), True)
    sign(out / "review.json", **{cases[0]: "edit", cases[3]: "accept"})
    said = json.loads(medseg("review", run, "--import", out, "--json"))
    assert said["outcomes"] == {"corrected": 3, "accepted": 1}
    rows = {case.case_id: case for case in read_manifest(run / "review" / "manifest-v1.csv")}
    before = {case.case_id: case for case in read_manifest(tmp_path / "data" / "cases.csv")}
    assert set(rows) == set(before), "cases that nobody looked at stay"
    for case_id, row in rows.items():
        assert (row.split, row.patient_id, row.images) == (
            before[case_id].split, before[case_id].patient_id, before[case_id].images,
        )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(nibabel.load(rows[cases[0]].label).dataobj), first)
    assert rows[cases[3]].label == before[cases[3]].label, (
        "an accepted prediction is no better than a reference"
    )
    settings = run / "review" / "fine_tune-v1.yaml"
    again = run_pipeline(settings, output=tmp_path / "tuned", overrides=["training.epochs=1"])
    assert again.exit_code == 0, again.lines
    record = json.loads((again.path.parent / "model" / "bundle.json").read_text())
    assert record["training"]["started_from"]
    assert record["training"]["epochs"] == 1
    # The line that is printed does the same.
    line = next(text for text in said["messages"] if text.startswith("or: medseg train"))
    assert line.count("--set") == 4
    assert {p: p.read_bytes() for p in original} == original


def test_from_predictions_with_dicom_to_their_fine_tuning(tmp_path):
    bundle = write_small_bundle(tmp_path / "bundle")
    for number in range(3):
        write_ct(tmp_path / "in" / f"ct{number}", 10 + number)
    write_cohort(tmp_path / "in", 2)
    formats = "nifti,dicom-seg"
    done = predict_folder(
        [tmp_path / "in"],
        model=str(bundle.folder),
        output=tmp_path / "out",
        formats=formats,
        accept_unlike=True,
    )
    assert done.exit_code == 0, done.lines
    out = tmp_path / "correct"
    medseg("review", tmp_path / "out", "--export", out, "--images", tmp_path / "in")
    entries = {e["case_id"]: e for e in json.loads((out / "review-export.json").read_text())["cases"]}
    assert len(entries) == 5
    # A SEG of the corrected voxels, as a DICOM program would hand it back.
    volume = read_image([tmp_path / "in" / "ct0"])
    case = next(c for c, e in entries.items() if e["image_sha256"] == volume.source.sha256)
    classes = np.zeros(volume.spatial_shape, np.uint8)
    classes[4:9, 5:11, 2:7] = 1
    write_dicom_seg(
        out / entries[case]["folder"] / "segmentation.dcm", classes, volume.grid, bundle.table,
        algorithm_name="hand", algorithm_version="1", weights_sha256="ab" * 32,
    )  # fmt: skip
    assert pydicom.dcmread(out / entries[case]["folder"] / "segmentation.dcm").Modality == "SEG"
    assert "mask.seg.nrrd" in entries[case]["files"]
    others = [c for c in entries if c != case]
    for other in others[:2]:
        draw(out / entries[other]["folder"] / "mask.nii.gz")
    sign(out / "review.json", **{others[2]: "accept", others[3]: "accept"})
    options = ReviewOptions(take_back=out, images=(tmp_path / "in",), model=str(bundle.folder))
    result = review(tmp_path / "out", options)
    assert result.exit_code == 0, result.lines
    assert result.facts["outcomes"] == {"accepted": 2, "corrected": 3}
    rows = read_manifest(tmp_path / "out" / "review" / "manifest-v1.csv")
    assert len(rows) == 5
    row = next(r for r in rows if r.case_id == case)
    np.testing.assert_array_equal(np.asarray(nibabel.load(row.label).dataobj), classes)
    tuned = run_pipeline(
        tmp_path / "out" / "review" / "fine_tune-v1.yaml",
        output=tmp_path / "tuned",
        overrides=[
            "training.epochs=1",
            "training.samples_per_epoch=4",
            "gate.refuse=false",
            "compute.threads=1",
            "compute.workers=0",
        ],
    )
    assert tuned.exit_code == 0, tuned.lines
