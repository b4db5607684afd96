"""The part of an image that is looked at: the body, or what a coarse pass found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from medseg.geometry import GridMap
from medseg.inference.options import BodyOptions, CoarseOptions, InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.region import BodyMask, coarse_view, find_body, found_box, widened_box
from medseg.labels import Label, LabelTable
from medseg.transforms.image_view import ArrayView
from medseg.transforms.options import Orient, Resample, Standardise
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="organ", value=1, colour="#3aa0ff"),
        Label(name="vessel", value=2, colour="#b684f5"),
    )
)
STEPS = (Orient(to="RAS"), Resample(spacing_mm=(2.0, 2.0, 2.0)))
AFFINE = np.array([[0.0, -1.5, 0, 30], [-1.0, 0, 0, 40], [0, 0, 2.5, -9], [0, 0, 0, 1]])


class ByGray(nn.Module):
    """Organ from 500 to 900, vessel above; counts the voxels it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.voxels = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.voxels += x.numel()
        organ = torch.sigmoid((x - 500) / 20) * torch.sigmoid((900 - x) / 20)
        vessel = torch.sigmoid((x - 900) / 20)
        return torch.log(torch.cat([1 - organ - vessel + 1e-4, organ + 1e-6, vessel + 1e-6], dim=1))


def scan() -> Volume:
    """Air at -1000 HU, a body of 0 with a lung of -800, an organ of 700 with a vessel of 1100 in the body."""
    array = np.full((90, 60, 40), -1000, np.int16)
    array[25:70, 15:50, 2:38] = 0
    array[35:60, 30:44, 6:30] = -800
    array[40:52, 20:29, 10:20] = 700
    array[44:48, 22:26, 12:18] = 1100
    return Volume(array=array[None], affine=AFFINE, spacing_mm=(1.0, 1.5, 2.5))


def predictor(network=None, **options) -> Predictor:
    chosen = InferenceOptions.model_validate(
        {"window": (16, 16, 16), "overlap": 0.25, "batch_size": 2} | options
    )
    return Predictor(network or ByGray(), steps=STEPS, table=TABLE, options=chosen)


