"""Grad-CAM and occlusion of networks that look at one place; the randomisation test of maps that show the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.explain.gradcam import level_of, seg_grad_cam
from medseg.explain.occlusion import box_size, boxes_of, occlusion_maps
from medseg.explain.sanity import Step, judge, layers_of, randomisation_test
from medseg.explain.similarity import rank_correlation, structural_similarity
from medseg.explain.target import structure_channels, target_of
from medseg.labels import Label, LabelTable
from medseg.models.network import SegmentationNetwork
from medseg.models.options import UNetOptions
from medseg.models.registry import build_network
from medseg.transforms.image_view import ArrayView

TABLE = LabelTable(
    labels=(Label(name="disc", value=1, colour="#ff0000"), Label(name="ring", value=2, colour="#00ff00")),
    regions={"both": ("disc", "ring")},
)


class Spy(SegmentationNetwork):
    """Knows the class of every voxel from the values in one box of the image alone."""

    def __init__(self, box: tuple[slice, ...], *, dims: int = 2) -> None:
        options = UNetOptions(channels=(4, 8))
        super().__init__(options, spatial_dims=dims, in_channels=1, class_count=3)
        self.place, self.scale = box, nn.Parameter(torch.tensor(2.0))

    feature_count = 1
    head_names = ("head",)

    def encode(self, x):
        seen = torch.zeros_like(x)
        part = (slice(None), slice(None), *self.place)
        seen[part] = x[part]
        return [x, seen * self.scale]

    def decode(self, maps):
        score = maps[1].flatten(2).sum(2).reshape(-1, 1, *[1] * self.spatial_dims)
        score = score.expand(-1, 1, *maps[0].shape[2:])
        return [torch.cat([torch.zeros_like(score), score, -score], dim=1)]


def image(shape, seed=0):
    return ArrayView(np.random.default_rng(seed).uniform(0.5, 1, (1, *shape)).astype(np.float32))


def target(shape, name="disc"):
    label_map = np.zeros(shape, dtype=np.uint8)
    label_map[tuple(slice(n // 4, n // 2) for n in shape)] = 1
    label_map[tuple(slice(n // 2, 3 * n // 4) for n in shape)] = 2
    return target_of(label_map, TABLE, name)


@pytest.mark.parametrize(
    ("shape", "box"),
    [((24, 40), (slice(2, 6), slice(28, 36))), ((12, 16, 20), (slice(0, 4), slice(8, 12), slice(12, 20)))],
)
def test_both_maps_lie_where_the_network_looks(shape, box):
    network = Spy(box, dims=len(shape)).eval()
    view, goal = image(shape), target(shape)
    seen = np.zeros(shape, dtype=bool)
    seen[box] = True
    cam = seg_grad_cam(network, view, goal, level=1)
    assert (cam[seen] > 0).all()
    assert (cam[~seen] == 0).all()
    sides = [s.stop - s.start for s in box]
    found = occlusion_maps(network, view, goal, size=sides, fill="minimum", batch_size=3)
    assert found.logit[~_grown(seen, sides)].max() == 0
    assert seen[np.unravel_index(found.logit.argmax(), shape)]


def _grown(mask, sides):
    """The voxels that share a box with the mask."""
    grown = mask.copy()
    for axis, side in enumerate(sides):
        rolled = [np.roll(grown, k, axis) for k in range(-side, side + 1)]
        grown = np.logical_or.reduce(rolled)
    return grown


def test_the_fall_of_the_mean_logit_has_a_known_value():
    # One box that covers all the network sees takes all of its score away, down to that of the filling.
    shape, box = (16, 24), (slice(0, 4), slice(0, 6))
    network, view = Spy(box).eval(), image(shape)
    found = occlusion_maps(network, view, target(shape), size=(4, 6), fill="minimum")
    score = 2 * (view.array[0][box].sum() - view.array.min() * 24)
    assert found.boxes == 7 * 7
    assert found.base_logit == pytest.approx(2 * view.array[0][box].sum(), rel=1e-5)
    # The corner is covered by that box alone.
    assert found.logit[0, 0] == pytest.approx(score, rel=1e-4)


def test_windows_give_the_map_of_the_whole_where_all_lies_in_one():
    shape, box = (16, 24), (slice(4, 8), slice(2, 8))
    network, view, goal = Spy(box).eval(), image(shape), target(shape)
    whole = seg_grad_cam(network, view, goal, level=1)
    np.testing.assert_allclose(seg_grad_cam(network, view, goal, level=1, window=(16, 30)), whole)
    assert list(goal.windows((8, 12), overlap=0.0)) == [(slice(0, 8), slice(0, 12))]


def test_a_region_is_explained_by_the_class_that_each_voxel_got():
    goal = target((8, 12), "both")
    logits = torch.arange(3.0).reshape(1, 3, 1, 1).expand(1, 3, 8, 12)
    # 2 x 3 voxels of class 1 with logit 1, 2 x 3 of class 2 with logit 2.
    assert goal.scores(logits, (slice(0, 8), slice(0, 12))).item() == 6 * 1 + 6 * 2
    assert structure_channels(TABLE, "both", regions=(2, 1)) == {1: 1, 2: 0}


def test_a_structure_that_is_not_there_or_not_known_is_said():
    with pytest.raises(ConfigError, match="no such label or region; it has disc, ring, both"):
        target((8, 8), "heart")
    with pytest.raises(ConfigError, match="found none of it"):
        target_of(np.zeros((4, 6), dtype=np.uint8), TABLE, "disc")
    with pytest.raises(ConfigError, match="2 feature levels, 0"):
        level_of(Spy((slice(0, 2), slice(0, 2))).eval(), image((8, 8)), None, 7)
    with pytest.raises(ConfigError, match="--box 8 8"):
        box_size((8, 12), (8,))


def test_boxes_cover_the_image_to_its_end():
    boxes = boxes_of((10, 7), (4, 3))
    covered = np.zeros((10, 7), dtype=int)
    for box in boxes:
        covered[box] += 1
        assert covered[box].shape == (4, 3)
    assert covered.min() > 0


def small_network():
    options = UNetOptions(channels=(4, 8, 16))
    return build_network(options, spatial_dims=2, in_channels=1, class_count=3, seed=3).eval()


def test_layers_are_named_from_the_output_to_the_input():
    names = [layer.name for layer in layers_of(small_network(), torch.zeros(1, 1, 16, 24))]
    assert names == [
        "heads.0",
        "decoder.0",
        "up.0",
        "decoder.1",
        "up.1",
        "encoder.2",
        "encoder.1",
        "encoder.0",
    ]


def test_a_map_that_only_shows_the_image_fails_and_says_so():
    view = image((32, 24))
    edges = np.abs(np.gradient(view.array[0], axis=0))
    found = randomisation_test(
        small_network(), edges, lambda _: edges, example=torch.zeros(1, 1, 16, 24), draws=2
    )
    assert found.passed is False
    assert "FAILS" in found.sentence
    assert all(step.rank_correlation == pytest.approx(1) for step in found.steps)
    assert all(step.structural_similarity == pytest.approx(1) for step in found.steps)


def test_a_map_of_the_weights_alone_passes_and_the_network_stays_as_it_is():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def weights(net):
        return net.encoder[0][0][0].weight.detach().numpy().ravel()[:36].reshape(6, 6).copy()

    state = torch.get_rng_state()
    found = randomisation_test(network, weights(network), weights, example=torch.zeros(1, 1, 16, 24), draws=4)
    assert found.passed is True
    # Until its own layer is reached the map is the same.
    assert [step.rank_correlation for step in found.steps[:-1]] == pytest.approx([1] * 7)
    assert found.steps[-1].rank_correlation < 0.5
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_constant_maps_are_no_pass():
    found = judge([Step(layer="a", rank_correlation=None, structural_similarity=None)], draws=1)
    assert found.passed is None
    assert "do not use" in found.sentence


def test_similarities_have_known_values():
    ramp = np.arange(24.0).reshape(4, 6)
    assert rank_correlation(ramp, ramp**3) == pytest.approx(1)
    assert rank_correlation(ramp, -ramp) == pytest.approx(1)
    assert rank_correlation(ramp, ramp.max() - ramp) == pytest.approx(-1)
    assert rank_correlation(ramp, np.ones((4, 6))) is None
    assert structural_similarity(ramp, 7 * ramp) == pytest.approx(1)
    assert structural_similarity(ramp, np.zeros((4, 6))) is None
    noise = np.random.default_rng(0).uniform(size=(40, 50))
    assert structural_similarity(noise, np.random.default_rng(1).uniform(size=(40, 50))) < 0.3
