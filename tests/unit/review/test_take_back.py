"""Masks that come back: every format and orientation, bad input, and what stays as it was."""

import gzip
import json

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.orientations import io_orientation, ornt_transform
from reviewed_results import TABLE, oblique, predicted, values_of, write_results

from medseg.data.manifest import Case, read_manifest, write_manifest
from medseg.errors import InputError, StorageError
from medseg.export.slicer import write_slicer_segmentation
from medseg.io.nifti import read_nifti
from medseg.provenance import sha256_file
from medseg.review.command import review
from medseg.review.options import ReviewOptions
from medseg.review.results import read_results
from medseg.review.returned import find_returned


@pytest.fixture
def made(tmp_path):
    """Images, results, and an export of all three cases."""
    images, results = write_results(tmp_path)
    review(results, ReviewOptions(export=tmp_path / "out", images=(images,)))
    return images, results, tmp_path / "out"


def back(made, folder=None, **options):
    return review(made[1], ReviewOptions(take_back=folder or made[2], images=(made[0],), **options))


def edited(number=0):
    """Values of a corrected mask: a corner of the liver gone, a voxel of spleen more."""
    values = TABLE.values[predicted(number)].astype(np.uint8)
    values[2:4, 2:4, 1:3] = 0
    values[0, 0, 0] = 7
    return values


def save(path, values, affine=None):
    nibabel.save(nibabel.Nifti1Image(values, oblique() if affine is None else affine), path)


def sign(folder, **decisions):
    reviews = [{"case_id": k, "decision": v, "note": "", "files": {}} for k, v in decisions.items()]
    (folder / "review.json").write_text(json.dumps({"schema": "medseg.review/1", "reviews": reviews}))


def version(made, number=1):
    home = made[1] / "review"
    return (
        {case.case_id: case for case in read_manifest(home / f"manifest-v{number}.csv")},
        json.loads((home / f"manifest-v{number}.json").read_text()),
    )


def test_a_changed_mask_becomes_the_label_and_the_change_is_counted(made):
    save(made[2] / "c0" / "mask.nii.gz", edited())
    result = back(made)
    assert result.exit_code == 0
    rows, record = version(made)
    assert list(rows) == ["c0"]
    np.testing.assert_array_equal(values_of(rows["c0"].label), edited())
    np.testing.assert_allclose(nibabel.load(rows["c0"].label).affine, oblique(), atol=1e-4)
    assert rows["c0"].columns["reviewed"] == "corrected"
    (case,) = [c for c in record["cases"] if c["outcome"] == "corrected"]
    assert case["change"]["changed_voxels"] == 9
    liver, spleen = (case["change"]["labels"][name] for name in ("liver", "spleen"))
    assert (liver["before"], liver["removed"], liver["added"]) == (100, 8, 0)
    assert liver["dice"] == pytest.approx(2 * 92 / 192)
    assert liver["after_ml"] == pytest.approx(92 * 0.8 * 1.1 * 2.5 / 1000)
    assert (spleen["added"], spleen["removed"]) == (1, 0)
    assert record["parent"] is None
    assert record["manifest"]["sha256"] == sha256_file(made[1] / "review" / "manifest-v1.csv")
    assert any("trained on is not known here" in note for note in record["notes"])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA", "ASL", "IPR"])
def test_any_order_and_direction_of_axes_is_the_same_mask(made, codes):
    image = nibabel.Nifti1Image(edited().astype(np.float64), oblique())
    wanted = nibabel.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), wanted))
    nibabel.save(turned, made[2] / "c0" / "mask.nii.gz")
    assert back(made).exit_code == 0
    np.testing.assert_array_equal(values_of(version(made)[0]["c0"].label), edited())


