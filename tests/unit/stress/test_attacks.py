"""FGSM and PGD: the ball, the harm they do, windows, units; trainings that are attacked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.stress.attacks import Attacker, epsilon_of, source_units
from medseg.training.adversarial import attacked_batch
from medseg.training.attacks import Ball, fgsm, pgd
from medseg.training.options import AdversarialOptions, TrainingOptions


class Bright(nn.Module):
    """Foreground where a smoothed image is above a half: a rule that small changes can break."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.smooth.weight.data.fill_(1 / 9)

    def forward(self, x):
        score = 20 * (torch.tanh(self.smooth(x)) - 0.45)
        return torch.cat([-score, score], dim=1)


def cross_entropy(logits, label):
    return nn.functional.cross_entropy(logits, label[:, 0])


class CrossEntropy(nn.Module):
    def forward(self, logits, label):
        return cross_entropy(logits, label)


def case(seed, shape=(24, 18)):
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    disc = (rows - random.uniform(8, 14)) ** 2 + (columns - random.uniform(7, 11)) ** 2 < 30
    image = 0.3 + 0.35 * disc + random.normal(0, 0.03, shape)
    return image[None].astype(np.float32), disc[None].astype(np.int16)


def dice(network, image, sets):
    with torch.no_grad():
        found = network(torch.from_numpy(image)[None]).argmax(1).numpy()
    return 2 * (found & sets).sum() / (found.sum() + sets.sum())


def test_pgd_stays_in_the_ball_and_does_no_less_harm_than_fgsm():
    network = Bright().eval()
    attacker = Attacker(networks=[network], loss=CrossEntropy())
    scores = {"clean": [], "fgsm": [], "pgd": []}
    for seed in range(6):
        image, sets = case(seed)
        epsilon = 0.06
        scores["clean"].append(dice(network, image, sets))
        for kind in ("fgsm", "pgd"):
            found = attacker.attacked(image, sets, kind, epsilon, seed=seed)
            assert np.abs(found - image).max() <= epsilon + 1e-6
            assert image.min() <= found.min()
            assert found.max() <= image.max()
            scores[kind].append(dice(network, found, sets))
    means = {kind: np.mean(values) for kind, values in scores.items()}
    assert means["pgd"] <= means["fgsm"] + 1e-9
    assert means["fgsm"] < means["clean"] - 0.05


def test_windows_side_by_side_are_attacked_one_by_one():
    network = Bright().eval()
    image, sets = case(1)
    attacker = Attacker(networks=[network, network], loss=CrossEntropy(), window=(12, 18))
    found = attacker.attacked(image, sets, "fgsm", 0.05)
    half = Attacker(networks=[network], loss=CrossEntropy()).attacked(
        image[:, :12], sets[:, :12], "fgsm", 0.05
    )
    np.testing.assert_allclose(found[:, :12], half, atol=1e-6)
    again = attacker.attacked(image, sets, "pgd", 0.05, seed=3, steps=2)
    np.testing.assert_array_equal(again, attacker.attacked(image, sets, "pgd", 0.05, seed=3, steps=2))


def test_fgsm_is_one_step_along_the_sign():
    image = torch.tensor([[[[0.0, 0.4, 1.0]]]])
    weights = torch.tensor([2.0, -3.0, 1.0])
    ball = Ball.around(image, 0.1)
    found = fgsm(lambda x: (x * weights).sum(), ball)
    # The last value is the largest of the image and may not grow.
    torch.testing.assert_close(found, torch.tensor([[[[0.1, 0.3, 1.0]]]]))
    far = pgd(lambda x: (x * weights).sum(), ball, steps=4)
    torch.testing.assert_close(far, found)


def test_epsilon_in_both_units():
    source = np.linspace(-1000, 1000, 400, dtype=np.float32).reshape(20, 20)
    prepared = np.clip((source + 500) / 1000, 0, 1)
    assert source_units(prepared, source) == pytest.approx(1000, rel=1e-4)
    assert source_units(prepared, np.random.default_rng(0).uniform(size=(20, 20)).astype(np.float32)) is None
    assert epsilon_of(source, 1.0) == pytest.approx(0.01 * 0.99 * 2000, rel=1e-2)


def test_batches_are_attacked_by_chance_within_their_own_range():
    image = torch.rand(3, 1, 8, 6) * torch.tensor([1.0, 10, 100]).reshape(3, 1, 1, 1)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)).train()
    mean = network[1].running_mean.clone()

    def loss(x):
        return network(x).square().mean()

    for use in ("fgsm", "pgd"):
        options = AdversarialOptions(use=use, probability=1, epsilon=2)
        change = (attacked_batch(loss, image, network, options) - image).abs().amax(dim=(1, 2, 3))
        spread = image.amax(dim=(1, 2, 3)) - image.amin(dim=(1, 2, 3))
        assert (change <= 0.02 * spread * 1.0001).all()
        assert (change > 0.01 * spread).all()
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.manual_seed(0)
    kept = [
        attacked_batch(loss, image, network, AdversarialOptions(use="fgsm", probability=0.3)) is image
        for _ in range(60)
    ]
    assert 0.5 < np.mean(kept) < 0.9


def test_it_is_off_unless_asked_for():
    assert TrainingOptions().adversarial is None
    assert TrainingOptions.model_validate({"adversarial": {"use": "fgsm"}}).adversarial.probability == 0.5
