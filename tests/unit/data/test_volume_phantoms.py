import nibabel
import numpy as np
import pytest

from medseg.data.manifest import read_manifest
from medseg.data.volume_phantoms import LABELS, make_volume_phantom, write_volume_studies
from medseg.geometry import voxel_volume_mm3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_counted_volumes_are_those_of_the_formula(seed):
    phantom = make_volume_phantom(seed)
    for name, value in LABELS.items():
        counted = np.count_nonzero(phantom.mask == value) * voxel_volume_mm3(phantom.affine) / 1000
        assert counted == pytest.approx(phantom.volumes_ml[name], rel=0.05)
        assert phantom.image[phantom.mask == value].mean() == pytest.approx((0, 60, 110)[value], abs=8)


def test_studies_are_the_same_bytes_and_patients_come_back(tmp_path):
    paths = [write_volume_studies(tmp_path / name, cases=6, seed=3) for name in "ab"]
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    cases = read_manifest(paths[0])
    assert len({case.patient_id for case in cases}) == 5
    assert {case.columns["scanner"] for case in cases} == {"A", "B"}
    image, mask = nibabel.load(cases[0].images[0]), nibabel.load(cases[0].label)
    assert image.shape == mask.shape == (36, 30, 20)
    np.testing.assert_array_equal(image.affine, mask.affine)
