from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from ct_series import GRIDS, SHAPE, grid_in_memory, write_series

from medseg.errors import GeometryError, InputError, LabelError
from medseg.export.contour_sequence import contour_sequences
from medseg.export.rtstruct import write_rtstruct
from medseg.export.written import WrittenObject
from medseg.io.rtstruct import read_rtstruct
from medseg.labels import Code, Label, LabelTable
from medseg.volume import ImageGrid, Source

MODEL: dict[str, Any] = {
    "algorithm_name": "box-finder",
    "algorithm_version": "1.2",
    "weights_sha256": "ab" * 32,
}


def some_label_map(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Two structures with holes, islands, corners that touch, and an empty slice; the third is missing."""
    label_map = np.zeros(shape, dtype=np.uint8)
    label_map[2:12, 3:15] = 1
    label_map[4:9, 5:11] = 0
    label_map[6:8, 7:9] = 1
    label_map[13:22, 0:9] = 2
    label_map[np.random.default_rng(1).random(shape) < 0.1] = 0
    label_map[14:20, 10:17] = np.where(np.indices((6, 7)).sum(axis=0) % 2, 2, 0).reshape(
        6, 7, *(1,) * (len(shape) - 2)
    )
    if len(shape) == 3:
        label_map[:, :, 3] = 0
    return label_map


def write(
    folder: Path, grid: ImageGrid, label_map: np.ndarray, table: LabelTable, **other: Any
) -> WrittenObject:
    return write_rtstruct(folder / "rt.dcm", label_map, grid, table, **(MODEL | other))


def masks_by_ray_casting(
    path: Path, affine: np.ndarray, shape: tuple[int, int, int]
) -> dict[int, np.ndarray]:
    """A reader with nothing but pydicom: planes by projection, voxel centres by crossings of the contours in mm."""
    i, j = np.indices(shape[:2])
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    axes = np.column_stack([affine[:3, 0], affine[:3, 1]])
    masks = {}
    for roi in pydicom.dcmread(path).ROIContourSequence:
        mask = np.zeros(shape, dtype=bool)
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            distances = [
                abs(normal @ (points[0] - affine[:3, 3] - k * affine[:3, 2])) for k in range(shape[2])
            ]
            k = int(np.argmin(distances))
            assert distances[k] < 1e-3
            flat = (points - affine[:3, 3] - k * affine[:3, 2]) @ np.linalg.pinv(axes).T
            for (x0, y0), (x1, y1) in zip(flat, np.roll(flat, -1, axis=0), strict=True):
                crossed = (y0 <= j) != (y1 <= j)
                with np.errstate(divide="ignore", invalid="ignore"):
                    mask[:, :, k] ^= crossed & (x0 + (j - y0) * (x1 - x0) / (y1 - y0) < i)
        masks[int(roi.ReferencedROINumber)] = mask
    return masks


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", GRIDS)
def test_round_trip_is_exact_on_every_kind_of_grid(tmp_path, table, name, order):
    grid = write_series(tmp_path / "ct", GRIDS[name], only_first=True)
    label_map = np.asarray(some_label_map(), order=order)
    written = write(tmp_path, grid, label_map, table)
    assert written.path == tmp_path / "rt.dcm"
    assert written.notes == ("Not found, and so without an ROI in the RT structure set: heart.",)
    structure = read_rtstruct(written.path, like=grid)
    np.testing.assert_array_equal(structure.label_map(), label_map)
    assert structure.notes == tuple(
        f"{name}: slices between its contours without one, left empty: 1."
        for name in ("lung_right", "lung_left")
    )
    independent = masks_by_ray_casting(written.path, GRIDS[name], SHAPE)
    assert set(independent) == {1, 2}
    for number, mask in independent.items():
        np.testing.assert_array_equal(mask, label_map == number)


def test_single_slice_with_and_without_third_axis(tmp_path, table):
    for shape in (SHAPE[:2], (*SHAPE[:2], 1)):
        grid = write_series(tmp_path / "ct", GRIDS["oblique"], shape)
        label_map = some_label_map(SHAPE[:2]).reshape(shape)
        written = write(tmp_path, grid, label_map, table)
        structure = read_rtstruct(written.path, like=grid)
        assert structure.notes == ()
        np.testing.assert_array_equal(structure.label_map(), label_map)


def test_what_the_structure_set_says(tmp_path, table):
    grid = write_series(tmp_path / "ct", GRIDS["tilted"], only_first=True, SeriesNumber=911)
    label_map = some_label_map()
    label_map[13:, :, 0] = 0
    written = write(tmp_path, grid, label_map, table, created=datetime(2026, 3, 4, 5, 6, 7))
    found = pydicom.dcmread(written.path)
    assert (found.SOPInstanceUID, found.SeriesInstanceUID) == (
        written.sop_instance_uid,
        written.series_instance_uid,
    )
    assert found.file_meta.MediaStorageSOPInstanceUID == written.sop_instance_uid
    assert (found.PatientName, found.PatientID, found.StudyID) == ("Phantom^Box", "PH-2", "S1")
    assert (found.StudyDate, found.StructureSetDate, found.StructureSetTime) == (
        "20240229",
        "20260304",
        "050607",
    )
    assert (found.Modality, found.SeriesNumber, found.ApprovalStatus) == ("RTSTRUCT", 912, "UNAPPROVED")
    assert found.SeriesDescription == "medseg box-finder 1.2 [RTSTRUCT]"
    frame = found.ReferencedFrameOfReferenceSequence[0]
    assert found.FrameOfReferenceUID == frame.FrameOfReferenceUID == "2.25.74"
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "2.25.76"
    images = [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence]
    assert images == list(grid.source.sop_instance_uids)
    right, left = found.StructureSetROISequence
    assert (right.ROINumber, right.ROIName, right.ROIGenerationAlgorithm) == (1, "lung_right", "AUTOMATIC")
    assert left.ReferencedFrameOfReferenceUID == "2.25.74"
    (algorithm,) = left.ROIDerivationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("box-finder", "1.2")
    assert "ab" * 32 in algorithm.AlgorithmParameters
    (code,) = found.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("44029006", "SCT")
    assert found.ROIContourSequence[0].ROIDisplayColor == [0x3A, 0xA0, 0xFF]
    for contour in found.ROIContourSequence[1].ContourSequence:
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        assert contour.NumberOfContourPoints == len(points)
        # The slices of this grid are 4 mm apart along z, from 7 mm.
        k = round((points[0, 2] - 7) / 4)
        (image,) = contour.ContourImageSequence
        assert image.ReferencedSOPInstanceUID == f"2.25.77.{k + 1}"
        assert "ReferencedFrameNumber" not in image


def test_multi_frame_source_is_referred_to_by_frame(tmp_path, table):
    grid = write_series(tmp_path / "ct", GRIDS["axial"], only_first=True)
    frames = (7, 6, 5, 4, 3, 2, 1)
    source = dataclasses.replace(
        grid.source, paths=grid.source.paths[:1], sop_instance_uids=("2.25.77.1",) * 7, frame_numbers=frames
    )
    grid = dataclasses.replace(grid, source=source)
    written = write(tmp_path, grid, some_label_map(), table)
    found = pydicom.dcmread(written.path)
    study = found.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 1
    images = [contour.ContourImageSequence[0] for contour in found.ROIContourSequence[0].ContourSequence]
    assert sorted({image.ReferencedFrameNumber for image in images}) == [1, 2, 3, 5, 6, 7]
    structure = read_rtstruct(written.path, like=grid)
    assert not any("another slice" in note for note in structure.notes)


def test_side_is_a_modifier_where_a_pair_shares_its_code(tmp_path, table):
    kidney = Code(scheme="SCT", value="64033007", meaning="Kidney")
    sides = LabelTable(
        labels=(
            Label(
                name="kidney_right", value=1, colour="#ff0000", side="right", pair="kidney_left", code=kidney
            ),
            Label(
                name="kidney_left", value=2, colour="#00ff00", side="left", pair="kidney_right", code=kidney
            ),
        )
    )
    grid = write_series(tmp_path / "ct", GRIDS["axial"], only_first=True)
    written = write(tmp_path, grid, some_label_map(), sides)
    assert read_rtstruct(written.path, like=grid).table() == sides


def test_same_result_is_the_same_file_and_another_never_its_uid(tmp_path, table):
    grid = write_series(tmp_path / "ct", GRIDS["oblique"], only_first=True)
    label_map = some_label_map()

    def uid_of(**other: Any) -> str:
        values = {"grid": grid, "label_map": label_map, "table": table} | other
        return write(tmp_path, **values).sop_instance_uid

    first = uid_of()
    content = (tmp_path / "rt.dcm").read_bytes()
    assert uid_of(label_map=np.asfortranarray(label_map.astype(np.int32))) == first
    assert (tmp_path / "rt.dcm").read_bytes() == content
    changed = label_map.copy()
    changed[2, 3, 0] ^= 1
    moved = grid.affine.copy()
    moved[0, 3] += 0.01
    recoloured = dataclasses.replace(table.labels[0], colour="#3aa0fe")
    others = [
        uid_of(label_map=changed),
        uid_of(grid=dataclasses.replace(grid, affine=moved)),
        uid_of(table=LabelTable(labels=(recoloured, *table.labels[1:]))),
        uid_of(algorithm_version="1.3"),
        uid_of(weights_sha256="cd" * 32),
        uid_of(created=datetime(2026, 1, 1)),
    ]
    assert len({first, *others}) == 7


def test_texts_of_the_source_keep_their_bytes(tmp_path, table):
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    grid = write_series(
        tmp_path / "ct",
        GRIDS["axial"],
        only_first=True,
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName=name,
    )
    written = write(tmp_path, grid, some_label_map(), table)
    found, source = pydicom.dcmread(written.path), pydicom.dcmread(grid.source.paths[0])
    assert found.SpecificCharacterSet == ["", "ISO 2022 IR 87"]
    assert found.get_item("PatientName").value == source.get_item("PatientName").value
    assert found.PatientName == name
    umlaut = LabelTable(labels=(Label(name="Körper", value=1, colour="#000000"),))
    written = write(tmp_path, grid, some_label_map().clip(0, 1), umlaut)
    assert written.notes == ("Without a coded concept in the RT structure set: Körper.",)
    found = pydicom.dcmread(written.path)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert (found.PatientName, found.StructureSetROISequence[0].ROIName) == (name, "Körper")


def test_deidentification_is_copied_with_its_method_or_not_at_all(tmp_path, table):
    removed = {"PatientIdentityRemoved": "YES", "SpecificCharacterSet": ""}
    for method in ("a tool", ""):
        grid = write_series(
            tmp_path / "ct", GRIDS["axial"], only_first=True, DeidentificationMethod=method, **removed
        )
        found = pydicom.dcmread(write(tmp_path, grid, some_label_map(), table).path)
        assert found.get("DeidentificationMethod", "") == method
        assert ("PatientIdentityRemoved" in found) == bool(method)
        assert "SpecificCharacterSet" not in found


def test_source_without_frame_of_reference(tmp_path, table):
    grid = write_series(tmp_path / "ct", GRIDS["axial"], only_first=True, FrameOfReferenceUID=None)
    grid = dataclasses.replace(grid, source=dataclasses.replace(grid.source, frame_of_reference_uid=""))
    written = write(tmp_path, grid, some_label_map(), table)
    assert "has no frame of reference" in written.notes[-1]
    structure = read_rtstruct(written.path, like=grid)
    np.testing.assert_array_equal(structure.label_map(), some_label_map())
    assert "the contours refer to the image's instances" in structure.notes[0]


def test_nothing_found_writes_nothing_and_removes_an_older_file(tmp_path, table):
    grid = grid_in_memory(GRIDS["axial"])
    (tmp_path / "rt.dcm").write_bytes(b"old")
    written = write(tmp_path, grid, np.zeros(SHAPE, dtype=np.uint8), table)
    assert written == WrittenObject(
        path=None, notes=("No RT structure set was written, because no structure was found.",)
    )
    assert not (tmp_path / "rt.dcm").exists()


def test_what_cannot_be_written_is_refused(tmp_path, table):
    grid, label_map = grid_in_memory(GRIDS["axial"]), some_label_map()
    with pytest.raises(InputError, match=r"needs patient geometry .* use dicom_seg, or a presentation state"):
        write(tmp_path, ImageGrid(shape=SHAPE[:2], modality="CR"), label_map[:, :, 0], table)
    nifti = ImageGrid(shape=SHAPE, affine=np.eye(4), source=Source(paths=(Path("a.nii"),), format="nifti"))
    with pytest.raises(InputError, match="must refer to DICOM instances, the image is from nifti files"):
        write(tmp_path, nifti, label_map, table)
    with pytest.raises(InputError, match="7 slices, but 6 SOP Instance UIDs"):
        write(tmp_path, grid_in_memory(GRIDS["axial"], sop_instance_uids=("2.25.1",) * 6), label_map, table)
    with pytest.raises(InputError, match="UID of the source image is missing or malformed"):
        write(tmp_path, grid_in_memory(GRIDS["axial"], series_instance_uid=""), label_map, table)
    with pytest.raises(GeometryError, match=r"label map has shape \(7, 17, 23\), the image \(23, 17, 7\)"):
        write(tmp_path, grid, label_map.T, table)
    with pytest.raises(LabelError, match="class indices 0 to 9, the table has 0 to 3"):
        write(tmp_path, grid, np.where(label_map, 9, 0), table)
    far = GRIDS["axial"].copy()
    far[0, 3] = 3e11
    with pytest.raises(GeometryError, match=r"a DICOM decimal cannot hold to 0\.001 mm"):
        write(tmp_path, grid_in_memory(far), label_map, table)
    other = write_series(tmp_path / "ct", GRIDS["axial"], only_first=True, SOPInstanceUID="2.25.99")
    with pytest.raises(InputError, match="another instance than when the image was read"):
        write(tmp_path, other, label_map, table)
    long = LabelTable(
        labels=(
            dataclasses.replace(
                table.labels[2], value=1, code=Code(scheme="SCT", value="1", meaning="m" * 65)
            ),
        )
    )
    with pytest.raises(LabelError, match="the code of label heart cannot be written"):
        write(
            tmp_path,
            write_series(tmp_path / "ct", GRIDS["axial"], only_first=True),
            label_map.clip(0, 1),
            long,
        )
    assert not list(tmp_path.glob("*rt.dcm*"))


@pytest.mark.parametrize(
    ("origin", "spacing", "decimals"),
    [(0.0, 0.7, 4), (-1000.0, 0.7, 4), (-1e9, 0.7, 4), (-1e10, 0.7, 3), (0.0, 0.002, 6), (-1e8, 0.002, 5)],
)
def test_decimals_fit_sixteen_characters(origin, spacing, decimals):
    affine = np.diag([spacing, spacing, 1.0, 1.0])
    affine[0, 3] = origin
    label_map = np.zeros((4, 4, 1), dtype=np.uint8)
    label_map[1, 2] = 1
    (found,) = contour_sequences(label_map, grid_in_memory(affine, (4, 4, 1)))
    # What follows the tag (3006,0050) and four bytes of length.
    texts = found.encoded.split(b"\x06\x30\x50\x00")[1][4:].strip().split(b"\\")
    assert len(texts) == 12
    assert max(map(len, texts)) <= 16
    assert {len(text.split(b".")[1]) for text in texts} == {decimals}
    assert b"-0.0000" not in texts
