"""How far members are apart: known answers, with one forward of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.inference.confidence import ConfidenceTally
from medseg.inference.members import LoadedMembers
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.spread import MemberSpread
from medseg.labels import Label, LabelTable
from medseg.volume import Volume

TABLE = LabelTable(
    labels=tuple(Label(name=name, value=n, colour="#3aa0ff") for n, name in enumerate(("a", "b"), start=1))
)


def certain(*classes):
    """(1, 3, voxels) probabilities of one class each."""
    found = torch.zeros(1, 3, len(classes))
    for voxel, index in enumerate(classes):
        found[0, index, voxel] = 1
    return found


def spread_of(*answers):
    spread = MemberSpread()
    for answer in answers:
        spread.add(answer)
    return spread.channels()[0]


def test_pairs_that_name_different_classes_are_counted():
    apart, variance = spread_of(certain(0, 1, 1), certain(0, 1, 2), certain(0, 2, 0))
    torch.testing.assert_close(apart, torch.tensor([0.0, 2 / 3, 1.0]))
    # Sum over classes of p (1 - p) for the shares 1; 2/3, 1/3; 1/3 each.
    torch.testing.assert_close(variance, torch.tensor([0.0, 4 / 9, 2 / 3]), atol=1e-6, rtol=0)


def test_members_of_one_opinion_may_still_vary():
    sure, unsure = torch.tensor([[[0.1], [0.9], [0.0]]]), torch.tensor([[[0.3], [0.7], [0.0]]])
    apart, variance = spread_of(sure, unsure)
    assert float(apart) == 0
    assert float(variance) == pytest.approx(2 * 0.1**2, abs=1e-6)


def test_the_tally_gives_means_over_the_mask():
    tally = ConfidenceTally((2, 2), TABLE)
    values = torch.zeros(3, 2, 2)
    values[0], values[1, 0, :], values[0, 0, :] = 1, 1, 0
    spread = torch.tensor([[[0.5, 0.1], [0.2, 0.0]], [[0.25, 0.05], [0.0, 0.0]]])
    tally.add((slice(0, 2), slice(0, 2)), values, spread)
    found = tally.labels()
    assert set(found) == {"a"}
    assert found["a"]["disagreement"] == pytest.approx(0.3)
    assert found["a"]["variance"] == pytest.approx(0.15)
    assert tally.disagreement() == pytest.approx({"image": 0.2, "foreground": 0.3})


class Opinion(nn.Module):
    """Class 1 left of a column, background right of it; counts its calls."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column, self.calls = column, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        inside = torch.zeros_like(x[:, :1])
        inside[:, :, : self.column] = 1
        return torch.cat([1 - inside, inside, torch.zeros_like(inside)], dim=1) * 40


@pytest.mark.parametrize("ensemble", ["probabilities", "logits"])
def test_an_ensemble_tells_it_at_no_second_pass(ensemble):
    networks = [Opinion(4), Opinion(4), Opinion(6)]
    members = LoadedMembers([lambda n=n: n for n in networks], device=torch.device("cpu"), keep=True)
    predictor = Predictor(members, steps=(), table=TABLE, options=InferenceOptions(ensemble=ensemble))
    found = predictor.predict(Volume(array=np.zeros((1, 10, 5), np.float32)))
    assert [network.calls for network in networks] == [1, 1, 1]
    assert found.confidence["a"]["disagreement"] == pytest.approx(0, abs=1e-6)
    # Two of the ten columns are named by one of three: two of three pairs differ there.
    assert found.disagreement["image"] == pytest.approx(0.2 * 2 / 3, abs=1e-6)
    assert found.label_map[:4].all()
    assert not found.label_map[4:].any()


def test_one_network_has_no_disagreement():
    predictor = Predictor(Opinion(4), steps=(), table=TABLE, options=InferenceOptions())
    found = predictor.predict(Volume(array=np.zeros((1, 10, 5), np.float32)))
    assert found.disagreement == {}
    assert set(found.confidence["a"]) == {"mean_probability", "uncertain_share", "entropy"}


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
@pytest.mark.parametrize("sums", ["float32", "float16"])
def test_windows_that_are_not_shown_are_background_on_which_members_agree(names, sums):
    table = LabelTable(
        labels=tuple(Label(name=name, value=n, colour="#3aa0ff") for n, name in enumerate(names, start=1))
    )
    networks = [Opinion(4), Opinion(6)]
    members = LoadedMembers([lambda n=n: n for n in networks], device=torch.device("cpu"), keep=True)
    more = {"average": "logits", "sums": sums, "window": (4, 5)} if sums == "float16" else {}
    ensemble = Predictor(members, steps=(), table=table, options=InferenceOptions(**more)).blended.ensemble
    background = ensemble.background()
    assert len(background) == ensemble.channels
    values, spread = ensemble.parted(background)
    assert int(values.argmax()) == 0
    assert spread.tolist() == [0, 0]
