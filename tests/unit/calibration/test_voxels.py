"""Which voxels are looked at, and that blocks add up to what the whole says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.calibration.look import fit_record, look_at, summarise_looks
from medseg.calibration.voxels import FOREGROUND, VoxelWatch, margin_voxels
from medseg.geometry import GridMap
from medseg.inference.blended_ensemble import BlendedBlock
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import Label, LabelTable
from medseg.transforms.options import Resample
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(Label(name="liver", value=1, colour="#ff0000"), Label(name="spleen", value=2, colour="#00ff00")),
    regions={"organs": ("liver", "spleen")},
)
SHAPE = (20, 14, 10)
UNKNOWN = len(TABLE.sets) - 1


def reference():
    sets = np.zeros(SHAPE, dtype=np.int16)
    sets[5:9, 4:8, 3:6] = 1
    sets[10:12, 4:8, 3:6] = 2
    return sets


def probabilities(seed=0):
    logits = np.random.default_rng(seed).normal(0, 2, size=(3, *SHAPE)).astype(np.float32)
    logits[0] += 4
    return torch.softmax(torch.from_numpy(logits), dim=0)


def blocks(values, *cuts):
    for start, stop in zip((0, *cuts), (*cuts, SHAPE[0]), strict=True):
        place = (slice(start, stop), slice(0, SHAPE[1]), slice(0, SHAPE[2]))
        yield BlendedBlock(
            place=place, values=values[:, place[0]], probabilities=values[:, place[0]], spread=None
        )


def watched(values, *cuts, sets=None, margin=(2, 1, 3)):
    watch = VoxelWatch(reference() if sets is None else sets, TABLE, margin=margin, scaled=False, seed=3)
    for block in blocks(values, *cuts):
        watch.add(block, block.probabilities)
    return watch


def test_blocks_add_up_to_the_whole():
    values = probabilities()
    whole, parts = watched(values), watched(values, 4, 6, 11)
    for name, sums in whole.unscaled().items():
        np.testing.assert_allclose(parts.unscaled()[name].row(), sums.row(), rtol=1e-9)
    np.testing.assert_array_equal(whole.sample.values, parts.sample.values)
    np.testing.assert_array_equal(whole.sample.allowed, parts.sample.allowed)


def test_voxels_of_the_box_and_likely_ones_anywhere_count():
    values = probabilities()
    found = watched(values).unscaled()
    box = np.zeros(SHAPE, dtype=bool)
    box[3:11, 3:9, 0:9] = True
    likely = values[1].numpy()
    taken = box | (likely >= 0.5)
    assert (likely >= 0.5)[~box].sum() > 3
    assert found["liver"].table[:, 0].sum() == taken.sum()
    assert found["liver"].table[:, 2].sum() == 48
    assert found["liver"].squares == pytest.approx(
        ((likely - (reference() == 1))[taken] ** 2).sum(), rel=1e-6
    )
    np.testing.assert_array_equal(found["organs"].row(), found[FOREGROUND].row())


def test_what_the_reference_does_not_tell_counts_for_nothing():
    sets = reference()
    sets[5:9, 4:8, 5] = UNKNOWN
    values = probabilities()
    found = watched(values, sets=sets, margin=(99, 99, 99)).unscaled()
    assert found["liver"].table[:, 0].sum() == np.prod(SHAPE) - 16
    absent = watched(values, sets=np.zeros(SHAPE, np.int16)).unscaled()
    assert absent["spleen"].table[:7].sum() == 0
    assert absent["spleen"].table[:, 0].sum() == (values[2] >= 0.5).sum()


def test_margin_is_three_millimetres_or_a_fiftieth():
    grid = GridMap.resize((40, 30, 20), (20, 30, 60))
    assert margin_voxels(grid, (1.0, 0.7, 5.0)) == (2, 5, 2)
    assert margin_voxels(grid, None) == (2, 2, 2)


class Blobs(torch.nn.Module):
    """Logits that are the image, several times as sure as the reference is drawn by."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), 2.0 * x, 0.0 * x - 60], dim=1)


def drawn_case(seed):
    """An image whose values are the log-odds of the liver, and a reference that is drawn by them."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 2, size=(24, 18, 12)).astype(np.float32)
    sets = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.int16)
    volume = Volume(array=odds[None], affine=np.diag([1.0, 1.5, 2.0, 1.0]), spacing_mm=(1.0, 1.5, 2.0))
    return volume, sets[None]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_temperature_of_a_model_that_is_twice_as_sure_is_two(average):
    predictor = Predictor(
        Blobs(), steps=(), table=TABLE, options=InferenceOptions(window=(16, 16, 12), average=average)
    )
    looks = [look_at(predictor, *drawn_case(k), patient_id=str(k), seed=k) for k in range(4)]
    record = fit_record(looks, predictor.scaling, TABLE, data="drawn cases")
    assert record.temperature.value == pytest.approx(2.0, rel=0.08)
    assert record.data == "drawn cases: 4 images of 4 patients"
    assert "at least 9" in record.sizes["liver"].reason or record.sizes["liver"].cases == 0
    calibrated = Predictor(
        Blobs(), steps=(), table=TABLE, options=InferenceOptions(window=(16, 16, 12), average=average),
        temperature=record.temperature.value,
    )  # fmt: skip
    looks = [look_at(calibrated, *drawn_case(k), patient_id=str(k)) for k in range(10, 14)]
    found = summarise_looks(looks, temperature=record.temperature.value, data="others", samples=100)
    assert found.calibrated["liver"].measures["ece"] < 0.03 < found.unscaled["liver"].measures["ece"]
    told = found.to_json()
    assert set(told) >= {"bins", "ece", "mce", "brier", "nll", "temperature", "structures", "region"}
    assert set(told["structures"]) == {"liver", "spleen", "organs"}
    assert [row["state"] for row in found.rows()[:2]] == ["network", "calibrated"]
    assert {"structure", "confidence", "accuracy", "count"} <= set(found.bin_rows()[0])


def test_other_grids_and_tilted_slices_are_looked_at_in_bounded_parts():
    volume, sets = drawn_case(1)
    affine = volume.affine.copy()
    affine[0, 2] = 0.6
    tilted = Volume(array=volume.array, affine=affine, spacing_mm=volume.spacing_mm)
    predictor = Predictor(
        Blobs(),
        steps=(Resample(spacing_mm=(2.0, 1.5, 1.5)),),
        table=TABLE,
        options=InferenceOptions(window=(8, 8, 8)),
    )
    for one in (volume, tilted):
        look = look_at(predictor, one, sets, patient_id="a")
        assert look.unscaled[FOREGROUND].table[:, 0].sum() > 500
        assert look.sizes["liver"].reference == sets.sum()
