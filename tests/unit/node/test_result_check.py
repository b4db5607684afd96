"""Good SEG, SR and RT structure set leave; with any one thing changed that ties them to their source they never do."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs medseg[node]")
import dicom_results as made_up
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.database import Database
from medseg.export.dicom_seg import write_dicom_seg
from medseg.export.dicom_sr import MeasuredValue, write_measurement_sr
from medseg.export.rtstruct import write_rtstruct
from medseg.io.dicom_header import DicomHeader
from medseg.node.job_queue import ResultFile
from medseg.node.result_check import ResultError, ResultObject, SourceStudy, check_objects
from medseg.node.results import check_new
from medseg.node.tables import jobs, metadata, results
from medseg.node.vault import Vault
from tests.unit.node.listening import Listener, ct_slice

MAKER = {"algorithm_name": "abdomen", "algorithm_version": "1.2", "weights_sha256": "0" * 64}
VOLUME = {"liver": [MeasuredValue(measure="volume", value=1500.0, unit="ml")]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[tuple[ResultObject, ...], SourceStudy]:
    """Results of a CT series whose study refers to something else, as those of many scanners do."""
    folder = tmp_path_factory.mktemp("results")
    source = made_up.write_series(folder / "source", shape=(23, 19, 6))
    for path in (folder / "source").iterdir():
        image = dcmread(path)
        image.ReferencedStudySequence = [Dataset()]
        image.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "2.25.77"
        image.save_as(path)
    grid, table = source.volume.grid, made_up.TABLE
    write_dicom_seg(folder / "seg.dcm", source.label_map, grid, table, **MAKER)
    write_rtstruct(folder / "rt.dcm", source.label_map, grid, table, **MAKER)
    write_measurement_sr(
        folder / "sr.dcm", seg_path=folder / "seg.dcm", grid=grid, table=table, measures=VOLUME
    )
    kinds = {"seg.dcm": "dicom_seg", "sr.dcm": "measurement_sr", "rt.dcm": "rtstruct"}
    objects = tuple(
        ResultObject(name=name, kind=kind, data_set=dcmread(folder / name)) for name, kind in kinds.items()
    )
    headers = [DicomHeader.of(image, Path("slice")) for image in source.headers]
    uids = frozenset(str(image.SOPInstanceUID) for image in source.headers)
    study = SourceStudy.of(headers, study_uid="2.25.30", series_uid="2.25.20", sop_instance_uids=uids)
    return objects, study


def changed(objects: tuple[ResultObject, ...], name: str, change: Callable[[Dataset], None]):
    """The objects with one of them changed."""
    copies = []
    for one in objects:
        data_set = deepcopy(one.data_set)
        if one.name == name:
            change(data_set)
        copies.append(replace(one, data_set=data_set))
    return tuple(copies)


def put(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda data_set: setattr(data_set, keyword, value)


def without(keyword: str) -> Callable[[Dataset], None]:
    return lambda data_set: delattr(data_set, keyword)


def within(place: str, change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    """Change the last item of a sequence, named by the sequences that lead to it."""

    def at(data_set: Dataset) -> None:
        for keyword in place.split("/"):
            data_set = data_set[keyword].value[-1]
        change(data_set)

    return at


def test_good_results_leave(made):
    check_objects(*made)


IDENTITY = [
    (put("PatientID", "PH-2"), "another patient than its source (PatientID)"),
    (put("PatientID", ""), "another patient than its source (PatientID)"),
    (put("PatientName", "Somebody^Else"), "another patient than its source (PatientName)"),
    (put("PatientBirthDate", "19700102"), "another patient than its source (PatientBirthDate)"),
    (put("PatientSex", "F"), "another patient than its source (PatientSex)"),
    (put("IssuerOfPatientID", "elsewhere"), "another patient than its source (IssuerOfPatientID)"),
    (put("StudyInstanceUID", "2.25.31"), "of another study"),
    (put("StudyID", "S2"), "another study than its source (StudyID)"),
    (put("StudyDate", "20240301"), "another study than its source (StudyDate)"),
    (put("AccessionNumber", "A2"), "another study than its source (AccessionNumber)"),
    (put("SeriesInstanceUID", "2.25.20"), "stands in the series of its source"),
    (put("SOPInstanceUID", "2.25.1001"), "has the UID of an image"),
    (put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "a SOP class that the export"),
]


@pytest.mark.parametrize("name", ["seg.dcm", "sr.dcm", "rt.dcm"])
@pytest.mark.parametrize(("change", "sentence"), IDENTITY)
def test_a_result_of_something_else_never_leaves(made, name: str, change, sentence: str):
    objects, source = made
    with pytest.raises(ResultError) as caught:
        check_objects(changed(objects, name, change), source)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(name)


EVIDENCE = "CurrentRequestedProcedureEvidenceSequence"
SERIES = f"{EVIDENCE}/ReferencedSeriesSequence"
CONTENT = "ContentSequence/ContentSequence/ContentSequence"
FRAMES = "ReferencedFrameOfReferenceSequence"


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("seg.dcm", put("ContentQualification", "PRODUCT"), "not marked RESEARCH"),
        ("seg.dcm", without("ContentQualification"), "not marked RESEARCH"),
        ("sr.dcm", put("ContentQualification", "SERVICE"), "not marked RESEARCH"),
        ("seg.dcm", put("FrameOfReferenceUID", "2.25.41"), "another frame of reference"),
        ("seg.dcm", without("FrameOfReferenceUID"), "another frame of reference"),
        ("sr.dcm", put("FrameOfReferenceUID", "2.25.41"), "another frame of reference"),
        ("rt.dcm", put("FrameOfReferenceUID", "2.25.41"), "another frame of reference"),
        ("rt.dcm", within(FRAMES, put("FrameOfReferenceUID", "2.25.41")), "another frame of reference"),
        (
            "rt.dcm",
            within("StructureSetROISequence", put("ReferencedFrameOfReferenceUID", "2.25.41")),
            "another frame of reference",
        ),
        (
            "seg.dcm",
            within("ReferencedSeriesSequence", put("SeriesInstanceUID", "2.25.21")),
            "a series that it was not",
        ),
        (
            "seg.dcm",
            within(
                "ReferencedSeriesSequence/ReferencedInstanceSequence",
                put("ReferencedSOPInstanceUID", "2.25.9"),
            ),
            "instances that it was not",
        ),
        (
            "seg.dcm",
            within(
                "PerFrameFunctionalGroupsSequence/DerivationImageSequence/SourceImageSequence",
                put("ReferencedSOPInstanceUID", "2.25.9"),
            ),
            "instances that it was not",
        ),
        ("sr.dcm", within(EVIDENCE, put("StudyInstanceUID", "2.25.31")), "another study"),
        ("sr.dcm", within(SERIES, put("SeriesInstanceUID", "2.25.21")), "a series that it was not"),
        (
            "sr.dcm",
            within(f"{SERIES}/ReferencedSOPSequence", put("ReferencedSOPInstanceUID", "2.25.9")),
            "instances that it was not",
        ),
        ("sr.dcm", lambda sr: _refer_elsewhere(sr), "instances that it was not"),
        ("sr.dcm", without(EVIDENCE), "none of the instances"),
    ],
)
def test_a_result_that_refers_elsewhere_never_leaves(made, name: str, change, sentence: str):
    objects, source = made
    with pytest.raises(ResultError, match=sentence):
        check_objects(changed(objects, name, change), source)


def _refer_elsewhere(sr: Dataset) -> None:
    """Let the measured segment be one of another object."""
    for item in _items(sr):
        if "ReferencedSegmentNumber" in item:
            item.ReferencedSOPInstanceUID = "2.25.9"
            return
    raise AssertionError("the report refers to no segment")


def _items(data_set: Dataset):
    for element in data_set:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def test_a_report_on_a_mask_of_another_job_never_leaves(made):
    objects, source = made
    with pytest.raises(ResultError, match=r"sr.dcm refers to instances"):
        check_objects(tuple(one for one in objects if one.name != "seg.dcm"), source)


def test_an_export_that_no_object_belongs_to_never_leaves(made):
    objects, source = made
    seg = next(one for one in objects if one.name == "seg.dcm")
    for kind in ("measurement_sr", "dicom_seg_labelmap", "record"):
        with pytest.raises(ResultError, match=f"that the export {kind} does not have"):
            check_objects((replace(seg, kind=kind),), source)


FILE = ResultFile(
    kind="dicom_seg",
    path="jobs/2/1/seg.dcm",
    size=1,
    sha256="a",
    sop_class_uid="1.2",
    sop_instance_uid="1.9",
)


@pytest.fixture
def database(tmp_path: Path):
    made = Database.in_file(tmp_path / "node.db", metadata)
    job = {"study_uid": "1", "series_uid": "2", "rule": "ct", "model": "m", "input": "i", "instances": 1}
    row = {name: getattr(FILE, name) for name in ResultFile.__slots__}
    with made.write() as connection:
        connection.execute(jobs.insert(), job | {"state": "done", "created_at": 0.0})
        connection.execute(results.insert(), row | {"job_id": 1, "path": "jobs/1/1/seg.dcm"})
    yield made
    made.close()


def test_the_same_result_made_again_may_leave(database: Database, tmp_path: Path):
    with database.read() as connection:
        check_new(connection, [FILE], Vault(tmp_path))


def test_a_uid_that_an_earlier_result_has_with_other_bytes_never_leaves(database: Database, tmp_path: Path):
    with (
        database.read() as connection,
        pytest.raises(ResultError, match=r"seg.dcm has the UID of an earlier"),
    ):
        check_new(connection, [replace(FILE, sha256="b")], Vault(tmp_path))


def test_two_results_with_one_uid_never_leave(database: Database, tmp_path: Path):
    with database.read() as connection, pytest.raises(ResultError, match="the same UID"):
        check_new(connection, [FILE, FILE], Vault(tmp_path))


def test_a_result_with_the_uid_of_a_received_image_leaves_only_where_it_is_the_same(tmp_path: Path):
    listener, vault = Listener(tmp_path), Vault(tmp_path)
    association = listener.associate()
    assert association.send_c_store(ct_slice(1)).Status == 0
    association.release()
    (received,) = tmp_path.glob("instances/*/*/*.dcm")
    vault.write("jobs/1/1/same.dcm", received.read_bytes())
    vault.write("jobs/1/1/other.dcm", received.read_bytes()[:-2] + b"\0\7")
    file = replace(FILE, sop_instance_uid=ct_slice(1).SOPInstanceUID)
    with listener.database.read() as connection:
        check_new(connection, [replace(file, path="jobs/1/1/same.dcm")], vault)
        with pytest.raises(
            ResultError, match=r"other.dcm has the UID of a received image with other content"
        ):
            check_new(connection, [replace(file, path="jobs/1/1/other.dcm")], vault)
    listener.stop()
