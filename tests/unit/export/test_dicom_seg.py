from datetime import datetime

import numpy as np
import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from medseg.errors import GeometryError, ImageReadError, InputError, LabelError
from medseg.export.dicom_seg import write_dicom_seg
from medseg.export.source_header import UNDATED
from medseg.labels import Code, Label, LabelTable
from medseg.volume import ImageGrid, Source

MODEL = {"algorithm_name": "chest-xray-lungs", "algorithm_version": "1.2", "weights_sha256": "ab" * 32}


def grid_of(path, label_map, **changes) -> ImageGrid:
    """The grid that a reader makes of a projection image."""
    image = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    source = Source(
        paths=(path,), format="dicom", sop_instance_uids=(image.get("SOPInstanceUID", ""),), **changes
    )
    return ImageGrid(shape=label_map.shape, modality="CR", source=source)


def write(path, label_map, source, table, **changes):
    grid = source if isinstance(source, ImageGrid) else grid_of(source, label_map)
    return write_dicom_seg(path, label_map, grid, table, **{**MODEL, **changes})


def decoded(path) -> tuple[pydicom.Dataset, dict[int, np.ndarray]]:
    """(rows, columns) mask by segment number, from the bits and the functional groups alone."""
    seg = pydicom.dcmread(path)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    size = seg.Rows * seg.Columns
    masks = {}
    for n, item in enumerate(seg.PerFrameFunctionalGroupsSequence):
        segment = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        masks[segment] = bits[n * size : (n + 1) * size].reshape(seg.Rows, seg.Columns).astype(bool)
    return seg, masks


def test_voxels_come_back_by_pydicom_alone(tmp_path, label_map, source, table):
    written = write(tmp_path / "s.dcm", label_map, source(), table)
    seg, masks = decoded(tmp_path / "s.dcm")
    assert written.path == tmp_path / "s.dcm"
    assert (seg.Rows, seg.Columns) == (61, 53)
    assert set(masks) == {1, 2}
    for number, mask in masks.items():
        np.testing.assert_array_equal(mask.T, label_map == number)
    # The right lung lies in the columns of the display's left half.
    assert np.argwhere(masks[1])[:, 1].mean() < np.argwhere(masks[2])[:, 1].mean()


def test_a_missing_structure_keeps_the_numbers_of_the_others(tmp_path, label_map, source, table):
    label_map[label_map == 1] = 0
    written = write(tmp_path / "s.dcm", label_map, source(), table)
    seg, masks = decoded(tmp_path / "s.dcm")
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2, 3]
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["lung_right", "lung_left", "heart"]
    assert set(masks) == {2}
    assert written.notes == ("Not found, and so without a frame in the DICOM SEG: lung_right, heart.",)


def test_nothing_found_writes_no_file_and_removes_an_older_one(tmp_path, label_map, source, table):
    path = tmp_path / "s.dcm"
    write(path, label_map, source(), table)
    written = write(path, np.zeros_like(label_map), source(), table)
    assert written.path is None
    assert not path.exists()
    assert written.notes == ("No DICOM SEG was written, because no structure was found.",)


def test_no_patient_geometry_and_one_reference_per_frame(tmp_path, label_map, source, table):
    path = source(PixelSpacing=[0.2, 0.3], ImagerPixelSpacing=[0.2, 0.3], FrameOfReferenceUID="2.25.9")
    write(tmp_path / "s.dcm", label_map, path, table)
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    for keyword in ("FrameOfReferenceUID", "PixelSpacing", "ImagerPixelSpacing"):
        assert keyword not in seg
    assert len(seg.SharedFunctionalGroupsSequence[0]) == 0
    for item in seg.PerFrameFunctionalGroupsSequence:
        assert not {"PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"} & set(
            item.dir()
        )
        reference = item.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == "2.25.1"
        assert reference.SpatialLocationsPreserved == "YES"
    listed = seg.ReferencedSeriesSequence[0]
    assert listed.SeriesInstanceUID == "2.25.2"
    assert listed.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "2.25.1"
    assert list(seg.PatientOrientation) == ["L", "F"]


@pytest.mark.parametrize(
    ("found", "kept"),
    [(["LA", "FP"], ["LA", "FP"]), (["R<", "Q"], None), (["L"], None), (["L", "R"], None), ([], None)],
)
def test_a_patient_orientation_that_is_none_is_left_out(tmp_path, label_map, source, table, found, kept):
    write(tmp_path / "s.dcm", label_map, source(PatientOrientation=found), table)
    assert pydicom.dcmread(tmp_path / "s.dcm").PatientOrientation == (kept or "")


def test_the_orientation_of_an_animal_stays(tmp_path, label_map, source, table):
    path = source(PatientOrientation=["CR", "D"], AnatomicalOrientationType="QUADRUPED")
    write(tmp_path / "s.dcm", label_map, path, table)
    assert list(pydicom.dcmread(tmp_path / "s.dcm").PatientOrientation) == ["CR", "D"]