def test_simpleitk_and_nrrd_and_slicer_come_back(made):
    image = SimpleITK.ReadImage(str(made[2] / "c0" / "mask.nii.gz"))
    changed = SimpleITK.GetImageFromArray(edited().T.astype(np.float32))
    changed.CopyInformation(image)
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(changed, "RAI"), str(made[2] / "c0" / "mask.nii.gz"))
    plain = SimpleITK.GetImageFromArray(edited(1).T)
    plain.CopyInformation(image)
    SimpleITK.WriteImage(plain, str(made[2] / "c1" / "my own.nrrd"))
    like = read_nifti(made[2] / "c2" / "mask.nii.gz")
    classes = TABLE.class_indices(edited(2))
    write_slicer_segmentation(made[2] / "c2" / "mask.seg.nrrd", classes, like, TABLE)
    assert back(made).exit_code == 0
    rows, _ = version(made)
    for number in range(3):
        np.testing.assert_array_equal(values_of(rows[f"c{number}"].label), edited(number))


def test_slicer_crops_to_what_is_drawn_and_numbers_anew(made):
    """Its file covers the structures alone, and values are its own: names and places count."""
    values = edited()
    low, high = np.argwhere(values).min(0), np.argwhere(values).max(0) + 1
    part = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    renumbered = np.zeros_like(part)
    renumbered[part == 7], renumbered[part == 2] = 1, 2
    affine = oblique()
    affine[:3, 3] = (affine @ (*low, 1))[:3]
    path = made[2] / "c0" / "mask.seg.nrrd"
    lps = np.diag([-1, -1, 1, 1]) @ affine
    image = SimpleITK.GetImageFromArray(renumbered.T)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetOrigin(lps[:3, 3])
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    for key, value in {
        "Segment0_Name": "Spleen", "Segment0_LabelValue": "1", "Segment0_Layer": "0",
        "Segment1_Name": "liver", "Segment1_LabelValue": "2", "Segment1_Layer": "0",
    }.items():  # fmt: skip
        image.SetMetaData(key, value)
    SimpleITK.WriteImage(image, str(path), True)
    assert back(made).exit_code == 0
    np.testing.assert_array_equal(values_of(version(made)[0]["c0"].label), values)


def test_sign_offs_decide_masks_that_were_not_changed(made):
    sign(made[2], c0="accept", c1="reject", c2="edit")
    result = back(made)
    rows, record = version(made)
    assert set(rows) == {"c0"}
    np.testing.assert_array_equal(values_of(rows["c0"].label), TABLE.values[predicted(0)])
    assert record["reviewed"] == {"c0": "accepted", "c1": "rejected", "c2": "pending"}
    assert any("1 rejected cases without a label are left out: c1" in line for line in result.lines)
    ranked = (made[1] / "review" / "review.csv").read_text()
    review(made[1], ReviewOptions())
    assert (made[1] / "review" / "review.csv").read_text() != ranked, "what was reviewed is told"


def test_masks_that_nobody_touched_are_no_labels(made):
    result = back(made)
    assert result.exit_code == 0
    assert "no mask was changed or signed off, so no version was written" in result.lines
    assert not list((made[1] / "review").glob("manifest-*"))


def test_versions_build_on_each_other_and_keep_what_was_there(made):
    save(made[2] / "c0" / "mask.nii.gz", edited())
    back(made)
    first = {path: path.read_bytes() for path in (made[1] / "review").rglob("*-v1*/*")}
    first |= {path: path.read_bytes() for path in (made[1] / "review").glob("*-v1.*")}
    save(made[2] / "c1" / "mask.nii.gz", edited(1))
    back(made)
    rows, record = version(made, 2)
    assert set(rows) == {"c0", "c1"}
    assert record["parent"]["version"] == 1
    assert record["parent"]["sha256"] == sha256_file(made[1] / "review" / "manifest-v1.csv")
    assert all(path.read_bytes() == data for path, data in first.items())


def manifest_with(made, tmp_path, **columns):
    """A list of three patients: c0 with a label of its own, c1 of a tested patient, and one without image here."""
    label = tmp_path / "reference.nii.gz"
    save(label, TABLE.values[predicted(0)].astype(np.uint8))
    cases = [
        Case(case_id="first", patient_id="p0", images=(made[0] / "c0.nii.gz",), label=label, scheme="other",
             split="train", sha256=sha256_file(made[0] / "c0.nii.gz"), columns={"site": "A"}),
        Case(case_id="old", patient_id="c1", images=(tmp_path / "old.nii.gz",), split="test", columns={"site": "B"}),
    ]  # fmt: skip
    write_manifest(tmp_path / "training.csv", cases)
    return tmp_path / "training.csv", label