def test_the_body_is_found_with_its_lungs_and_a_margin():
    found = find_body(scan(), BodyOptions(threshold=-500, margin=0.0))
    assert found.step == (1, 1, 1)
    box = [np.flatnonzero(found.cells.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    # One voxel of margin is always there.
    assert [(int(b[0]), int(b[-1])) for b in box] == [(24, 70), (14, 50), (1, 38)]
    assert found.cells[26:69, 16:49, 3:37].all()
    assert find_body(scan(), BodyOptions(margin=0.0)).cells.sum() == found.cells.sum()


def test_specks_of_noise_are_no_body_and_large_images_are_sampled():
    array = np.zeros((2, 800, 900), np.float32)
    array[1, 300:500, 200:700] = 5
    array[0, 10, 10] = 5
    found = find_body(Volume(array=np.tile(array, (1, 2, 2))), BodyOptions(threshold=1, margin=0.1))
    assert found.step == (2, 2)
    assert not found.cells[0:20, 0:20].any()
    assert found.cells.any()


def test_a_box_of_the_prepared_image_touches_the_body_where_it_does_in_the_source():
    cells = np.zeros((9, 6, 4), np.bool_)
    cells[3, 2, 1] = True
    body = BodyMask(cells=cells, step=(10, 10, 10))
    # Axes change places, the first runs backwards, and a prepared voxel is two by two by four of the source.
    grid = GridMap.permute_flip((90, 60, 40), (1, 0, 2), (True, False, False))
    grid = grid.then(GridMap.resize((60, 90, 40), (30, 45, 10)))
    # Source rows 20 to 30 of axis 1 are 29 to 40 from the other end.
    inside = (slice(15, 20), slice(15, 20), slice(3, 5))
    assert body.touches(inside, grid)
    assert not body.touches((slice(22, 30), *inside[1:]), grid)
    assert not body.touches((inside[0], slice(23, 45), inside[2]), grid)
    assert not body.touches((*inside[:2], slice(7, 10)), grid)
    found = body.box(grid)
    assert found is not None
    assert all(
        abs(a.start - b.start) <= 1 and abs(a.stop - b.stop) <= 1 for a, b in zip(found, inside, strict=True)
    )


def test_boxes_grow_inside_the_image_and_to_a_window():
    box = (slice(4, 14), slice(0, 5), slice(30, 40))
    assert widened_box(box, (60, 50, 40), margin=0.5, least=(1, 1, 1)) == (
        slice(0, 19),
        slice(0, 7),
        slice(25, 40),
    )
    grown = widened_box(box, (60, 50, 40), margin=0, least=(32, 16, 64))
    assert [s.stop - s.start for s in grown] == [32, 16, 40]
    assert all(g.start <= s.start and g.stop >= s.stop for g, s in zip(grown, box, strict=True))


def test_only_the_body_is_shown_and_the_mask_in_it_is_that_of_all():
    whole, part = ByGray(), ByGray()
    wanted = predictor(whole).predict(scan())
    found = predictor(part, body={"threshold": -500, "margin": 0.05}).predict(scan())
    assert part.voxels < 0.8 * whole.voxels
    assert found.notes[-1].startswith("Only the box of the body")
    assert np.mean(found.label_map == wanted.label_map) > 0.9999
    assert set(np.unique(found.label_map)) == {0, 1, 2}
    np.testing.assert_array_equal(found.whole.image.shape, wanted.prepared.image.shape)


def test_windows_between_parts_of_the_body_are_left_out():
    array = np.full((120, 30, 24), -1000, np.int16)
    array[:24, 8:20, 8:16] = array[96:, 8:20, 8:16] = 700
    volume = Volume(array=array[None], affine=np.diag([2.0, 2, 2, 1]), spacing_mm=(2.0, 2.0, 2.0))
    found = predictor(body={"threshold": -500, "margin": 0.0}, overlap=0.0).predict(volume)
    assert found.windows["outside"] > 0
    np.testing.assert_array_equal(found.label_map, predictor(overlap=0.0).predict(volume).label_map)


def test_an_implausible_body_is_not_believed():
    found = predictor(body={"threshold": 1050, "min_share": 0.2}).predict(scan())
    assert "so the network was shown all of it" in found.notes[-1]
    np.testing.assert_array_equal(found.label_map, predictor().predict(scan()).label_map)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_coarse_pass_finds_where_to_look(factor):
    found = predictor(coarse={"factor": factor, "margin": 0.4}, overlap=0.5).predict(scan())
    wanted = predictor(overlap=0.5).predict(scan())
    assert found.passes == 2
    assert "A coarse pass found the structures in" in found.notes[-1]
    assert math.prod(found.prepared.image.shape) < 0.5 * math.prod(wanted.prepared.image.shape)
    assert np.mean(found.label_map == wanted.label_map) > 0.9999


def test_a_coarse_pass_that_finds_nothing_leaves_the_whole_image():
    empty = Volume(
        array=np.random.default_rng(0).normal(0, 5, (1, 40, 40, 30)),
        affine=AFFINE,
        spacing_mm=(1.0, 1.5, 2.5),
    )
    found = predictor(coarse={}).predict(empty)
    assert found.passes == 1
    assert "did not find what it looked for" in found.notes[-1]
    assert not found.label_map.any()


def test_body_and_coarse_pass_go_together():
    found = predictor(body={"threshold": -500}, coarse={"margin": 0.4}).predict(scan())
    assert [note.split()[0] for note in found.notes[-2:]] == ["Only", "A"]
    assert np.mean(found.label_map == predictor().predict(scan()).label_map) > 0.9999


def test_named_structures_must_all_be_found():
    labels = np.zeros((10, 9, 8), np.uint8)
    labels[2:5, 3:6, 2:4] = 1
    _, grid = coarse_view(ArrayView(np.zeros((1, 20, 18, 16), np.float32)), 2.0)
    box = found_box(labels, grid, CoarseOptions(margin=0.0), TABLE, least=(1, 1, 1))
    assert box == (slice(4, 10), slice(6, 12), slice(4, 8))
    assert found_box(labels, grid, CoarseOptions(labels=("organ",)), TABLE, least=(1, 1, 1)) is not None
    assert found_box(labels, grid, CoarseOptions(labels=("organ", "vessel")), TABLE, least=(1, 1, 1)) is None
    assert found_box(labels * 0, grid, CoarseOptions(), TABLE, least=(1, 1, 1)) is None


def test_normalisation_is_that_of_the_whole_image():
    steps = (*STEPS, Standardise())
    options = InferenceOptions(window=(16, 16, 16), body=BodyOptions(threshold=-500))
    found = Predictor(ByGray(), steps=steps, table=TABLE, options=options).predict(scan())
    whole, part = found.whole.array, found.prepared.array
    assert part.size < whole.size
    assert abs(float(whole.mean())) < 1e-3 < abs(float(part.mean()))


def test_refine_and_coarse_are_one_too_many():
    with pytest.raises(ValidationError, match="refine and coarse are both second passes"):
        InferenceOptions.model_validate({"refine": {}, "coarse": {}})
