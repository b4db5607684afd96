"""`medseg predict` on a folder that was predicted before: what is kept, what is done again, what never counts."""

from __future__ import annotations

import json
import shutil

import pytest
import small_cohorts as small

from medseg.errors import Interrupted, StorageError
from medseg.io.checksum import image_sha256
from medseg.io.discover import discover
from medseg.io.read import read_image
from medseg.models.bundle_writer import update_bundle
from medseg.pipeline import cohort_case
from medseg.pipeline.predict_folder import predict_folder

FORMATS = "nifti"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small.write_small_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def cohort(tmp_path):
    return small.write_cohort(tmp_path / "in", 3)


@pytest.fixture
def segmented(monkeypatch):
    """Case ids that were shown to the network, in order."""
    shown = []
    plain = cohort_case.CaseWork.segment

    def segment(self, read):
        shown.append(read.case.case_id)
        return plain(self, read)

    monkeypatch.setattr(cohort_case.CaseWork, "segment", segment)
    return shown


def predict(cohort, bundle, **arguments):
    return predict_folder(
        [cohort],
        model=str(bundle.folder),
        output=cohort.parent / "out",
        **({"formats": FORMATS, "accept_unlike": True} | arguments),
    )


def test_finished_cases_are_kept_and_the_tables_are_the_same(cohort, bundle, segmented):
    first = predict(cohort, bundle)
    out = cohort.parent / "out"
    table, masks = (out / "measurements.csv").read_text(), small.digests(out)
    assert segmented == ["v00", "v01", "v02"]
    again = predict(cohort, bundle)
    assert segmented == ["v00", "v01", "v02"], "nothing is done again"
    assert again.facts["cases"] == first.facts["cases"]
    assert (out / "measurements.csv").read_text() == table
    assert small.digests(out) == masks
    assert small.leftovers(out) == []


def test_a_changed_file_is_done_again_and_no_other(cohort, bundle, segmented):
    predict(cohort, bundle)
    small.write_nifti(cohort / "v01.nii", small.small_image(9))
    predict(cohort, bundle)
    assert segmented[3:] == ["v01"]


@pytest.mark.parametrize("change", ["formats", "accept_unlike", "overwrite"])
def test_other_settings_do_all_again(cohort, bundle, segmented, change):
    predict(cohort, bundle)
    values = {"formats": "nifti,dicom-seg", "accept_unlike": False, "overwrite": True}
    predict(cohort, bundle, **{change: values[change]})
    assert len(segmented) == 6


def test_another_bundle_or_another_clean_up_does_all_again(cohort, bundle, segmented, tmp_path):
    changed = small.write_small_bundle(tmp_path / "bundle", seed=1)
    predict(cohort, changed)
    predict(cohort, bundle)
    changed = small.write_small_bundle(tmp_path / "bundle")
    predict(cohort, changed)
    assert len(segmented) == 6, "the same weights and settings are the same bundle, wherever it lies"
    update_bundle(changed, postprocess=[{"use": "keep_largest"}])
    predict(cohort, changed)
    assert len(segmented) == 9


@pytest.mark.parametrize("damage", ["mask gone", "record cut", "record gone", "record of another kind"])
def test_half_a_result_does_not_count(cohort, bundle, segmented, damage):
    predict(cohort, bundle)
    case = cohort.parent / "out" / "v02"
    record = case / "measurements.json"
    if damage == "mask gone":
        (case / "segmentation.nii.gz").unlink()
    elif damage == "record cut":
        record.write_text(record.read_text()[:-20])
    elif damage == "record gone":
        record.unlink()
    else:
        record.write_text("[]")
    predict(cohort, bundle)
    assert segmented[3:] == ["v02"]
    assert json.loads(record.read_text())["case_id"] == "v02"


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_ctrl_c_says_how_far_it_came_and_the_same_command_goes_on(cohort, bundle, monkeypatch, stop):
    plain, shown = cohort_case.CaseWork.segment, []

    def segment(self, read):
        shown.append(read.case.case_id)
        if len(shown) == stop + 1:
            raise KeyboardInterrupt
        return plain(self, read)

    monkeypatch.setattr(cohort_case.CaseWork, "segment", segment)
    with pytest.raises(Interrupted, match=r"stopped after \d of 3 images; the same command goes on"):
        predict(cohort, bundle)
    done = small.digests(cohort.parent / "out")
    assert predict(cohort, bundle).exit_code == 0
    assert len(shown) == 3 + 1 + stop - len(done)
    assert small.listed(cohort.parent / "out") == ["v00", "v01", "v02"]
    assert small.leftovers(cohort.parent / "out") == []


def test_a_full_disk_ends_the_run_and_leaves_what_is_finished(cohort, bundle, monkeypatch):
    plain, calls = cohort_case.case_files.write_result, []

    def write(folder, **arguments):
        calls.append(folder)
        if len(calls) == 2:
            raise StorageError("cannot write mask: No space left on device")
        return plain(folder, **arguments)

    monkeypatch.setattr(cohort_case.case_files, "write_result", write)
    with pytest.raises(StorageError, match="No space left"):
        predict(cohort, bundle)
    out = cohort.parent / "out"
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["v00"]
    assert predict(cohort, bundle).exit_code == 0
    assert small.listed(out) == ["v00", "v01", "v02"]


def test_results_and_table_do_not_depend_on_how_the_cases_were_done(cohort, bundle):
    (cohort / "v01.nii").write_bytes((cohort / "v01.nii").read_bytes()[:900])
    out, found = cohort.parent / "out", []
    for arguments in ({}, {"max_ram": "16GB"}):
        shutil.rmtree(out, ignore_errors=True)
        result = predict(cohort, bundle, **arguments)
        found.append((small.digests(out), result.facts["cases"], (out / "measurements.csv").read_text()))
    assert found[0] == found[1]
    assert [case["case_id"] for case in found[0][1]] == ["v00", "v01", "v02"]
    assert "truncated" in found[0][1][1]["error"]


def test_checksums_are_those_of_reading(tmp_path):
    small.write_nifti(tmp_path / "one" / "a.nii.gz", small.small_image(1))
    small.write_nifti(tmp_path / "pair" / "b.img", small.small_image(2))
    small.write_ct(tmp_path / "ct", 3)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "c.raw").write_bytes(small.small_image(4).tobytes("F"))
    (tmp_path / "raw" / "c.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 20 18 12\nElementType = MET_SHORT\n"
        "ElementSpacing = 1 1.2 2\nElementByteOrderMSB = False\nElementDataFile = c.raw\n"
    )
    for folder in ("one", "pair", "ct", "raw"):
        (found,) = discover([tmp_path / folder]).images
        assert image_sha256(found.paths) == read_image(found.paths).source.sha256, folder
    before = image_sha256([tmp_path / "raw" / "c.mhd"])
    (tmp_path / "raw" / "c.raw").write_bytes(small.small_image(5).tobytes("F"))
    assert image_sha256([tmp_path / "raw" / "c.mhd"]) != before, "voxels beside the header count"
