"""Ensembles: the mean of the members' answers, one member in memory at a time."""

import gc
import weakref

import numpy as np
import pytest
import torch

from medseg.inference.members import LoadedMembers
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import Label, LabelTable
from medseg.models.options import SmallUNetOptions
from medseg.models.registry import build_network
from medseg.transforms.options import Normalise
from medseg.volume import Volume

TABLE = LabelTable(
    labels=tuple(Label(name=name, value=n, colour="#3aa0ff") for n, name in enumerate("ab", start=1))
)
IMAGE = np.random.default_rng(3).normal(size=(1, 10, 9, 8)).astype(np.float32)
SEEDS = (1, 2, 3)


def network(seed):
    options = SmallUNetOptions(channels=(8, 8))
    built = build_network(options, spatial_dims=3, in_channels=1, class_count=3, seed=seed)
    with torch.no_grad():
        for value in built.parameters():
            value.mul_(3)
    return built.eval()


class Shelf:
    """Makes members and counts those that are alive."""

    def __init__(self):
        self.alive = weakref.WeakSet()
        self.most, self.loads = 0, 0

    def load(self, seed):
        def make():
            made = network(seed)
            self.alive.add(made)
            self.loads += 1
            self.most = max(self.most, len(self.alive))
            return made

        return make


def predictor(networks, *, window=(8, 8, 8), **options):
    chosen = InferenceOptions(window=window, overlap=0.5, **options)
    return Predictor(networks, steps=(Normalise(method="range"),), table=TABLE, options=chosen)


def members(shelf, *, keep=False):
    return LoadedMembers([shelf.load(seed) for seed in SEEDS], device=torch.device("cpu"), keep=keep)


@pytest.fixture(scope="module")
def single():
    """Probabilities of each member by itself."""
    return np.stack([predictor(network(seed)).probabilities(IMAGE) for seed in SEEDS])


def test_the_answer_is_the_mean_of_the_probabilities(single):
    found = predictor(members(Shelf())).probabilities(IMAGE)
    np.testing.assert_allclose(found, single.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert np.ptp(single, axis=0).max() > 0.1, "members that agree prove nothing"


def test_the_mean_of_logits_is_the_normalised_geometric_mean_of_a_window():
    found = predictor(members(Shelf()), window=None, ensemble="logits").probabilities(IMAGE)
    single = np.stack([predictor(network(seed), window=None).probabilities(IMAGE) for seed in SEEDS])
    expected = np.exp(np.log(single.astype(np.float64)).mean(axis=0))
    np.testing.assert_allclose(found, expected / expected.sum(axis=0), rtol=1e-4, atol=1e-6)


def test_one_network_is_not_changed_by_the_kind_of_mean():
    found = [
        predictor(network(1), ensemble=kind).probabilities(IMAGE) for kind in ("probabilities", "logits")
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_one_member_is_in_memory_at_a_time():
    shelf = Shelf()
    runner = predictor(members(shelf))
    for _ in range(2):
        runner.predict(Volume(array=IMAGE, affine=np.eye(4), spacing_mm=(1.0, 1.0, 1.0)))
    gc.collect()
    assert shelf.most == 1
    assert not shelf.alive
    assert shelf.loads == 2 * (len(SEEDS) + 1), (
        "each for the one batch of four windows, the first again for its features"
    )


def test_small_members_are_kept():
    shelf = Shelf()
    runner = predictor(members(shelf, keep=True))
    for _ in range(2):
        runner.probabilities(IMAGE)
    assert (shelf.loads, len(shelf.alive)) == (3, 3)


def test_features_are_those_of_the_first_member():
    np.testing.assert_array_equal(
        predictor(members(Shelf())).features(IMAGE), predictor(network(SEEDS[0])).features(IMAGE)
    )
