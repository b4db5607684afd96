from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)

from medseg.errors import GeometryError, ImageReadError, LabelError, MedsegError
from medseg.geometry import affine_lps_to_ras
from medseg.io import roi_contours
from medseg.io.limits import ReadLimits
from medseg.io.rtstruct import read_rtstruct
from medseg.volume import ImageGrid, Source

SHAPE = (12, 10, 5)
# Columns run towards the head and rows to the back, oblique by 30 degrees; 3 mm apart, tilted.
COSINES = np.array([[0.0, 0.0, 1.0], [np.cos(np.pi / 6), np.sin(np.pi / 6), 0.0]])
AFFINE_LPS = np.eye(4)
AFFINE_LPS[:3, :3] = np.column_stack(
    [COSINES[0] * 0.5, COSINES[1] * 0.8, np.cross(*COSINES) * 3 + [0, 0, 0.6]]
)
AFFINE_LPS[:3, 3] = [-20.0, 35.5, 110.25]
IMAGE = ImageGrid(
    shape=SHAPE,
    affine=affine_lps_to_ras(AFFINE_LPS),
    source=Source(
        paths=tuple(Path(f"{k}.dcm") for k in range(5)),
        format="dicom",
        sop_class_uid=str(CTImageStorage),
        sop_instance_uids=tuple(f"2.25.10{k}" for k in range(5)),
        series_instance_uid="2.25.9",
        study_instance_uid="2.25.8",
        frame_of_reference_uid="2.25.7",
    ),
)
SQUARE = [(1.6, 2.4), (5.4, 2.4), (5.4, 6.6), (1.6, 6.6)]  # voxels 2..5, 3..6
INNER = [(2.6, 3.4), (3.4, 3.4), (3.4, 5.6), (2.6, 5.6)]  # voxels 3, 4..5


def contour(
    points: list[tuple[float, ...]], k: float = 0.0, kind: str = "CLOSED_PLANAR", **other: Any
) -> Dataset:
    """A contour from voxel indices (i, j) or (i, j, k)."""
    index = np.array([(*p, k)[:3] for p in points], dtype=float).reshape(-1, 3)
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(index)
    item.ContourData = [f"{v:.6f}" for v in (index @ AFFINE_LPS[:3, :3].T + AFFINE_LPS[:3, 3]).ravel()]
    for keyword, value in other.items():
        setattr(item, keyword, value)
    return item


def referring(item: Dataset, uid: str, frame: int = 0) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = CTImageStorage, uid
    if frame:
        image.ReferencedFrameNumber = frame
    item.ContourImageSequence = [image]
    return item


def structure_set(
    *rois: list[Dataset], names: tuple[str, ...] = ("liver", "spleen", "node"), frame: str = "2.25.7"
) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, "2.25.1"
    dataset.Modality = "RTSTRUCT"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, contours in enumerate(rois, start=4):
        roi, outline, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, names[number - 4]
        roi.ReferencedFrameOfReferenceUID = frame
        outline.ReferencedROINumber = observation.ReferencedROINumber = number
        outline.ROIDisplayColor = [10 * number, 255, 0]
        outline.ContourSequence = contours
        observation.ObservationNumber = number
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(outline)
        dataset.RTROIObservationsSequence.append(observation)
    return dataset


@pytest.fixture
def save(tmp_path):
    def write(dataset: Dataset, syntax: str = ImplicitVRLittleEndian) -> Path:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / "rt.dcm"
        with pydicom_config.disable_value_validation():
            dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def read(save):
    def read_back(*rois: list[Dataset], like: ImageGrid = IMAGE, **other: Any):
        return read_rtstruct(save(structure_set(*rois, **other)), like=like)

    return read_back


def voxels(mask: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(int(v) for v in index) for index in np.argwhere(mask)}


BLOCK = {(i, j) for i in range(2, 6) for j in range(3, 7)}
HOLE = {(3, 4), (3, 5)}


