"""Measurement reports, read back with highdicom and pydicom."""

from __future__ import annotations

from datetime import datetime

import dicom_results as made_up
import highdicom as hd
import pydicom
import pytest

from medseg.errors import ImageReadError, InputError
from medseg.export.dicom_sr import MeasuredValue, write_measurement_sr

SHAPE = (23, 19, 6)
NUMBERS = {
    "kidney_right": [
        MeasuredValue(measure="volume", value=151.23456789, unit="ml"),
        MeasuredValue(measure="long_axis", value=112.5, unit="mm"),
        MeasuredValue(measure="mean_intensity", value=31.25, unit="HU"),
        MeasuredValue(measure="sd_intensity", value=12.5, unit="HU"),
        MeasuredValue(measure="holes", value=3, unit="voxels"),
    ],
    "liver": [MeasuredValue(measure="volume", value=1500.0, unit="ml", cut_off=True)],
    "kidneys": [MeasuredValue(measure="volume", value=300.0, unit="ml")],
}


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    made = made_up.write_series(folder / "source", shape=SHAPE)
    made_up.write_seg(made, folder / "seg.dcm")
    return made, folder / "seg.dcm"


def write(ct, path, *, measures=NUMBERS, **options):
    made, seg = ct
    return write_measurement_sr(
        path, seg_path=seg, grid=made.volume.grid, table=made_up.TABLE, measures=measures, **options
    )


def test_numbers_codes_and_references(ct, tmp_path):
    written = write(ct, tmp_path / "sr.dcm")
    report = hd.sr.srread(tmp_path / "sr.dcm")
    assert isinstance(report, hd.sr.Comprehensive3DSR)
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["kidney_right", "liver"]
    assert [str(g.tracking_uid) for g in groups] == ["2.25.7001", "2.25.7003"]
    kidney = groups[0]
    assert (kidney.finding_type.value, kidney.finding_type.meaning) == ("64033007", "Kidney")
    assert "SegmentedPropertyTypeModifierCodeSequence" not in kidney.finding_type
    assert kidney.finding_sites[0].laterality.value == "24028007"
    assert groups[1].finding_sites[0].laterality is None
    assert kidney.referenced_segment.referenced_sop_instance_uid == "2.25.51"
    assert list(kidney.referenced_segment.referenced_segment_numbers) == [1]
    assert list(groups[1].referenced_segment.referenced_segment_numbers) == [3]
    found = [
        (m.name.value, m.value, m.unit.value, m.derivation.value if m.derivation else None, m.method)
        for m in kidney.get_measurements()
    ]
    assert [f[:4] for f in found] == [
        ("118565006", 151.235, "cm3", None),
        ("103339001", 112.5, "mm", None),
        ("112031", 31.25, "[hnsf'U]", "373098007"),
        ("112031", 12.5, "[hnsf'U]", "386136009"),
    ]
    assert [f[4].value if f[4] else None for f in found] == ["126030", "L0JK", None, None]
    assert written.notes == ("Without a code for it, and so not in the measurement report: holes.",)