def test_rows_of_the_training_list_keep_patient_split_columns_and_old_label(made, tmp_path):
    path, label = manifest_with(made, tmp_path)
    before = (path.read_bytes(), label.read_bytes())
    for number in range(3):
        save(made[2] / f"c{number}" / "mask.nii.gz", edited(number))
    result = back(made, manifest=path)
    assert result.exit_code == 0
    (tmp_path / "old.nii.gz").write_bytes(b"")
    rows, record = version(made)
    assert set(rows) == {"first", "old", "c1", "c2"}
    first = rows["first"]
    assert (first.patient_id, first.split, first.scheme, first.columns["site"]) == ("p0", "train", None, "A")
    assert first.columns["label_before"] == str(label)
    assert rows["c1"].split == "test", "another image of a tested patient is tested, too"
    assert rows["c2"].split == "train"
    assert any("began as the model's own masks" in note for note in record["notes"])
    assert record["origin"]["sha256"] == sha256_file(path)
    case = next(c for c in record["cases"] if c["case_id"] == "c0")
    assert case["label_before"] == {"file": str(label), "sha256": sha256_file(label)}
    assert (path.read_bytes(), label.read_bytes()) == before
    zero = read_manifest(made[1] / "review" / "manifest-v0.csv", check_files=False)
    assert [case.case_id for case in zero] == ["first", "old"]


def test_an_accepted_case_keeps_the_label_that_it_has(made, tmp_path):
    path, label = manifest_with(made, tmp_path)
    (tmp_path / "old.nii.gz").write_bytes(b"")
    sign(made[2], c0="accept")
    back(made, manifest=path)
    assert version(made)[0]["first"].label == label


# What comes back broken, what is said, and that the rest is taken.
def other_grid(home):
    affine = oblique()
    affine[:3, 3] += 3
    save(home / "mask.nii.gz", edited(), affine)


def unknown_label(home):
    values = edited()
    values[1, 1, 1] = 9
    save(home / "mask.nii.gz", values)


def fractions(home):
    save(home / "mask.nii.gz", edited() + np.float32(0.25))


def text(home):
    (home / "mask.nii.gz").write_text("not a mask")


def truncated(home):
    data = gzip.decompress((home / "mask.nii.gz").read_bytes())
    (home / "mask.nii.gz").write_bytes(gzip.compress(data[:-50]))


def two(home):
    save(home / "mask.nii.gz", edited())
    save(home / "better.nii.gz", edited())


def unknown_segment(home):
    like = read_nifti(home / "mask.nii.gz")
    table = type(TABLE)(labels=(TABLE.labels[0],))
    path = home / "mask.seg.nrrd"
    write_slicer_segmentation(path, (predicted(0) == 1).astype(np.uint8), like, table)
    data = path.read_bytes().replace(b"Segment0_Name:=liver", b"Segment0_Name:=tumor")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (other_grid, "it was moved|its origin was lost or shifted|do not share a grid"),
        (unknown_label, r"mask values \[9\] are not named by the label table"),
        (fractions, "a mask holds whole numbers, found fractions"),
        (text, "expected DICOM, NIfTI .* found text"),
        (truncated, "truncated"),
        (two, r"2 masks were changed \(better.nii.gz, mask.nii.gz\); keep the one that is right"),
        (unknown_segment, "the structures tumor, which the labels do not name; known: liver, spleen"),
    ],
)
def test_a_bad_mask_is_told_in_a_sentence_and_takes_no_other_along(made, spoil, match):
    spoil(made[2] / "c0")
    save(made[2] / "c1" / "mask.nii.gz", edited(1))
    kept = {path: path.read_bytes() for path in made[2].rglob("*") if path.is_file()}
    result = back(made)
    assert result.exit_code == 1
    (problem,) = result.facts["problems"].items()
    assert problem[0] == "c0"
    assert __import__("re").search(match, problem[1]), problem[1]
    assert "\n" not in problem[1]
    assert set(version(made)[0]) == {"c1"}
    assert all(path.read_bytes() == data for path, data in kept.items())