def test_contours_fill_the_voxels_inside_them(read):
    structure = read([contour(SQUARE, 1), contour(SQUARE, 2)], [contour(INNER, 4)])
    assert voxels(structure.mask(4)) == {(*ij, k) for ij in BLOCK for k in (1, 2)}
    assert voxels(structure.mask(5)) == {(*ij, 4) for ij in HOLE}
    assert structure.notes == ()
    labels = structure.label_map()
    assert labels.shape == SHAPE
    assert [int((labels == n).sum()) for n in (1, 2)] == [32, 2]
    assert [(roi.number, roi.name, roi.colour) for roi in structure.rois] == [
        (4, "liver", "#28ff00"),
        (5, "spleen", "#32ff00"),
    ]
    assert structure.table().names == ("background", "liver", "spleen")


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_other_transfer_syntaxes(save, syntax):
    structure = read_rtstruct(save(structure_set([contour(SQUARE)]), syntax), like=IMAGE)
    assert voxels(structure.mask(4)) == {(*ij, 0) for ij in BLOCK}


@pytest.mark.filterwarnings("ignore:The value for the data element")
def test_coordinates_longer_than_explicit_vr_can_say(save):
    angles = np.linspace(0, 2 * np.pi, 3001)[:-1]
    circle = [(4 + 3.2 * np.cos(a), 5 + 3.2 * np.sin(a)) for a in angles]
    structure = read_rtstruct(save(structure_set([contour(circle)]), ExplicitVRLittleEndian), like=IMAGE)
    i, j = np.indices(SHAPE[:2])
    np.testing.assert_array_equal(structure.mask(4)[:, :, 0], np.hypot(i - 4, j - 5) < 3.2)


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_contour_in_a_contour_is_a_hole(read, kind):
    structure = read([contour(SQUARE, kind=kind), contour(INNER, kind=kind)])
    assert voxels(structure.mask(4)) == {(*ij, 0) for ij in BLOCK - HOLE}
    assert structure.notes == ()


def test_keyhole_is_a_hole(read):
    way, corner = (1.6, 3.4), INNER[0]
    points = [*SQUARE, way, corner, INNER[3], INNER[2], INNER[1], corner, way]
    assert voxels(read([contour(points)]).mask(4)) == {(*ij, 0) for ij in BLOCK - HOLE}


def test_points_and_open_lines_are_left_out_with_a_note(read):
    structure = read(
        [contour(SQUARE), contour([(3, 3)], kind="POINT"), contour(SQUARE, kind="OPEN_PLANAR")],
        [contour([(3, 3), (4, 4)])],
    )
    assert structure.notes == (
        "liver: contours that enclose nothing, left out: 2 (OPEN_PLANAR, POINT).",
        "spleen: contours that enclose nothing, left out: 1 (CLOSED_PLANAR).",
        "Without a closed contour in the image: spleen.",
    )
    assert structure.mask(4).sum() == 16
    assert not structure.mask(5).any()


def test_contours_that_stand_twice_are_taken_once(read):
    again = [*SQUARE[2:], *SQUARE[:2]][::-1]
    structure = read([contour(SQUARE), contour(again), contour(SQUARE, 1)])
    assert structure.mask(4).sum() == 32
    assert structure.notes == ("liver: contours that stand twice, taken once: 1.",)
    exclusive = read([contour(SQUARE, kind="CLOSEDPLANAR_XOR"), contour(again, kind="CLOSEDPLANAR_XOR")])
    assert not exclusive.mask(4).any()


def test_partial_overlap_gaps_and_edges_get_notes(read):
    shifted = [(i + 2, j) for i, j in SQUARE]
    beyond = [(i + 8, j) for i, j in SQUARE]
    assert read([contour(SQUARE), contour(shifted)]).notes == (
        "liver: slices on which contours overlap in part, and what two share counts as outside: 1.",
    )
    assert read([contour(SQUARE), contour(SQUARE, 3)]).notes == (
        "liver: slices between its contours without one, left empty: 2.",
    )
    cut = read([contour(beyond, 2)])
    assert cut.notes == ("liver: contours reach beyond the image and are cut at its border.",)
    assert voxels(cut.mask(4)) == {(i, j, 2) for i in (10, 11) for j in range(3, 7)}
    whole = read([contour([(1, 2), (4, 2), (4, 5), (1, 5)])])
    assert "run through voxel centres" in whole.notes[0]
    assert whole.mask(4).sum() == 9