def test_patient_study_and_equipment(tmp_path, label_map, source, table):
    write(tmp_path / "s.dcm", label_map, source(SeriesNumber=901), table)
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    original = pydicom.dcmread(source(SeriesNumber=901))
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
        "StudyID",
        "AccessionNumber",
    ):
        assert seg[keyword].value == original[keyword].value
    assert seg.Modality == "SEG"
    assert seg.SeriesNumber == 902
    assert seg.ContentQualification == "RESEARCH"
    assert seg.SeriesDescription == "medseg chest-xray-lungs 1.2 [SEG]"
    assert seg.ContentCreatorName == "medseg^"
    assert seg.preamble == b"\0" * 128
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert seg.file_meta.ImplementationVersionName.startswith("medseg ")


def test_segments_say_what_and_by_whom(tmp_path, label_map, source, table):
    write(tmp_path / "s.dcm", label_map, source(), table)
    right = pydicom.dcmread(tmp_path / "s.dcm").SegmentSequence[0]
    category, kind = (
        right.SegmentedPropertyCategoryCodeSequence[0],
        right.SegmentedPropertyTypeCodeSequence[0],
    )
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("123037004", "SCT")
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("3341006", "SCT", "Right lung")
    assert "SegmentedPropertyTypeModifierCodeSequence" not in kind
    algorithm = right.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("chest-xray-lungs", "1.2")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert MODEL["weights_sha256"] in algorithm.AlgorithmParameters
    assert right.SegmentAlgorithmType == "AUTOMATIC"
    assert len(right.RecommendedDisplayCIELabValue) == 3


def test_one_code_for_both_sides_gets_the_side_as_modifier(tmp_path, label_map, source):
    lung = Code(scheme="SCT", value="39607008", meaning="Lung")
    table = LabelTable(
        labels=(
            Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left", code=lung),
            Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right", code=lung),
        )
    )
    write(tmp_path / "s.dcm", label_map, source(), table)
    sides = [
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue
        for item in pydicom.dcmread(tmp_path / "s.dcm").SegmentSequence
    ]
    assert sides == ["24028007", "7771000"]


def test_same_result_same_bytes(tmp_path, label_map, source, table):
    first = write(tmp_path / "a.dcm", label_map, source(), table)
    second = write(tmp_path / "b.dcm", label_map.astype(np.int16), source(), table)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    assert first.sop_instance_uid == second.sop_instance_uid
    assert first.sop_instance_uid.startswith("2.25.")
    assert len(first.sop_instance_uid) <= 44


def test_any_change_is_another_instance(tmp_path, label_map, source, table):
    def uid(label_map=label_map, table=table, elements=None, **changes):
        written = write(tmp_path / "s.dcm", label_map, source(**elements or {}), table, **changes)
        return written.sop_instance_uid, written.series_instance_uid

    other_pixel = label_map.copy()
    other_pixel[0, 0] = 1
    recoloured = LabelTable(
        labels=(*table.labels[:2], Label(name="heart", value=9, colour="#ffffff", code=table.labels[2].code))
    )
    found = [
        uid(),
        uid(other_pixel),
        uid(table=recoloured),
        uid(elements={"SOPInstanceUID": "2.25.77"}),
        uid(elements={"PatientID": "PH-2"}),
        uid(algorithm_version="1.3"),
        uid(weights_sha256="cd" * 32),
        uid(created=datetime(2025, 1, 2, 3, 4, 5)),
        uid(content_qualification="SERVICE"),
    ]
    assert len({pair[0] for pair in found}) == len(found)
    assert len({u for pair in found for u in pair}) == 2 * len(found)


@pytest.mark.parametrize(
    ("elements", "date", "time"),
    [
        ({}, "20240229", "101112.5"),
        ({"ContentDate": "20240301", "ContentTime": "12"}, "20240301", "000000"),
        ({"AcquisitionDate": "20240302", "AcquisitionTime": "235959"}, "20240302", "235959"),
        ({"StudyDate": "", "SeriesDate": "20240303"}, "20240303", "000000"),
    ],
)
def test_content_date_is_the_sources(tmp_path, label_map, source, table, elements, date, time):
    write(tmp_path / "s.dcm", label_map, source(**elements), table)
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    assert (seg.ContentDate, seg.ContentTime) == (date, time)
    assert "InstanceCreationDate" not in seg


def test_dates_that_are_given_and_dates_that_nobody_knows(tmp_path, label_map, source, table):
    write(tmp_path / "s.dcm", label_map, source(), table, created=datetime(2025, 1, 2, 3, 4, 5))
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    assert (seg.ContentDate, seg.ContentTime, seg.SeriesDate) == ("20250102", "030405", "20250102")
    written = write(tmp_path / "s.dcm", label_map, source(StudyDate=None, StudyTime=None), table)
    assert pydicom.dcmread(tmp_path / "s.dcm").ContentDate == "19000101"
    assert written.notes[0] == UNDATED


