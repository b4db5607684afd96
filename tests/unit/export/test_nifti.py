import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import GeometryError, LabelError
from medseg.export.nifti import write_itksnap_labels, write_segmentation
from medseg.volume import Source, Volume

OBLIQUE = np.array([[0.0, -0.7, 0.2, 5], [0.8, 0.1, 0.0, -3], [0.1, 0.0, 2.5, 7], [0, 0, 0, 1]])


def volume(*shape, **facts):
    return Volume(array=np.zeros((1, *shape), np.float32), **facts)


def test_values_and_oblique_grid(tmp_path, table):
    label_map = np.random.default_rng(0).integers(0, 4, size=(7, 6, 5)).astype(np.uint8)
    image = volume(7, 6, 5, affine=OBLIQUE, spacing_mm=tuple(np.linalg.norm(OBLIQUE[:3, :3], axis=0)))
    write_segmentation(tmp_path / "segmentation.nii.gz", label_map, image, table)
    read = nib.load(tmp_path / "segmentation.nii.gz")
    np.testing.assert_array_equal(np.asarray(read.dataobj), np.array([0, 1, 2, 9])[label_map])
    np.testing.assert_allclose(read.affine, OBLIQUE, atol=1e-6)


def test_sidecar_says_what_the_values_mean(tmp_path, table, label_map):
    image = volume(
        *label_map.shape,
        spacing_mm=(0.2, 0.3),
        spacing_origin="imager_pixel_spacing",
        patient_orientation=("L", "F"),
        modality="DX",
        pixel_sha256="pixels",
        source=Source(
            paths=(tmp_path / "Somebody.dcm",), format="dicom", sha256="file", sop_instance_uids=("2.25.1",)
        ),
    )
    sidecar = write_segmentation(
        tmp_path / "segmentation.nii.gz", label_map, image, table, notes=["Heart not found."]
    )
    assert sidecar == tmp_path / "segmentation.json"
    value = json.loads(sidecar.read_text())
    assert [(item["name"], item["value"], item["segment_number"]) for item in value["labels"]] == [
        ("lung_right", 1, 1),
        ("lung_left", 2, 2),
        ("heart", 9, 3),
    ]
    assert [item["voxels"] for item in value["labels"]] == [int((label_map == n).sum()) for n in (1, 2, 3)]
    assert value["labels"][0]["code"] == {"scheme": "SCT", "value": "3341006", "meaning": "Right lung"}
    assert value["grid"] == {
        "shape": [53, 61],
        "affine": None,
        "world": None,
        "spacing_mm": [0.2, 0.3],
        "spacing_origin": "imager_pixel_spacing",
        "patient_orientation": ["L", "F"],
    }
    assert value["source"] == {
        "format": "dicom",
        "modality": "DX",
        "sha256": "file",
        "pixel_sha256": "pixels",
    }
    assert value["sha256"] == hashlib.sha256((tmp_path / "segmentation.nii.gz").read_bytes()).hexdigest()
    assert value["regions"] == {"lung": ["lung_right", "lung_left"]}
    assert "Somebody" not in sidecar.read_text()


def test_unknown_spacing_stays_unknown(tmp_path, table, label_map):
    write_segmentation(tmp_path / "s.nii", label_map, volume(*label_map.shape), table)
    assert json.loads((tmp_path / "s.json").read_text())["grid"]["spacing_mm"] is None
    assert nib.load(tmp_path / "s.nii").header.get_xyzt_units()[0] == "unknown"


def test_same_result_same_bytes(tmp_path, table, label_map):
    for name in ("a", "b"):
        write_segmentation(tmp_path / name / "s.nii.gz", label_map, volume(*label_map.shape), table)
    for file in ("s.nii.gz", "s.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_other_grids_and_unknown_classes_are_refused(tmp_path, table, label_map):
    with pytest.raises(GeometryError, match=r"expected a label map of shape \(61, 53\), found \(53, 61\)"):
        write_segmentation(tmp_path / "s.nii.gz", label_map, volume(61, 53), table)
    label_map[3, 3] = 7
    with pytest.raises(LabelError, match=r"class indices must be 0..3, found 0..7"):
        write_segmentation(tmp_path / "s.nii.gz", label_map, volume(*label_map.shape), table)
    assert list(tmp_path.iterdir()) == []


def test_itksnap_labels(tmp_path, table):
    write_itksnap_labels(tmp_path / "labels.txt", table)
    lines = (tmp_path / "labels.txt").read_text().splitlines()
    assert lines[0].split() == ["0", "0", "0", "0", "0", "0", "0", '"Clear', 'Label"']
    assert lines[3].split() == ["9", "255", "176", "58", "1", "1", "1", '"heart"']
