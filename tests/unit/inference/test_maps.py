"""Maps beside the mask: known values, on the grid of the image, in memory and in files alike."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medseg.export.nifti import write_maps
from medseg.inference.maps import STEPS, SourceMaps
from medseg.inference.members import LoadedMembers
from medseg.inference.options import MAP_NAMES, InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import Label, LabelTable
from medseg.transforms.options import Crop, Orient, Resize
from medseg.transforms.restore import restore_channel
from medseg.volume import Volume

TABLE = LabelTable(
    labels=tuple(Label(name=name, value=n, colour="#3aa0ff") for n, name in enumerate(("a", "b"), start=1))
)


class Shares(nn.Module):
    """Probabilities that depend on the voxel's own value."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = torch.sigmoid(self.factor * x)
        return torch.log(torch.cat([1 - share, share * 0.75, share * 0.25], dim=1))


def volume(*size):
    image = np.random.default_rng(0).normal(size=(1, *size)).astype(np.float32)
    return Volume(array=image, affine=np.diag([-1.0, 1.5, 2.0, 1.0]), spacing_mm=(1.0, 1.5, 2.0))


def predictor(*networks, steps=(), **more):
    members = LoadedMembers([lambda n=n: n for n in networks], device=torch.device("cpu"), keep=True)
    options = InferenceOptions(window=(6, 5, 4), overlap=0.5)
    return Predictor(members, steps=steps, table=TABLE, options=options, **more)


def test_maps_hold_probabilities_and_entropy_of_each_voxel():
    image = volume(9, 8, 7)
    found = predictor(Shares(), maps=("entropy", "probabilities")).predict(image)
    share = 1 / (1 + np.exp(-image.array[0].astype(np.float64)))
    parts = np.stack([1 - share, share * 0.75, share * 0.25])
    entropy = -(parts * np.log(parts)).sum(axis=0) / np.log(3)
    assert set(found.maps) == {"entropy", "probability_a", "probability_b"}
    for name, expected in (("entropy", entropy), ("probability_a", parts[1]), ("probability_b", parts[2])):
        np.testing.assert_allclose(found.maps[name] / STEPS, expected, atol=0.51 / STEPS)
    np.testing.assert_array_equal(found.label_map, predictor(Shares()).predict(image).label_map)


def test_maps_come_back_through_all_geometry():
    steps = (
        Orient(to="RAS"),
        Crop(method="box", start=(1, 0, 1), size=(10, 8, 6)),
        Resize(size=(7, 9, 6), keep_aspect=False),
    )
    image = volume(12, 9, 8)
    whole = predictor(Shares(), steps=steps, maps=("probabilities",))
    found = whole.predict(image)
    prepared = whole.probabilities(found.prepared.array)
    expected = restore_channel(prepared[1], found.grid, outside=0.0)
    np.testing.assert_allclose(found.maps["probability_a"] / STEPS, expected, atol=0.51 / STEPS)
    assert not found.maps["probability_a"][-1].any()


def test_a_ceiling_puts_the_same_maps_into_files(tmp_path):
    image = volume(9, 8, 7)
    networks = (Shares(), Shares(-1.0))
    plain = predictor(*networks, maps=MAP_NAMES).predict(image)
    bounded = predictor(*networks, maps=MAP_NAMES, max_bytes=1 << 36, scratch=tmp_path).predict(image)
    assert set(plain.maps) == {"entropy", "disagreement", "variance", "probability_a", "probability_b"}
    for name, values in plain.maps.items():
        assert isinstance(bounded.maps[name], np.memmap)
        np.testing.assert_array_equal(bounded.maps[name], values)
    assert list(tmp_path.iterdir()) == []


def test_variance_of_opposite_members():
    image = volume(9, 8, 7)
    found = predictor(Shares(), Shares(-1.0), maps=("variance",)).predict(image)
    share = 1 / (1 + np.exp(-image.array[0].astype(np.float64)))
    half = (share - 0.5) ** 2
    expected = half * (1 + 0.75**2 + 0.25**2)
    np.testing.assert_allclose(found.maps["variance"] / STEPS, expected, atol=0.51 / STEPS)


def test_spread_of_one_network_is_no_map():
    maps = SourceMaps(("disagreement", "entropy"), (3, 4), table=TABLE, members=1)
    assert set(maps.arrays) == {"entropy"}


def test_maps_are_written_as_fractions_and_old_ones_go(tmp_path):
    image = volume(9, 8, 7)
    found = predictor(Shares(), maps=("entropy", "probabilities")).predict(image)
    (tmp_path / "probability_old.nii.gz").write_bytes(b"x")
    (tmp_path / "disagreement.nii.gz").write_bytes(b"x")
    write_maps(tmp_path, found.maps, image)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("entropy.nii.gz", "probability_a.nii.gz", "probability_b.nii.gz"),
    ]
    read = nib.load(tmp_path / "entropy.nii.gz")
    assert read.get_data_dtype() == np.uint8
    np.testing.assert_allclose(read.get_fdata(), found.maps["entropy"] / STEPS, atol=1e-6)
    np.testing.assert_allclose(read.affine, image.affine)


@pytest.mark.parametrize("size", [(13, 7)])
def test_pictures_have_maps_too(size, tmp_path):
    image = Volume(array=np.random.default_rng(1).normal(size=(1, *size)).astype(np.float32))
    members = Predictor(Shares(), steps=(), table=TABLE, options=InferenceOptions(), maps=("entropy",))
    found = members.predict(image)
    write_maps(tmp_path, found.maps, image)
    assert nib.load(tmp_path / "entropy.nii.gz").shape == (*size, 1)
