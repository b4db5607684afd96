"""Masks of two folders find each other by name or by a CSV, or are told to be alone."""

from __future__ import annotations

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medseg.errors import ManifestError, StorageError
from medseg.pipeline.mask_pairs import pair_masks


def folder(home, *names):
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"x")
    return home


def named(pairing):
    return {c.case_id: None if c.prediction is None else c.prediction.name for c in pairing.cases}


def test_by_name_whatever_the_ending_and_the_word_at_the_end(tmp_path):
    ours = folder(tmp_path / "p", "a_seg.nii.gz", "B.nrrd", "c.mha", "extra.nii")
    theirs = folder(tmp_path / "r", "a.nii.gz", "b_mask.nii", "c_gt.nii.gz", "d.nii.gz", "notes.txt")
    found = pair_masks(ours, theirs)
    assert named(found) == {"a": "a_seg.nii.gz", "b_mask": "B.nrrd", "c_gt": "c.mha", "d": None}
    assert [path.name for path in found.lone_predictions] == ["extra.nii"]


def test_folders_of_medseg_predict_go_by_their_own_name(tmp_path):
    ours = folder(tmp_path / "p", "a/segmentation.nii.gz", "a/segmentation.dcm", "b/segmentation.dcm")
    folder(ours, "a/overlay.png", "a/entropy.nii.gz", "a/measurements.json", "b/measurements.json")
    found = pair_masks(ours, folder(tmp_path / "r", "a.nii.gz", "b.nii.gz"))
    assert named(found) == {"a": "segmentation.nii.gz", "b": "segmentation.dcm"}
    assert found.lone_predictions == ()


def test_folders_of_a_run_go_by_the_name_of_the_case(tmp_path):
    ours = folder(tmp_path / "run", "report.html")
    for name in ("cases/a", "cases/b", "old/b"):
        folder(ours, f"{name}/segmentation.nii.gz", f"{name}/measurements.json")
    found = pair_masks(ours, folder(tmp_path / "r", "a.nii.gz", "b.nii.gz", "old/b.nii.gz"))
    assert named(found) == {"a": "segmentation.nii.gz", "b": None, "old_b": "segmentation.nii.gz"}
    assert [path.parent.name for path in found.lone_predictions] == ["b"]


def drawn_on(path, series, *, structures=False):
    """Header of a SEG, or of an RTSTRUCT, that names one series."""
    path.parent.mkdir(parents=True, exist_ok=True)
    item, header = Dataset(), Dataset()
    item.SeriesInstanceUID = series
    header.ReferencedSeriesSequence = [item]
    if structures:
        study, frame, header = Dataset(), Dataset(), Dataset()
        study.RTReferencedSeriesSequence = [item]
        frame.RTReferencedStudySequence = [study]
        header.ReferencedFrameOfReferenceSequence = [frame]
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID, header.file_meta.MediaStorageSOPInstanceUID = "1.2", "1.2.3"
    header.save_as(path, enforce_file_format=True)


def test_masks_of_one_series_belong_together_whatever_their_names(tmp_path):
    ours, theirs = tmp_path / "p", tmp_path / "r"
    for name, series in (("case-1f", "1.2.10"), ("case-2e", "1.2.20"), ("case-3d", "1.2.30")):
        folder(ours, f"{name}/segmentation.nii.gz", f"{name}/measurements.json")
        drawn_on(ours / name / "segmentation.dcm", series)
    drawn_on(theirs / "anna" / "SEG", "1.2.20")
    drawn_on(theirs / "bo" / "rt.dcm", "1.2.10", structures=True)
    # Two readers of one series: nobody can say which of them is meant.
    drawn_on(theirs / "cy1" / "x.dcm", "1.2.30")
    drawn_on(theirs / "cy2" / "x.dcm", "1.2.30")
    found = {c.case_id: c.prediction and c.prediction.parent.name for c in pair_masks(ours, theirs).cases}
    assert found == {"anna": "case-2e", "bo_rt": "case-1f", "cy1_x": None, "cy2_x": None}


def test_names_that_cannot_be_told_apart_are_refused(tmp_path):
    ours = folder(tmp_path / "p", "a.nii.gz", "a_seg.nii.gz")
    with pytest.raises(ManifestError, match=r"a, a_seg and a_gt cannot be told apart"):
        pair_masks(ours, folder(tmp_path / "r", "a_gt.nii.gz"))
    with pytest.raises(ManifestError, match="no mask in it"):
        pair_masks(ours, folder(tmp_path / "e", "readme.txt"))
    with pytest.raises(StorageError, match="does not exist"):
        pair_masks(tmp_path / "nowhere", ours)


def test_more_words_and_single_files(tmp_path):
    ours = folder(tmp_path / "p", "a_netA.nii.gz")
    theirs = folder(tmp_path / "r", "a.nii.gz")
    assert named(pair_masks(ours, theirs)) == {"a": None}
    assert named(pair_masks(ours, theirs, strip=["netA"])) == {"a": "a_netA.nii.gz"}
    single = pair_masks(ours / "a_netA.nii.gz", theirs / "a.nii.gz")
    assert named(single) == {"a": "a_netA.nii.gz"}


def test_a_csv_pairs_by_path_or_by_case_and_keeps_its_columns(tmp_path):
    ours = folder(tmp_path / "p", "x1.nii.gz", "b.nii.gz", "z.nii.gz")
    theirs = folder(tmp_path / "r", "a.nii.gz", "sub/b.nii.gz")
    cases = tmp_path / "cases.csv"
    cases.write_text(
        "case_id,patient_id,prediction,reference,site\na,p1,x1.nii.gz,,north\nb,,,sub/b.nii.gz,south\n"
    )
    found = pair_masks(ours, theirs, cases=cases)
    assert named(found) == {"a": "x1.nii.gz", "b": "b.nii.gz"}
    assert [(c.patient_id, c.columns) for c in found.cases] == [
        ("p1", {"site": "north"}),
        ("b", {"site": "south"}),
    ]
    assert [path.name for path in found.lone_predictions] == ["z.nii.gz"]


def test_all_problems_of_a_csv_at_once(tmp_path):
    ours, theirs = folder(tmp_path / "p", "a.nii.gz"), folder(tmp_path / "r", "a.nii.gz")
    cases = tmp_path / "cases.csv"
    cases.write_text("case_id,prediction\na,\na,\nq,\na2,gone.nii.gz\n")
    with pytest.raises(ManifestError) as caught:
        pair_masks(ours, theirs, cases=cases)
    text = str(caught.value)
    assert "line 3: a is there twice" in text
    assert "line 4: no reference named like q" in text
    assert "gone.nii.gz does not exist" in text
    cases.write_text("name\na\n")
    with pytest.raises(ManifestError, match="expected a column case_id, found name"):
        pair_masks(ours, theirs, cases=cases)