def test_contours_on_slices_that_the_image_lacks_are_left_out(read):
    structure = read([contour(SQUARE), contour(SQUARE, -1), contour(SQUARE, 5.3)])
    assert structure.notes == ("liver: contours on no slice of the image, left out: 2.",)
    assert structure.mask(4).sum() == 16


def test_single_slice(read):
    one = ImageGrid(shape=SHAPE[:2], affine=IMAGE.affine, source=IMAGE.source)
    structure = read([contour(SQUARE), contour(SQUARE, 0.4), contour(SQUARE, 1)], like=one)
    assert structure.mask(4).shape == structure.label_map().shape == SHAPE[:2]
    assert voxels(structure.mask(4)) == BLOCK
    assert structure.notes == ("liver: contours on no slice of the image, left out: 2.",)


def test_contour_beside_its_slice_is_taken_onto_it_along_the_normal(read):
    normal = np.cross(*COSINES)
    step = normal @ AFFINE_LPS[:3, 2]
    item = contour([(1.95, 2.95), (5.05, 2.95), (5.05, 6.05), (1.95, 6.05)], 2)
    points = np.array(item.ContourData, dtype=float).reshape(-1, 3) + 0.09 * step * normal
    item.ContourData = [f"{v:.6f}" for v in points.ravel()]
    structure = read([item])
    assert voxels(structure.mask(4)) == {(*ij, 2) for ij in BLOCK}
    assert structure.notes == (
        f"liver: contours lie up to {0.09 * step:.3f} mm beside their slices and are taken onto them.",
    )


def test_contour_between_slices_is_refused(read):
    with pytest.raises(
        GeometryError,
        match=r"ROI 4 \(liver\), contour 2 lies 0\.450 mm from the nearest slice, 3 of 5 \(slice step 3\.000 mm",
    ):
        read([contour(SQUARE), contour(SQUARE, 2.15)])


def test_contour_across_slices_is_refused(read):
    tilted = [(i, j, 1 + 0.1 * i) for i, j in SQUARE]
    with pytest.raises(
        GeometryError, match=r"contour 1 is not parallel to the slices: its points spread 1\.140 mm"
    ):
        read([contour(tilted)])


def test_image_without_patient_geometry_is_refused(read):
    with pytest.raises(GeometryError, match="patient coordinates, which this image does not have"):
        read([contour(SQUARE)], like=ImageGrid(shape=SHAPE[:2]))


def test_overlapping_structures_have_masks_but_no_label_map(read):
    structure = read([contour(SQUARE)], [contour(INNER)], [contour(INNER), contour(SQUARE, 1)])
    assert structure.mask(5).sum() == 2
    with pytest.raises(LabelError, match=r"\(liver and spleen: 2 voxels; liver and node: 2 voxels\)"):
        structure.label_map()
    with pytest.raises(LabelError, match="no ROI has the number 7; known: 4, 5, 6"):
        structure.mask(7)


def test_another_frame_of_reference(read):
    with pytest.raises(
        GeometryError, match=r"frame of reference \.\.\.2\.25\.66, the image in \.\.\.2\.25\.7"
    ):
        read([contour(SQUARE)], frame="2.25.66")
    with pytest.raises(GeometryError, match="do not refer to the image's instances"):
        read(
            [referring(contour(SQUARE), "2.25.100"), referring(contour(SQUARE, 1), "2.25.999")],
            frame="2.25.66",
        )
    structure = read([referring(contour(SQUARE), "2.25.100")], frame="2.25.66")
    assert structure.notes == (
        "The frame of reference is not the image's, but the contours refer to the image's instances.",
    )
    unnamed = ImageGrid(shape=SHAPE, affine=IMAGE.affine)
    assert "does not name its frame of reference" in read([contour(SQUARE)], like=unnamed).notes[0]


