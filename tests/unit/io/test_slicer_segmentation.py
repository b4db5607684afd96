"""Segmentations of 3D Slicer: ours read by SimpleITK, and what Slicer writes read by us."""

import gzip

import numpy as np
import pytest
import SimpleITK
from reviewed_results import SHAPE, TABLE, oblique, predicted

from medseg.errors import LabelError
from medseg.export.slicer import write_colour_table, write_slicer_segmentation
from medseg.io.slicer_segmentation import is_slicer_segmentation, read_slicer_segmentation
from medseg.io.write_image import write_image
from medseg.volume import Volume


@pytest.fixture
def like() -> Volume:
    return Volume(array=np.zeros((1, *SHAPE), np.int16), affine=oblique())


def nrrd(path, array, keys, *, kinds="domain domain domain", directions="(1,0,0) (0,2,0) (0,0,3)"):
    """An NRRD file as Slicer writes one, by hand."""
    head = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "type: unsigned char",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {directions}",
        f"kinds: {kinds}",
        "encoding: gzip",
        "space origin: (5,6,7)",
        *(f"{key}:={value}" for key, value in keys.items()),
    ]
    data = gzip.compress(array.astype(np.uint8).tobytes(order="F"))
    path.write_bytes(("\n".join(head) + "\n\n").encode() + data)
    return path


def test_a_second_reader_finds_voxels_place_names_and_colours(tmp_path, like):
    path = tmp_path / "mask.seg.nrrd"
    classes = predicted(1)
    write_slicer_segmentation(path, classes, like, TABLE)
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, TABLE.values[classes])
    at = image.TransformContinuousIndexToPhysicalPoint((3.0, 2.0, 5.0))
    np.testing.assert_allclose(np.array(at) * (-1, -1, 1), (oblique() @ (3, 2, 5, 1))[:3], atol=1e-9)
    assert image.GetMetaData("Segment1_Name") == "spleen"
    assert image.GetMetaData("Segment1_LabelValue") == "7"
    red, green, blue = map(float, image.GetMetaData("Segment0_Color").split())
    np.testing.assert_allclose((red, green, blue), (0xE8 / 255, 0x74 / 255, 0x3B / 255), atol=1e-6)


def test_written_and_read_are_the_same(tmp_path, like):
    path = tmp_path / "mask.seg.nrrd"
    write_slicer_segmentation(path, predicted(0), like, TABLE)
    found = read_slicer_segmentation(path)
    np.testing.assert_array_equal(found.volume.array[0], predicted(0))
    assert [(label.name, label.colour) for label in found.table.labels] == [
        (label.name, label.colour) for label in TABLE.labels
    ]
    np.testing.assert_allclose(found.volume.affine, oblique())


def test_layers_of_slicer_are_joined(tmp_path):
    array = np.zeros((2, 3, 4, 5), np.uint8)
    array[0, 1, 1, 1], array[1, 2, 2, 2], array[0, 0, 3, 4] = 1, 1, 2
    keys = {
        "Segment0_ID": "s0", "Segment0_Name": "one", "Segment0_Layer": "0", "Segment0_LabelValue": "1",
        "Segment1_ID": "s1", "Segment1_Name": "two", "Segment1_Layer": "1", "Segment1_LabelValue": "1",
        "Segment2_ID": "s2", "Segment2_Name": "three", "Segment2_Layer": "0", "Segment2_LabelValue": "2",
    }  # fmt: skip
    path = nrrd(
        tmp_path / "a.seg.nrrd",
        array,
        keys,
        kinds="list domain domain domain",
        directions="none (1,0,0) (0,2,0) (0,0,3)",
    )
    found = read_slicer_segmentation(path)
    label_map = found.volume.array[0]
    assert label_map.shape == (3, 4, 5)
    assert (label_map[1, 1, 1], label_map[2, 2, 2], label_map[0, 3, 4]) == (1, 2, 3)
    assert np.count_nonzero(label_map) == 3
    assert [label.name for label in found.table.labels] == ["one", "two", "three"]


def test_files_of_slicer_4_10_have_a_layer_for_each_segment(tmp_path):
    array = np.zeros((2, 3, 4, 5), np.uint8)
    array[0, 1, 1, 1] = array[1, 2, 2, 2] = 1
    keys = {"Segment0_ID": "s0", "Segment0_Name": "one", "Segment1_ID": "s1", "Segment1_Name": "two"}
    path = nrrd(
        tmp_path / "a.seg.nrrd",
        array,
        keys,
        kinds="list domain domain domain",
        directions="none (1,0,0) (0,2,0) (0,0,3)",
    )
    label_map = read_slicer_segmentation(path).volume.array[0]
    assert (label_map[1, 1, 1], label_map[2, 2, 2]) == (1, 2)


def test_overlaps_lost_voxels_and_double_names_are_refused(tmp_path):
    both = np.zeros((2, 3, 4, 5), np.uint8)
    both[:, 1, 1, 1] = 1
    keys = {"Segment0_Name": "one", "Segment0_Layer": "0", "Segment1_Name": "two", "Segment1_Layer": "1"}
    layers = {"kinds": "list domain domain domain", "directions": "none (1,0,0) (0,2,0) (0,0,3)"}
    with pytest.raises(LabelError, match="two and one overlap in 1 voxels"):
        read_slicer_segmentation(nrrd(tmp_path / "a.nrrd", both, keys, **layers))
    stray = np.zeros((3, 4, 5), np.uint8)
    stray[1, 1, 1] = 9
    with pytest.raises(LabelError, match="1 voxels have the value 9, which no segment names"):
        read_slicer_segmentation(nrrd(tmp_path / "b.nrrd", stray, {"Segment0_Name": "one"}))
    with pytest.raises(LabelError, match="two segments are named 'one'"):
        read_slicer_segmentation(
            nrrd(tmp_path / "c.nrrd", stray, {"Segment0_Name": "one", "Segment1_Name": "One"})
        )
    with pytest.raises(LabelError, match="segment 0 has the layer 'x'"):
        read_slicer_segmentation(nrrd(tmp_path / "d.nrrd", stray, {"Segment0_Layer": "x"}))


def test_other_nrrd_files_are_no_segmentations(tmp_path, like):
    write_image(tmp_path / "image.nrrd", like)
    assert not is_slicer_segmentation(tmp_path / "image.nrrd")
    with pytest.raises(LabelError, match="without segments"):
        read_slicer_segmentation(tmp_path / "image.nrrd")


def test_colour_table_lists_value_name_and_colour(tmp_path):
    write_colour_table(tmp_path / "labels.ctbl", TABLE)
    lines = (tmp_path / "labels.ctbl").read_text().splitlines()
    assert lines[1:] == ["0 background 0 0 0 0", "2 liver 232 116 59 255", "7 spleen 43 182 115 255"]