def test_where_nothing_can_be_taken_nothing_is_written(made):
    text(made[2] / "c0")
    (made[2] / "c1" / "mask.nii.gz").write_bytes(b"")
    text(made[2] / "c2")
    result = back(made)
    assert result.exit_code == 3
    assert sorted(path.name for path in (made[1] / "review").iterdir()) == [".lock", "review.csv"]


def test_contradictions_between_mask_and_sign_off_are_refused(made):
    save(made[2] / "c0" / "mask.nii.gz", edited())
    sign(made[2], c0="accept", c9="edit")
    problems = back(made).facts["problems"]
    assert "says accept, but mask.nii.gz came back with 9 changed voxels" in problems["c0"]
    assert "has no such case" in problems["c9"]


def test_a_sign_off_of_another_mask_does_not_count(made):
    reviews = [{"case_id": "c0", "decision": "accept", "files": {"segmentation.nii.gz": "00"}}]
    path = made[2] / "review.json"
    path.write_text(json.dumps({"schema": "medseg.review/1", "reviews": reviews}))
    assert "signs off another mask" in back(made).facts["problems"]["c0"]
    # Without a digest the run's name tells; a page of another run may have cases of the same ids.
    reviews = [{"case_id": "c0", "decision": "accept", "reader": "AB", "files": {}}]
    value = {"schema": "medseg.review/1", "run": "20260101-another", "reviews": reviews}
    path.write_text(json.dumps(value))
    assert "signs off another mask" in back(made).facts["problems"]["c0"]
    path.write_text(json.dumps(value | {"run": made[1].name}))
    assert back(made).facts["problems"] == {}
    (case,) = [c for c in version(made)[1]["cases"] if c["outcome"] == "accepted"]
    assert case["reader"] == "AB"


def test_a_crash_while_writing_leaves_no_half_version(made, monkeypatch):
    save(made[2] / "c0" / "mask.nii.gz", edited())

    def full(*_, **__):
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("medseg.review.take_back.write_version", full)
        with pytest.raises(StorageError, match="no space"):
            back(made)
    assert back(made).exit_code == 0
    home = made[1] / "review"
    assert not list(home.glob(".*part*"))
    # The number that was begun is passed over, not filled up.
    assert sorted(p.name for p in home.glob("manifest-*.csv")) == ["manifest-v2.csv"]


def test_masks_in_a_folder_of_ones_own_go_by_their_names(made, tmp_path):
    folder = tmp_path / "mine"
    (folder / "c1").mkdir(parents=True)
    save(folder / "C0_seg.nii.gz", edited())
    save(folder / "c1" / "segmentation.nii.gz", edited(1))
    save(folder / "stranger.nii.gz", edited())
    (folder / "notes.txt").write_text("what I did")
    result = back(made, folder)
    assert result.exit_code == 1
    assert list(result.facts["problems"]) == ["stranger.nii.gz"]
    assert set(version(made)[0]) == {"c0", "c1"}
    save(folder / "c0.nii", edited())
    found = find_returned(folder, read_results(made[1]))
    assert "2 files may be meant (C0_seg.nii.gz, c0.nii)" in found.problems["c0"]
    assert set(found.masks) == {"c1"}


def test_a_mask_that_was_edited_where_it_lies_is_no_prediction(made, tmp_path):
    own = made[1] / "c0" / "segmentation.nii.gz"
    save(own, edited())
    result = back(made, made[1])
    assert "was changed where it lies; move your mask" in result.facts["problems"]["c0"]
    np.testing.assert_array_equal(values_of(own), edited())
    again = review(made[1], ReviewOptions(export=tmp_path / "new", images=(made[0],)))
    assert set(again.facts["failed"]) == {"c0"}


def test_every_case_rejected_leaves_nothing_to_train_on(made):
    sign(made[2], c0="reject", c1="reject", c2="reject")
    with pytest.raises(InputError, match="nothing to train on"):
        back(made)
    assert not list((made[1] / "review").glob("manifest-*"))
