import numpy as np
import pytest

from medseg.errors import MissingPackageError
from medseg.evaluation import centreline
from medseg.evaluation.centreline import centreline_dice, require_skeletons, skeleton


def tube(shape, *, radius, gap=0):
    """A straight tube along the last axis, with a gap in its middle."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    off = sum((axes[a] - shape[a] // 2) ** 2 for a in range(len(shape) - 1))
    mask = np.broadcast_to(off <= radius**2, shape).copy()
    middle = shape[-1] // 2
    mask[..., middle - gap : middle + gap] = False
    return mask


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(centreline.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"cldice needs scikit-image.*medseg\[tubes\]"):
        require_skeletons()


@pytest.mark.parametrize("shape", [(15, 61), (15, 17, 61)])
def test_thinner_tube_has_the_same_centreline_and_a_gap_costs_its_share(shape):
    pytest.importorskip("skimage")
    thick, thin = tube(shape, radius=4), tube(shape, radius=2)
    assert skeleton(thick).sum() >= 50
    assert centreline_dice(thick, thin) == 1.0
    broken = tube(shape, radius=4, gap=10)
    line = skeleton(thick)
    sensitivity = (line & broken).sum() / line.sum()
    assert sensitivity == pytest.approx(2 / 3, abs=0.05)
    assert centreline_dice(broken, thick) == pytest.approx(2 * sensitivity / (1 + sensitivity))


def test_apart_and_tiny_masks():
    pytest.importorskip("skimage")
    one, two = np.zeros((2, 8, 9, 10), dtype=bool)
    one[1:3, 1:3, 1:3], two[5, 5, 5] = True, True
    assert skeleton(one).any()
    assert skeleton(two).sum() == 1
    assert centreline_dice(one, two) == 0.0
