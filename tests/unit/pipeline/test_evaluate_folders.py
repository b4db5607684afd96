"""medseg evaluate on folders of masks from any program, and two evaluations against each other."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.data.dicom_phantoms import asymmetric_phantom, write_series
from medseg.errors import ConfigError, InputError, StorageError
from medseg.pipeline.compare_runs import compare_runs
from medseg.pipeline.convert import ConvertOptions, convert
from medseg.pipeline.evaluate_folders import FolderOptions, evaluate_folders, evaluation_options

TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([0.8, 1.1, 2.5])
AFFINE[:3, 3] = (-12.0, 31.0, 100.0)
LABELS = """labels:
  liver: {value: 1, code: {scheme: SCT, value: "10200004", meaning: Liver}}
  spleen: {value: 2, code: {scheme: SCT, value: "78961009", meaning: Spleen}}
"""
QUICK = FolderOptions(metrics="dice,hd95", samples=100)


def mask(shift=0, spleen=True):
    values = np.zeros((13, 11, 10), dtype=np.uint8)
    values[2 + shift : 7 + shift, 2:9, 2:8] = 1
    if spleen:
        values[9:12, 3:6, 3:7] = 2
    return values


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)


@pytest.fixture
def folders(tmp_path):
    for name, shift in (("a", 0), ("b", 1), ("c", 2)):
        save(tmp_path / "r" / f"{name}.nii.gz", mask())
        save(tmp_path / "p" / f"{name}.nii.gz", mask(shift))
    (tmp_path / "labels.yaml").write_text(LABELS)
    return tmp_path


def run(home, options=QUICK, output="out"):
    return evaluate_folders(home / "p", home / "r", home / output, options)


def rows(home, output="out"):
    with (home / output / "cases.csv").open(newline="") as stream:
        return {(row["case_id"], row["structure"]): row for row in csv.DictReader(stream)}


def test_tables_and_record_of_two_folders(folders):
    options = FolderOptions(metrics="dice,nsd=1,hd95", labels=folders / "labels.yaml", samples=100)
    result = run(folders, options)
    assert (result.exit_code, result.path) == (0, folders / "out")
    found = rows(folders)
    assert float(found["a", "liver"]["dice"]) == 1.0
    assert float(found["b", "liver"]["dice"]) == pytest.approx(0.8)
    assert float(found["c", "liver"]["hd95"]) == pytest.approx(1.6)
    assert float(found["c", "liver"]["reference_size"]) == pytest.approx(210 * 0.8 * 1.1 * 2.5 / 1000)
    summary = json.loads((folders / "out" / "summary.json").read_text())
    assert summary["structures"]["liver"]["dice"]["count"] == 3
    assert summary["definitions"]["nsd"]["title"] == "NSD at 1 mm"
    record = json.loads((folders / "out" / "evaluation.json").read_text())
    assert [case["same_file"] for case in record["cases"]] == [True, False, False]
    assert "1 predictions that are their reference, byte for byte: a" in result.lines
    assert record["patients_known"] is False


def test_the_page_shows_agreement_and_what_masks_alone_tell(folders):
    save(folders / "p" / "b.nii.gz", mask(1, spleen=False))
    odd = mask(2)
    odd[0, 0, 0] = odd[12, 10, 9] = 1
    save(folders / "p" / "c.nii.gz", odd)
    save(folders / "p" / "d.nii.gz", mask(), np.diag([1.0, 1.0, 1.0, 1.0]))
    save(folders / "r" / "d.nii.gz", mask())
    options = replace(QUICK, labels=folders / "labels.yaml", page="zh")
    run(folders, options)
    page = (folders / "out" / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    found = {case["case_id"]: case for case in data["cases"]}
    codes = {name: {flag["code"] for flag in case["measurements"]["flags"]} for name, case in found.items()}
    assert codes["a"] == set()
    assert codes["b"] == {"Q501"}
    # Of the image and the network nothing is said, not even that it was not judged.
    assert {check["code"] for check in found["a"]["measurements"]["checks"]}.isdisjoint(
        {"Q102", "Q401", "Q402", "Q403"}
    )
    assert codes["c"] >= {"Q101"}
    assert "此处没有图像" in page
    assert "脾脏" in page
    assert "<td>d<td>evaluate<td>" in page
    run(folders, QUICK, "without")
    assert not (folders / "without" / "report.html").exists()


def test_patients_of_the_list_are_counted(folders):
    (folders / "cases.csv").write_text("case_id,patient_id\na,p1\nb,p1\nc,p2\n")
    options = FolderOptions(metrics="dice", samples=100, cases=folders / "cases.csv")
    assert run(folders, options).lines[-1] == "3 of 3 cases compared, 2 patients"
    (folders / "cases.csv").write_text("case_id,patient_id\na,p1\nb,\nc,p2\n")
    assert "3 patients, each case without" in run(folders, options).lines[-1]
    assert json.loads((folders / "out" / "evaluation.json").read_text())["patients_known"] is False


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_the_same_voxels_in_another_order_are_taken_exactly(folders, axes):
    turned = nib.load(folders / "r" / "b.nii.gz")
    values = np.transpose(np.asarray(turned.dataobj), axes)[::-1]
    permutation = np.zeros((4, 4))
    permutation[3, 3] = 1
    for new, old in enumerate(axes):
        permutation[old, new] = 1
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = values.shape[0] - 1
    save(folders / "p" / "b.nii.gz", values, turned.affine @ permutation @ flip)
    run(folders)
    assert float(rows(folders)["b", "label_1"]["dice"]) == 1.0


def test_another_grid_is_refused_with_both_and_the_others_go_on(folders):
    moved = AFFINE.copy()
    moved[:3, 3] += 0.4
    save(folders / "p" / "b.nii.gz", mask(), moved)
    result = run(folders)
    assert result.exit_code == 1
    told = next(line for line in result.lines if line.startswith("not compared: b"))
    assert "r/b.nii.gz" in told
    assert "do not share a grid" in told
    assert result.lines[-1] == (
        "2 of 3 cases compared, 2 patients, each case without a patient_id counted as one"
    )
    for path in (folders / "p").iterdir():
        save(path, mask(), moved)
    with pytest.raises(InputError, match="none of the 3 cases can be compared"):
        run(folders)


def test_a_missing_prediction_is_never_dropped(folders):
    (folders / "p" / "c.nii.gz").unlink()
    result = run(folders)
    assert result.exit_code == 1
    assert "not compared: c: c: there is no prediction" in " ".join(result.lines)
    empty = run(folders, FolderOptions(metrics="dice,hd95", samples=100, missing="empty"))
    assert empty.exit_code == 0
    assert "missed: label_1 of c" in empty.lines
    assert rows(folders)["c", "label_2"]["dice"] == "0.0"


def test_a_structure_that_only_some_cases_have_is_both_empty_in_the_others(folders):
    save(folders / "r" / "a.nii.gz", mask(spleen=False))
    save(folders / "p" / "a.nii.gz", mask(spleen=False))
    run(folders)
    found = rows(folders)["a", "label_2"]
    assert (found["state"], found["dice"], found["tn"]) == ("both_empty", "", str(13 * 11 * 10))


def test_other_formats_and_dicom_objects_are_matched_by_name(tmp_path):
    values, _ = asymmetric_phantom((13, 11, 10))
    write_series(tmp_path / "ct", values, AFFINE)
    convert(tmp_path / "ct", tmp_path / "ct.nii.gz", ConvertOptions())
    affine = nib.load(tmp_path / "ct.nii.gz").affine
    (tmp_path / "labels.yaml").write_text(LABELS)
    truth, found = mask(), mask(1)
    for name in "abc":
        save(tmp_path / "r" / f"{name}.nii.gz", truth, affine)
    save(tmp_path / "work.nii.gz", found, affine)
    made = ConvertOptions(reference=tmp_path / "ct", labels=tmp_path / "labels.yaml")
    (tmp_path / "p").mkdir()
    convert(tmp_path / "work.nii.gz", tmp_path / "p" / "a.dcm", made)
    convert(
        tmp_path / "work.nii.gz", tmp_path / "p" / "b.dcm",
        ConvertOptions(reference=tmp_path / "ct", labels=tmp_path / "labels.yaml", to="rtstruct"),
    )  # fmt: skip
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "work.nii.gz")), str(tmp_path / "p" / "c.mha"))
    options = FolderOptions(metrics="dice", samples=100, labels=tmp_path / "labels.yaml")
    assert run(tmp_path, options).exit_code == 0
    dice = {key: float(row["dice"]) for key, row in rows(tmp_path).items()}
    assert dice["a", "liver"] == dice["c", "liver"] == pytest.approx(0.8)
    assert dice["b", "liver"] == pytest.approx(0.8, abs=0.02)
    assert dice["a", "spleen"] == 1.0
    # A SEG as the reference ends with its frames; voxels beyond them are background.
    (tmp_path / "segs").mkdir()
    (tmp_path / "p" / "a.dcm").rename(tmp_path / "segs" / "a.dcm")
    wide = truth.copy()
    wide[0, 0, 0] = 1
    save(tmp_path / "q" / "a.nii.gz", wide, affine)
    evaluate_folders(tmp_path / "q", tmp_path / "segs", tmp_path / "seg-out", options)
    assert rows(tmp_path, "seg-out")["a", "liver"]["fp"] == str(42 + 1)


def test_subgroups_by_a_column_of_the_list_of_cases(folders):
    (folders / "cases.csv").write_text("case_id,patient_id,site\na,p1,north\nb,p1,south\nc,p2,south\n")
    options = FolderOptions(metrics="dice", samples=100, cases=folders / "cases.csv", by=("site",))
    run(folders, options)
    summary = json.loads((folders / "out" / "summary.json").read_text())
    assert summary["patients"] == 2
    assert summary["groups"]["site"]["south"]["label_1"]["dice"]["count"] == 2
    assert {gap["finding"] for gap in summary["gaps"]} == {"too few patients"}
    with pytest.raises(ConfigError, match=r"--by age: the list of cases .* has no such column; it has site"):
        run(folders, FolderOptions(metrics="dice", cases=folders / "cases.csv", by=("age",)))


def test_one_structure_written_in_two_ways_is_refused(folders):
    for path in (folders / "p").iterdir():
        save(path, (mask(spleen=False) * 255).astype(np.uint8))
    for path in (folders / "r").iterdir():
        save(path, mask(spleen=False))
    with pytest.raises(InputError, match="the prediction has the value 255 and the reference 1"):
        run(folders)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("nsd", "expected nsd=MM, the tolerance in mm"),
        ("dice=2", "expected dice alone"),
        ("nsd=x", "expected a number of mm"),
        ("dise", "known: dice, iou"),
    ],
)
def test_metrics_that_are_refused(metrics, words):
    with pytest.raises(ConfigError, match=words):
        evaluation_options(FolderOptions(metrics=metrics))


def test_two_evaluations_are_compared_case_by_case(folders):
    run(folders, output="one")
    for name in "abc":
        save(folders / "p" / f"{name}.nii.gz", mask())
    (folders / "p" / "c.nii.gz").unlink()
    run(folders, output="two")
    result = compare_runs(folders / "one", folders / "two", folders / "cmp")
    found = json.loads((folders / "cmp" / "comparison.json").read_text())
    dice = next(d for d in found["differences"] if (d["structure"], d["metric"]) == ("label_1", "dice"))
    assert (dice["count"], found["only_first"]) == (2, ["c"])
    assert dice["mean_difference"] == pytest.approx(0.1)
    assert "2 cases of 2 patients compared" in result.lines[-1]
    assert (folders / "cmp" / "comparison.csv").read_text().startswith("structure,metric,unit,count")


def test_runs_with_other_tolerances_or_without_evaluation_are_refused(folders):
    run(folders, FolderOptions(metrics="nsd=1", samples=100), output="one")
    run(folders, FolderOptions(metrics="nsd=2", samples=100), output="two")
    with pytest.raises(ConfigError, match="nsd was computed in two ways"):
        compare_runs(folders / "one", folders / "two", None)
    with pytest.raises(StorageError, match="no evaluation in it"):
        compare_runs(folders / "one", folders / "p", None)