def test_reference_to_another_slice_gets_a_note(read):
    items = [referring(contour(SQUARE, k), f"2.25.10{k}") for k in range(3)]
    assert read(items).notes == ()
    items[2] = referring(items[2], "2.25.104")
    structure = read(items)
    assert structure.notes == (
        "liver: contours that refer to another slice than the one they lie on, which counts: 1.",
    )
    frames = ImageGrid(
        shape=SHAPE,
        affine=IMAGE.affine,
        source=Source(
            paths=(Path("x"),),
            format="dicom",
            sop_instance_uids=("2.25.100",) * 5,
            frame_numbers=(5, 4, 3, 2, 1),
            frame_of_reference_uid="2.25.7",
        ),
    )
    assert read([referring(contour(SQUARE, 1), "2.25.100", 4)], like=frames).notes == ()
    assert (
        "refer to another slice" in read([referring(contour(SQUARE, 1), "2.25.100", 2)], like=frames).notes[0]
    )


def test_codes_sides_pairs_and_names(save):
    dataset = structure_set([], [], [], names=("kidney", "kidney", "background"))
    for side, observation in zip(("7771000", "24028007"), dataset.RTROIObservationsSequence[:2], strict=True):
        code, modifier = Dataset(), Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "64033007", "SCT", "Kidney"
        modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = side, "SCT", "side"
        code.SegmentedPropertyTypeModifierCodeSequence = [modifier]
        observation.RTROIIdentificationCodeSequence = [code]
    del dataset.ROIContourSequence[2]
    table = read_rtstruct(save(dataset), like=IMAGE).table()
    assert table.names == ("background", "kidney (4)", "kidney (5)", "background (6)")
    left, right, other = table.labels
    assert (left.side, left.pair, right.side, right.pair) == ("left", "kidney (5)", "right", "kidney (4)")
    assert left.code == right.code
    assert left.code.value == "64033007"
    assert (other.code, other.colour, other.side) == (None, "#808080", "none")


@pytest.mark.parametrize("colour", [["1", "2"], ["256", "0", "0"], ["a", "b", "c"], ["-1", "0", "0"]])
def test_colour_that_is_none_is_grey(save, colour):
    dataset = structure_set([contour(SQUARE)])
    with pydicom_config.disable_value_validation():
        dataset.ROIContourSequence[0].add_new("ROIDisplayColor", "LO", colour)
        assert read_rtstruct(save(dataset), like=IMAGE).rois[0].colour == "#808080"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"NumberOfContourPoints": 5}, "ROI 4, contour 2: it says it has 5 points, 4 are there"),
        ({"NumberOfContourPoints": -4}, "it says it has no number points, 4 are there"),
        ({"ContourData": ["1", "2", "3", "4"]}, "it has 4 coordinates, expected three for each point"),
        ({"ContourData": ["nan"] * 12}, "a coordinate is not a number within 1e"),
        ({"ContourData": ["1e300"] * 12}, "a coordinate is not a number within 1e"),
        ({"ContourData": ["inf"] * 12}, "a coordinate is not a number within 1e"),
        ({"ContourData": ["x"] * 12}, "ContourData holds a value that is not a number"),
        ({"ContourData": ["1_0"] * 12}, "ContourData holds a value that is not a number"),
        ({"ContourData": [""] * 12}, "ContourData holds a value that is not a number"),
        ({"ContourGeometricType": "BLOB"}, "its geometric type is BLOB, expected CLOSEDPLANAR_XOR, CLOSED"),
        ({"ContourGeometricType": ""}, "its geometric type is missing or unknown"),
        ({"ContourOffsetVector": ["0", "0", "5"]}, "it has an offset vector"),
    ],
)
def test_damaged_contours_are_refused(save, change, message):
    item = contour(SQUARE, 1)
    with pydicom_config.disable_value_validation():
        for keyword, value in change.items():
            # As text: pydicom would not let such numbers in.
            item.add_new(
                keyword,
                "UT" if keyword != "ContourGeometricType" else "CS",
                "\\".join(map(str, value)) if isinstance(value, list) else str(value),
            )
        path = save(structure_set([contour(SQUARE), item]))
    with pytest.raises(ImageReadError, match=message):
        read_rtstruct(path, like=IMAGE)


