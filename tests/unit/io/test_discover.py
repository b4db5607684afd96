"""Images found in messy folders, with ids that name nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import PurePath

import numpy as np
from image_files import png_bytes, radiograph, ramp, save, save_bare
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, SegmentationStorage

from medseg.io import discover as discover_module
from medseg.io import walk as walk_module
from medseg.io.case_names import Candidate, case_ids
from medseg.io.discover import discover
from medseg.privacy import pseudonym

PNG = png_bytes(ramp(), depth=16, colour=0)


def put(path, content=PNG):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cr(path, uid, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(radiograph(SOPInstanceUID=uid, **values), path)


def reasons(discovery):
    return {item.path.name: item.reason for item in discovery.skipped}


def test_a_mess_of_files(tmp_path):
    cr(tmp_path / "a" / "film.dcm", "1.2.1", PatientID="77", IssuerOfPatientID="H1", Modality="DX")
    save_bare(
        radiograph(SOPInstanceUID="1.2.2", PatientID="77", IssuerOfPatientID="H1"), tmp_path / "a" / "OLD"
    )
    put(tmp_path / "b" / "x.png")
    put(tmp_path / "b" / "x_mask.png")
    put(tmp_path / "masks_reader2" / "y.png")
    put(tmp_path / ".hidden" / "z.png")
    put(tmp_path / "notes.csv", b"a,b\n1,2\n")
    put(tmp_path / "all.zip", b"PK\x03\x04....")
    put(tmp_path / "empty.dcm", b"")
    found = discover([tmp_path])
    assert [(image.paths[0].name, image.kind, image.modality) for image in found.images] == [
        ("OLD", "dicom", "CR"),
        ("film.dcm", "dicom", "DX"),
        ("x.png", "png", ""),
    ]
    assert [image.case_id for image in found.images] == ["OLD", "film", "x"]
    assert [image.patient_id for image in found.images] == [pseudonym("77|H1")] * 2 + ["x"]
    told = reasons(found)
    assert "mask by its name" in told["x_mask.png"]
    assert "folder of masks" in told["y.png"]
    assert told[".hidden"] == "hidden"
    assert "text" in told["notes.csv"]
    assert "zip archive" in told["all.zip"]
    assert "an empty file" in told["empty.dcm"]


def test_dicom_objects_without_an_image(tmp_path):
    report = Dataset()
    report.file_meta = radiograph().file_meta
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = BasicTextSRStorage, "1.9", "SR"
    save(report, tmp_path / "report.dcm")
    cr(tmp_path / "seg.dcm", "1.8", SOPClassUID=SegmentationStorage)
    found = discover([tmp_path])
    assert found.images == ()
    assert "without an image: Basic Text SR Storage" in reasons(found)["report.dcm"]
    assert "holds a mask" in reasons(found)["seg.dcm"]


def test_copies_and_same_uid_with_other_content(tmp_path):
    first = cr(tmp_path / "a.dcm", "1.2.1")
    put(tmp_path / "b.dcm", first.read_bytes())
    cr(tmp_path / "c.dcm", "1.2.1", pixels=ramp() + 1)
    found = discover([tmp_path])
    assert len(found.images) == 1
    assert "a copy of" in reasons(found)["b.dcm"]
    assert "but other content" in reasons(found)["c.dcm"]


def test_order_of_the_arguments_does_not_matter(tmp_path):
    for name in ("q/1.png", "p/1.png", "p/2.png"):
        put(tmp_path / name)
    one = discover([tmp_path / "q", tmp_path / "p"])
    other = discover([tmp_path / "p" / "2.png", tmp_path / "p", tmp_path / "q"])
    assert [image.paths for image in one.images] == [image.paths for image in other.images]
    assert [image.case_id for image in one.images] == [image.case_id for image in other.images]
    assert len({image.case_id for image in one.images}) == 3


def test_links_pipes_and_missing_paths(tmp_path):
    put(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "again.png").symlink_to(tmp_path / "a" / "1.png")
    os.mkfifo(tmp_path / "pipe.dcm")
    found = discover([tmp_path, tmp_path / "gone"])
    assert len(found.images) == 1
    told = reasons(found)
    assert "searched already" in told["b"]
    assert "pipe" in told["pipe.dcm"]
    assert "no such file" in told["broken.png"]
    assert "no such file" in told["gone"]


def test_named_file_is_taken_whatever_its_name(tmp_path):
    path = put(tmp_path / "masks" / "a_mask.png")
    assert [image.case_id for image in discover([path]).images] == ["a_mask"]


def test_unreadable_folder_and_file(tmp_path, monkeypatch):
    put(tmp_path / "open" / "1.png")
    put(tmp_path / "shut" / "2.png")
    put(tmp_path / "3.png")
    listdir, opened = os.listdir, discover_module.read_head

    def guarded(folder):
        if PurePath(folder).name == "shut":
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    def guarded_head(path):
        if path.name == "3.png":
            raise discover_module.MedsegError(f"{path}: cannot be read: permission denied")
        return opened(path)

    monkeypatch.setattr(walk_module.os, "listdir", guarded)
    monkeypatch.setattr(discover_module, "read_head", guarded_head)
    found = discover([tmp_path])
    assert [image.paths[0].name for image in found.images] == ["1.png"]
    assert "permission denied" in reasons(found)["shut"]
    assert "permission denied" in reasons(found)["3.png"]


def test_truncated_header_and_no_pixel_is_decoded(tmp_path, monkeypatch):
    path = cr(tmp_path / "a.dcm", "1.2.1", PatientName="A^B")
    path.write_bytes(path.read_bytes()[:-50])
    assert len(discover([tmp_path]).images) == 1
    path.write_bytes(path.read_bytes()[:-95])
    assert discover([tmp_path]).images == ()


def test_case_ids_never_show_who_the_patient_is(tmp_path):
    cr(tmp_path / "DOE_JOHN" / "1.dcm", "1.1", PatientName="Doe^John", PatientID="H-12345")
    cr(tmp_path / "other" / "1.dcm", "1.2", PatientName="Doe^John", PatientID="H-12345")
    cr(tmp_path / "born_19501224.dcm", "1.3", PatientID="H-12345", PatientBirthDate="19501224")
    cr(tmp_path / "1.2.840.1.2.3.4.dcm", "1.4", PatientID="X9")
    found = discover([tmp_path])
    assert len({image.case_id for image in found.images}) == 4
    said = " ".join(f"{image.case_id} {image.patient_id}" for image in found.images).casefold()
    for secret in ("doe", "john", "19501224", "1.2.840"):
        assert secret not in said
    assert "other_1" in said


def test_the_number_of_a_research_case_stays_its_name(tmp_path):
    cr(tmp_path / "JPCLN001.dcm", "1.1", PatientName="JPCLN001", PatientID="JPCLN001")
    cr(tmp_path / "chest_077.dcm", "1.2", PatientName="Chestnut^Ann", PatientID="077")
    assert [image.case_id for image in discover([tmp_path]).images] == ["JPCLN001", "chest_077"]


def test_patient_without_number_is_known_by_the_study(tmp_path):
    cr(tmp_path / "a.dcm", "1.1", StudyInstanceUID="1.7")
    cr(tmp_path / "b.dcm", "1.2", StudyInstanceUID="1.7")
    cr(tmp_path / "c.dcm", "1.3", StudyInstanceUID=None)
    patients = [image.patient_id for image in discover([tmp_path]).images]
    assert patients == [pseudonym("1.7"), pseudonym("1.7"), "c"]


def test_case_ids_differ_without_upper_and_lower_case():
    names = ["x/A.png", "y/a.PNG", "z/a b.png", "CON.png", "n/../p.png", "a.nii.gz", "x/y/A.png"]
    ids = case_ids([Candidate(relative=PurePath(name), identity=str(n)) for n, name in enumerate(names)])
    assert len({name.casefold() for name in ids}) == len(names)
    assert all("/" not in name and " " not in name for name in ids)
    assert ids[0] == "x_A"


def test_import_needs_no_decoder():
    heavy = ("nibabel", "SimpleITK", "torch", "scipy")
    code = f"import sys, medseg.io.discover; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_thousand_pictures_take_one_pass(tmp_path):
    for n in range(300):
        put(tmp_path / f"f{n % 7}" / f"{n // 7}.png")
    found = discover([tmp_path])
    assert len({image.case_id for image in found.images}) == 300
    assert np.all([image.paths[0].exists() for image in found.images])
