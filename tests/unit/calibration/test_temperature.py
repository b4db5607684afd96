"""Temperature: recovered from scaled logits, and never seen in a mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.calibration.temperature import fit_temperature
from medseg.inference.scaling import Scaling
from medseg.transforms.class_choice import ClassChoice

LOGITS = ClassChoice(scale="logits")


def fitted(values, allowed, choice=LOGITS):
    shown = torch.from_numpy(values.astype(np.float32))
    unscaled = choice.probabilities(shown, class_count=allowed.shape[1])

    def likely(temperature):
        scaling = Scaling(choice=choice, class_count=allowed.shape[1], temperature=temperature)
        return scaling.probabilities(shown, unscaled).numpy()

    return fit_temperature(likely, allowed)


def drawn(logits, rng):
    """One class a voxel, drawn by the softmax of the logits, as (n, L) admitted classes."""
    chances = np.exp(logits - logits.max(axis=0))
    chances = np.cumsum(chances / chances.sum(axis=0), axis=0)
    true = (rng.random(logits.shape[1]) > chances).sum(axis=0)
    return np.eye(len(logits), dtype=bool)[np.minimum(true, len(logits) - 1)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_is_recovered_from_scaled_logits(temperature):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, size=(4, 60_000))
    found = fitted(logits * temperature, drawn(logits, rng))
    assert found.temperature == pytest.approx(temperature, rel=0.03)
    assert found.nll_after <= found.nll_before


def test_probabilities_scale_like_the_logits_that_made_them():
    rng = np.random.default_rng(6)
    logits = torch.from_numpy(rng.normal(0, 3, size=(3, 500)).astype(np.float32))
    likely = torch.softmax(logits, dim=0)
    of_logits = Scaling(choice=LOGITS, class_count=3, temperature=1.7).probabilities(logits, likely)
    of_likely = Scaling(choice=ClassChoice(), class_count=3, temperature=1.7).probabilities(likely, likely)
    torch.testing.assert_close(of_logits, of_likely, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(of_likely.sum(dim=0), torch.ones(500))


def test_what_the_reference_does_not_tell_is_left_out():
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 2, size=(3, 30_000))
    allowed = drawn(logits, rng)
    unknown = np.ones((500, 3), dtype=bool)
    more = np.concatenate([2 * logits, rng.normal(0, 9, size=(3, 500))], axis=1)
    assert fitted(more, np.concatenate([allowed, unknown])) == fitted(2 * logits, allowed)
    assert fitted(logits[:, :500], unknown) is None
    one_class = np.eye(3, dtype=bool)[np.zeros(500, dtype=int)]
    assert fitted(logits[:, :500], one_class) is None


def test_a_part_that_is_told_coarsely_still_says_something():
    """Voxels of one of two classes, which of them is not told."""
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 2, size=(3, 60_000))
    allowed = drawn(logits, rng)
    merged = allowed | np.where(allowed[:, 1:2] | allowed[:, 2:3], np.array([[False, True, True]]), False)
    assert fitted(1.8 * logits, merged).temperature == pytest.approx(1.8, rel=0.06)


def test_regions_are_fitted_by_the_classes_they_write():
    rng = np.random.default_rng(9)
    choice = ClassChoice(scale="logits", regions=(1, 2))
    logits = rng.normal(0, 2, size=(2, 60_000))
    chances = choice.probabilities(torch.from_numpy(logits), class_count=3).numpy()
    true = np.minimum((rng.random(60_000) > np.cumsum(chances, axis=0)).sum(axis=0), 2)
    found = fitted(2.0 * logits, np.eye(3, dtype=bool)[true], choice)
    assert found.temperature == pytest.approx(2.0, rel=0.05)


values = st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6)


@given(values, st.floats(0.1, 10))
def test_order_of_classes_and_side_of_one_half_do_not_depend_on_the_temperature(row, temperature):
    """Where the unscaled probabilities differ at all, the scaled ones do not lie the other way round."""
    logits = torch.tensor(row).reshape(3, 2)
    likely = torch.softmax(logits, dim=0)
    for choice, shown in ((LOGITS, logits), (ClassChoice(), likely)):
        scaled = Scaling(choice=choice, class_count=3, temperature=temperature).probabilities(shown, likely)
        won = likely.argmax(dim=0)
        assert (scaled.gather(0, won[None])[0] >= scaled.amax(dim=0) - 1e-6).all()
    told = logits.abs() > 1e-30
    assert (((logits / temperature) > 0) == (logits > 0))[told].all()