def test_damaged_sets_are_refused(save):
    doubled = structure_set([contour(SQUARE)], [])
    doubled.StructureSetROISequence[1].ROINumber = 4
    with pytest.raises(ImageReadError, match=r"two ROIs have one number \(numbers \[4, 4\]\)"):
        read_rtstruct(save(doubled), like=IMAGE)
    lost = structure_set([contour(SQUARE)], [contour(SQUARE)])
    del lost.StructureSetROISequence[1]
    with pytest.raises(ImageReadError, match="contours of ROI 5, which the structure set does not describe"):
        read_rtstruct(save(lost), like=IMAGE)
    other = structure_set([contour(SQUARE)])
    other.SOPClassUID = CTImageStorage
    with pytest.raises(ImageReadError, match="expected an RT structure set, found CT Image Storage"):
        read_rtstruct(save(other), like=IMAGE)
    flat = structure_set([contour(SQUARE)])
    flat.add_new("ROIContourSequence", "LO", "no items")
    with pytest.raises(ImageReadError):
        read_rtstruct(save(flat, ExplicitVRLittleEndian), like=IMAGE)


def test_endless_zigzag_is_refused(read):
    zigzag = [(i % 11, -50 if i % 2 else 60) for i in range(2000)]
    with pytest.raises(ImageReadError, match="cross the rows of slice 1 20000 times, the limit is 2920"):
        read([contour(zigzag)])


def test_too_many_points_are_refused(read, monkeypatch):
    monkeypatch.setattr(roi_contours, "_MAX_POINTS", 3)
    with pytest.raises(ImageReadError, match="ContourData has 12 values, the limit is 9"):
        read([contour(SQUARE)])


def test_too_large_a_file_is_refused(save):
    path = save(structure_set([contour(SQUARE)]))
    with pytest.raises(ImageReadError, match="max_file_mb"):
        read_rtstruct(path, like=IMAGE, limits=ReadLimits(max_file_mb=0))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_changed_bytes_give_a_structure_set_or_a_refusal(save, syntax):
    path = save(structure_set([contour(SQUARE), contour(INNER)], [contour(SQUARE, 1)]), syntax)
    good, chance = path.read_bytes(), random.Random(4)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(132, len(data))] = chance.choice((0, 0xFF, 0x5C, chance.randrange(256)))
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(132, len(data))))])
        with contextlib.suppress(MedsegError):
            structure = read_rtstruct(path, like=IMAGE)
            for roi in structure.rois:
                assert structure.mask(roi.number).shape == SHAPE
            structure.table()


def test_structure_set_of_another_program(shared_data):
    folder = shared_data / "dicom" / "rtstruct_two_slices"
    affine_lps = np.diag([0.48828125, 0.48828125, 5.0, 1.0])
    affine_lps[:3, 3] = [-125, -125, 60]
    uid = "2.16.840.1.114362.1.11940992.23790159890.563423471."
    grid = ImageGrid(
        shape=(512, 512, 2),
        affine=affine_lps_to_ras(affine_lps),
        source=Source(
            paths=(folder / "ct_1.dcm", folder / "ct_2.dcm"),
            format="dicom",
            sop_instance_uids=(uid + "893.87", uid + "985.89"),
            frame_of_reference_uid="1.2.3",
        ),
    )
    structure = read_rtstruct(folder / "rt.dcm", like=grid)
    assert [(roi.number, roi.name, roi.colour) for roi in structure.rois] == [(1, "ROI-1", "#a2885f")]
    assert structure.notes == (
        "The frame of reference is not the image's, but the contours refer to the image's instances.",
    )
    mask = structure.mask(1)
    assert not mask[:, :, 1].any()
    x, y = -125 + 0.48828125 * np.indices((512, 512))
    square = (x >= -51) & (x < -27) & (y >= -51) & (y < -27)
    hole = (x >= -47) & (x < -32) & (y >= -47) & (y < -32) & (x + y >= -93)
    np.testing.assert_array_equal(mask[:, :, 0], square & ~hole)
