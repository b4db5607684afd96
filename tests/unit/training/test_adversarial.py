"""A training with attacks: repeatable, resumed bit for bit, other weights than without."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny import run

from medseg.errors import Interrupted

ATTACKED = {"adversarial": {"use": "fgsm", "probability": 0.7, "epsilon": 5}}


def test_the_same_seed_gives_the_same_weights_and_attacks_change_them(tmp_path):
    plain = run(tmp_path / "plain")
    first, second = run(tmp_path / "a", **ATTACKED), run(tmp_path / "b", **ATTACKED)
    assert first.weights_sha256 == second.weights_sha256 != plain.weights_sha256
    assert all(torch.isfinite(value).all() for value in load_file(first.weights).values())


def test_a_training_with_attacks_goes_on_where_it_stopped(tmp_path):
    whole = run(tmp_path / "whole", **ATTACKED)
    seen = 0

    def stop(_):
        nonlocal seen
        seen += 1
        if seen == 4:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(tmp_path / "part", progress=stop, **ATTACKED)
    assert run(tmp_path / "part", **ATTACKED).weights_sha256 == whole.weights_sha256
