"""Every DICOM object that a case of a CT series can be exported as, read back from the folder."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from medseg.data.dicom_phantoms import asymmetric_phantom, write_series
from medseg.evaluation.intensity import intensities_of
from medseg.evaluation.measure import measure_case
from medseg.export.source_header import UNDATED
from medseg.io.dicom_masks import read_dicom_masks
from medseg.io.read import read_image
from medseg.labels import Code, Label, LabelTable
from medseg.pipeline.case_files import export_case

SHAPE = (40, 36, 12)
TABLE = LabelTable(
    labels=(
        Label(
            name="liver",
            value=1,
            colour="#c04030",
            code=Code(scheme="SCT", value="10200004", meaning="Liver"),
        ),
        Label(
            name="spleen",
            value=4,
            colour="#8040a0",
            code=Code(scheme="SCT", value="78961009", meaning="Spleen"),
        ),
        Label(
            name="aorta",
            value=9,
            colour="#d02020",
            code=Code(scheme="SCT", value="15825003", meaning="Aorta"),
        ),
    )
)
KINDS = ("measurement_sr", "dicom_seg", "dicom_seg_labelmap", "rtstruct", "secondary_capture")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    affine = np.diag([-0.8, -0.9, 2.4, 1.0])
    affine[:3, 3] = (12.0, 20.0, -100.0)
    for path in write_series(folder / "ct", asymmetric_phantom(SHAPE)[0], affine):
        undated = pydicom.dcmread(path)
        for keyword in undated.dir("Date"):
            undated[keyword].value = ""
        undated.save_as(path)
    volume = read_image([folder / "ct"])
    label_map = np.select([volume.array[0] == v for v in (300, 600, 900)], [1, 2, 3]).astype(np.uint8)
    measures = measure_case(
        label_map,
        table=TABLE,
        measures=("volume", "long_axis", "intensity"),
        case_id="c",
        spacing_mm=volume.spacing_mm,
        spacing_origin=volume.spacing_origin,
        patient_orientation=None,
        affine=volume.affine,
        intensities=intensities_of(volume),
    )
    record = {
        "model": {"name": "m", "version": "1", "weights_sha256": "ab" * 32},
        "measurements": measures.to_json(),
    }
    files, notes = export_case(
        folder / "out", kinds=KINDS, volume=volume, label_map=label_map, table=TABLE, record=record
    )
    return folder / "out", volume, label_map, files, notes


def test_all_files_are_there_and_belong_to_the_study(exported):
    folder, volume, _, files, notes = exported
    assert set(files) == {
        "segmentation.dcm",
        "segmentation_labelmap.dcm",
        "structures.dcm",
        "measurements.dcm",
        "secondary_capture.dcm",
    }
    assert not [note for note in notes if note.startswith("no ")]
    # The series has no date, which every one of the files could tell.
    assert [note for note in notes if "date" in note] == [UNDATED]
    headers = [pydicom.dcmread(folder / name, stop_before_pixels=True) for name in files]
    assert {header.StudyInstanceUID for header in headers} == {volume.source.study_instance_uid}
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    assert len({header.SeriesInstanceUID for header in headers}) == len(headers)


@pytest.mark.parametrize("name", ["segmentation.dcm", "segmentation_labelmap.dcm", "structures.dcm"])
def test_masks_come_back_voxel_by_voxel(exported, name):
    folder, volume, label_map, _, _ = exported
    found = read_dicom_masks(folder / name, volume.grid)
    np.testing.assert_array_equal(found.table.class_indices(found.label_map), label_map)
    assert [label.name for label in found.table.labels] == ["liver", "spleen", "aorta"]


def test_volumes_of_the_report_are_those_of_the_voxels(exported):
    folder, volume, label_map, _, _ = exported
    report = pydicom.dcmread(folder / "measurements.dcm")
    texts = []

    def walk(item):
        if item.get("ValueType") == "NUM" and item.ConceptNameCodeSequence[0].CodeMeaning == "Volume":
            texts.append(float(item.MeasuredValueSequence[0].NumericValue))
        for child in item.get("ContentSequence", []):
            walk(child)

    walk(report)
    cell = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    np.testing.assert_allclose(sorted(texts), sorted(np.bincount(label_map.ravel())[1:] * cell), rtol=1e-4)