def test_elements_that_the_source_lacks_are_there_and_empty(tmp_path, label_map, source, table):
    gone = dict.fromkeys(
        (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyID",
            "PatientOrientation",
            "Modality",
        )
    )
    write(tmp_path / "s.dcm", label_map, source(**gone), table)
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    for keyword in gone:
        assert keyword in seg
        assert seg.Modality == "SEG" or not seg[keyword].value


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
        (
            ["", "ISO 2022 IR 149"],
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf\x1b(B",
        ),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東=".encode()),
    ],
)
def test_names_keep_their_bytes(tmp_path, label_map, source, table, character_set, name):
    plain = source(
        SpecificCharacterSet=character_set, PatientID="ID", PatientName="X" * (len(name) + len(name) % 2)
    )
    data = plain.read_bytes().replace(b"X" * (len(name) + len(name) % 2), name + b" " * (len(name) % 2))
    plain.write_bytes(data)
    write(tmp_path / "s.dcm", label_map, plain, table)
    assert name in (tmp_path / "s.dcm").read_bytes()
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    assert seg.PatientName == pydicom.dcmread(plain).PatientName
    assert seg.SpecificCharacterSet == pydicom.dcmread(plain).SpecificCharacterSet


def test_labels_beyond_ascii_turn_the_file_to_utf8(tmp_path, label_map, source):
    lung = Code(scheme="SCT", value="39607008", meaning="Lungenflügel")
    table = LabelTable(labels=(Label(name="lunge", value=1, colour="#3aa0ff", code=lung),))
    path = source(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    write(tmp_path / "s.dcm", np.minimum(label_map, 1), path, table)
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert seg.PatientName == "Müller^Jürgen"
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lungenflügel"


def test_secondary_capture_in_colour(tmp_path, label_map, source, table):
    path = source(
        SOPClassUID=SecondaryCaptureImageStorage,
        Modality="OT",
        PhotometricInterpretation="RGB",
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelData=bytes(61 * 53 * 3 + 1),
    )
    write(tmp_path / "s.dcm", label_map, path, table)
    seg, masks = decoded(tmp_path / "s.dcm")
    assert seg.SamplesPerPixel == 1
    np.testing.assert_array_equal(masks[2].T, label_map == 2)


@pytest.mark.parametrize(
    ("elements", "error", "message"),
    [
        ({"StudyInstanceUID": None}, InputError, "source image has no StudyInstanceUID, to which"),
        ({"SeriesInstanceUID": ""}, InputError, "source image has no SeriesInstanceUID"),
        ({"StudyInstanceUID": "1.02.3"}, InputError, "StudyInstanceUID of the source image is malformed"),
        ({"ImagePositionPatient": [0, 0, 0]}, InputError, "position in the patient .* could not be used"),
        ({"NumberOfFrames": 4}, InputError, "has 4 frames"),
        ({"Rows": 60}, GeometryError, "53 columns and 61 rows, the source image 53 and 60"),
    ],
)
def test_sources_that_a_seg_cannot_refer_to(tmp_path, label_map, source, table, elements, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path / "s.dcm", label_map, source(**elements), table)
    assert not (tmp_path / "s.dcm").exists()


def test_header_errors_quote_no_identifier(tmp_path, label_map, source, table):
    path = source(NumberOfFrames=1)
    path.write_bytes(path.read_bytes().replace(b"\x08\x00IS\x02\x001 ", b"\x08\x00IS\x02\x00Ph"))
    with pytest.raises(
        ImageReadError, match="its header cannot be used for a DICOM object: ValueError"
    ) as caught:
        write(tmp_path / "s.dcm", label_map, path, table)
    assert "Ph" not in str(caught.value)


def test_an_image_of_a_private_class_is_referred_to(tmp_path, label_map, source, table):
    write(tmp_path / "s.dcm", label_map, source(SOPClassUID="1.2.3.4.5"), table)
    item = pydicom.dcmread(tmp_path / "s.dcm").PerFrameFunctionalGroupsSequence[0]
    reference = item.DerivationImageSequence[0].SourceImageSequence[0]
    assert reference.ReferencedSOPClassUID == "1.2.3.4.5"


def test_labels_that_a_seg_cannot_describe(tmp_path, label_map, source, table):
    uncoded = LabelTable(labels=(*table.labels[:2], Label(name="heart", value=9, colour="#ffb03a")))
    with pytest.raises(LabelError, match=r"heart has none; give labels.heart.code, or leave dicom_seg out"):
        write(tmp_path / "s.dcm", label_map, source(), uncoded)
    label_map[0, 0] = 4
    with pytest.raises(LabelError, match="class indices 0 to 4, the table has 0 to 3"):
        write(tmp_path / "s.dcm", label_map, source(), table)
    with pytest.raises(GeometryError, match="found float64 of shape"):
        write(tmp_path / "s.dcm", np.ones((3, 3)), source(), table)


def test_a_file_that_is_not_dicom(tmp_path, label_map, table):
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG" + bytes(600))
    with pytest.raises(ImageReadError, match="expected a DICOM file"):
        write(tmp_path / "s.dcm", label_map, path, table)