def test_patient_study_evidence_and_dates(ct, tmp_path):
    written = write(ct, tmp_path / "sr.dcm")
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    assert (report.SOPInstanceUID, report.SeriesInstanceUID) == (
        written.sop_instance_uid,
        written.series_instance_uid,
    )
    assert (report.PatientName, report.PatientID) == ("Ph\xe4ntom^Eins", "PH-1")
    assert (report.StudyInstanceUID, report.AccessionNumber, report.StudyID) == ("2.25.30", "A1", "S1")
    assert (report.Modality, report.SeriesNumber) == ("SR", 911)
    assert report.SeriesDescription == "medseg abdomen 1.2 [SR]"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.ContentQualification == "RESEARCH"
    assert (report.ContentDate, report.ContentTime) == ("20240301", "080000")
    evidence = {
        instance.ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert evidence == {"2.25.51": "2.25.50", **{f"2.25.{1000 + k}": "2.25.20" for k in range(SHAPE[2])}}
    assert "Image Library" not in {
        item.ConceptNameCodeSequence[0].CodeMeaning for item in report.ContentSequence
    } or not any(
        item.get("ContentSequence")
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Image Library"
    )


def test_a_cut_off_structure_says_so(ct, tmp_path):
    write(ct, tmp_path / "sr.dcm")
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert groups[0].get_qualitative_evaluations() == []
    (finding,) = groups[1].get_qualitative_evaluations()
    assert (finding.name.value, finding.value.value) == ("111052", "130576")
    comments = [i.TextValue for i in groups[1][0].ContentSequence if i.name.value == "121106"]
    assert comments == ["The edge of the image cuts the structure off: sizes are lower bounds."]


def test_the_same_report_is_the_same_instance_and_a_changed_one_is_not(ct, tmp_path):
    first, second = write(ct, tmp_path / "a.dcm"), write(ct, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    assert first.sop_instance_uid == second.sop_instance_uid
    liver = [MeasuredValue(measure="volume", value=1500.1, unit="ml", cut_off=True)]
    changed = [
        write(ct, tmp_path / "c.dcm", measures={**NUMBERS, "liver": liver}),
        write(ct, tmp_path / "d.dcm", comprehensive=True),
        write(ct, tmp_path / "e.dcm", created=datetime(2026, 1, 2, 3, 4, 5)),
        write(ct, tmp_path / "f.dcm", content_qualification="PRODUCT"),
    ]
    assert len({first.sop_instance_uid, *(w.sop_instance_uid for w in changed)}) == 5
    assert pydicom.dcmread(tmp_path / "d.dcm").SOPClassUID.name == "Comprehensive SR Storage"
    assert pydicom.dcmread(tmp_path / "e.dcm").ContentDate == "20260102"


@pytest.mark.parametrize(
    ("modality", "unit", "codes"),
    [
        ("MR", "1", ("110852", "1")),
        ("PT", "g/ml{SUVbw}", ("126401", "g/ml{SUVbw}")),
        ("PT", "Bq/ml", ("110821", "Bq/ml")),
        ("CT", "1", None),
    ],
)
def test_intensities_by_modality(ct, tmp_path, modality, unit, codes):
    made, seg = ct
    numbers = [
        MeasuredValue(measure="volume", value=1.0, unit="ml"),
        MeasuredValue(measure="max_intensity", value=2.0, unit=unit),
    ]
    grid = made.volume.grid
    grid = type(grid)(shape=grid.shape, affine=grid.affine, modality=modality, source=grid.source)
    write_measurement_sr(
        tmp_path / "sr.dcm", seg_path=seg, grid=grid, table=made_up.TABLE, measures={"liver": numbers}
    )
    (group,) = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    found = [(m.name.value, m.unit.value) for m in group.get_measurements()][1:]
    assert found == ([] if codes is None else [codes])


def test_radiograph_in_pixels_and_in_mm2(tmp_path):
    made = made_up.write_radiograph(tmp_path / "source")
    seg = made_up.write_seg(made, tmp_path / "seg.dcm")
    for unit, code in (("pixels", "{pixels}"), ("mm2", "mm2")):
        write_measurement_sr(
            tmp_path / "sr.dcm",
            seg_path=seg,
            grid=made.volume.grid,
            table=made_up.TABLE,
            measures={
                "liver": [MeasuredValue(measure="area", value=1234.0, unit=unit, note="on the detector")]
            },
        )
        (group,) = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
        (area,) = group.get_measurements()
        assert (area.name.value, area.value, area.unit.value) == ("42798000", 1234.0, code)
        images = group.referenced_segment
        assert images.referenced_sop_instance_uid == "2.25.51"
        assert [i.TextValue for i in group[0].ContentSequence if i.name.value == "121106"] == [
            "on the detector"
        ]


def test_nothing_measured_removes_an_old_report(ct, tmp_path):
    path = tmp_path / "sr.dcm"
    write(ct, path)
    written = write(ct, path, measures={"kidneys": NUMBERS["kidneys"]})
    assert written.path is None
    assert "nothing to report" in written.notes[0]
    assert not path.exists()


def test_own_texts_that_do_not_fit_the_source_are_written_in_utf8(ct, tmp_path):
    note = "\u05d0 on the detector"
    numbers = {"liver": [MeasuredValue(measure="volume", value=1.0, unit="ml", note=note)]}
    write(ct, tmp_path / "sr.dcm", measures=numbers)
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert report.PatientName == "Ph\xe4ntom^Eins"


def test_refusals(ct, tmp_path):
    made, _ = ct
    options = {"grid": made.volume.grid, "table": made_up.TABLE, "measures": NUMBERS}
    label_map = made_up.write_seg(made, tmp_path / "map.dcm", kind="LABELMAP")
    with pytest.raises(InputError, match="refers to a BINARY Segmentation, found LABELMAP"):
        write_measurement_sr(tmp_path / "sr.dcm", seg_path=label_map, **options)
    seg = pydicom.dcmread(ct[1])
    seg.StudyInstanceUID = "2.25.999"
    seg.save_as(tmp_path / "other.dcm")
    with pytest.raises(InputError, match="belongs to another study"):
        write_measurement_sr(tmp_path / "sr.dcm", seg_path=tmp_path / "other.dcm", **options)
    seg.SegmentSequence = seg.SegmentSequence[:2]
    seg.save_as(tmp_path / "two.dcm")
    with pytest.raises(InputError, match="has no segment liver"):
        write_measurement_sr(tmp_path / "sr.dcm", seg_path=tmp_path / "two.dcm", **options)
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(ImageReadError, match=r"text\.dcm"):
        write_measurement_sr(tmp_path / "sr.dcm", seg_path=tmp_path / "text.dcm", **options)
    assert not (tmp_path / "sr.dcm").exists()
