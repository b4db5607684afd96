"""Refitted weights compute what they computed, on images that allow the comparison."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medseg.models.refit import (
    Folding,
    edges_fit,
    fit_edge,
    fit_head,
    fit_inputs,
    inflate,
    inflate_transposed,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stack(x, slices):
    """A volume of equal slices."""
    return x.unsqueeze(-1).expand(*x.shape, slices).contiguous()


@pytest.mark.parametrize(("mode", "inside"), [("mean", slice(1, -1)), ("centre", slice(None))])
@pytest.mark.parametrize("edge", [1, 3])
def test_inflated_kernels_give_each_slice_what_the_picture_gave(mode, inside, edge):
    x, weight = random(2, 3, 6, 9), random(4, 3, 3, 3, seed=1)
    expected = F.conv2d(x, weight, padding=1)
    volume = F.conv3d(stack(x, 5), inflate(weight, edge, mode=mode), padding=(1, 1, edge // 2))
    torch.testing.assert_close(volume[..., inside], stack(expected, 5)[..., inside], atol=1e-5, rtol=1e-5)


def test_even_kernels_are_averaged_whatever_the_mode():
    x, weight = random(1, 3, 6, 8), random(4, 3, 2, 2, seed=1)
    volume = F.conv3d(stack(x, 4), inflate(weight, 2, mode="centre"), stride=2)
    torch.testing.assert_close(volume, stack(F.conv2d(x, weight, stride=2), 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (3, 1), (5, 2)])
def test_inflated_transposed_kernels_give_each_slice_what_the_picture_gave(kernel, padding):
    x, weight = random(1, 3, 6, 8), random(3, 4, kernel, kernel, seed=1)
    expected = F.conv_transpose2d(x, weight, stride=2, padding=padding)
    volume = F.conv_transpose3d(
        stack(x, 5), inflate_transposed(weight, kernel, stride=2), stride=2, padding=padding
    )
    inside = slice(2, -2)
    torch.testing.assert_close(
        volume[..., inside], stack(expected, volume.shape[-1])[..., inside], atol=1e-5, rtol=1e-5
    )


def test_larger_kernels_hold_the_smaller_one():
    x, weight = random(1, 3, 7, 8), random(4, 3, 3, 1, seed=1)
    grown = fit_edge(fit_edge(weight, 2, 5), 3, 3)
    assert grown.shape == (4, 3, 5, 3)
    torch.testing.assert_close(
        F.conv2d(x, grown, padding=(2, 1)), F.conv2d(x, weight, padding=(1, 0)), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(fit_edge(weight, 2, 1), weight.sum(dim=2, keepdim=True))
    assert edges_fit((3, 1), (5, 3))
    assert edges_fit((3, 3), (1, 3))
    assert not edges_fit((5, 3), (3, 3))
    assert not edges_fit((2, 2), (3, 3))


def test_channels_and_cells_of_the_first_convolution():
    """Equal channels and equal neighbours give the same sums."""
    weight = random(4, 2 * 4, 3, 3)
    source = Folding(count=2, cell=(2, 2))
    same = torch.ones(1, 8, 5, 6) * 0.3
    expected = F.conv2d(same, weight)
    for target in (
        Folding(count=5, cell=(2, 2)),
        Folding(count=2, cell=(2, 1)),
        Folding(count=1, cell=(1, 2)),
    ):
        found = fit_inputs(weight, source, target)
        assert found.shape == (4, target.channels, 3, 3)
        image = torch.ones(1, target.channels, 5, 6) * 0.3
        torch.testing.assert_close(F.conv2d(image, found), expected, atol=1e-5, rtol=1e-5)
    rows = Folding(count=4, cell=(2, 1))
    found = fit_inputs(weight, rows, Folding(count=4, cell=(2, 2)))
    torch.testing.assert_close(F.conv2d(torch.ones(1, 16, 5, 6) * 0.3, found), expected, atol=1e-5, rtol=1e-5)
    assert fit_inputs(weight, source, Folding(count=2, cell=(2, 4))) is None
    assert fit_inputs(weight, Folding(count=3, cell=(2, 2)), Folding(count=2, cell=(2, 2))) is None


def test_rows_of_the_head_follow_the_labels_and_cells():
    weight, fresh = random(3 * 4, 5, 1, 1), random(4 * 2, 5, 1, 1, seed=1)
    source, target = Folding(count=3, cell=(2, 2)), Folding(count=4, cell=(2, 1))
    found = fit_head(weight, fresh, source, target, [[0], [], [2], [1, 2]]).reshape(4, 2, 5)
    old = weight.reshape(3, 2, 2, 5).mean(dim=2)
    assert torch.equal(found[0], old[0])
    assert torch.equal(found[1], fresh.reshape(4, 2, 5)[1])
    assert torch.equal(found[2], old[2])
    torch.testing.assert_close(found[3], (old[1] + old[2]) / 2)
    assert fit_head(weight, fresh[:, :3], source, target, [[0]] * 4) is None
    grown = fit_head(
        random(3), torch.zeros(6), Folding(count=3, cell=(1,)), Folding(count=3, cell=(2,)), [[0], [1], [2]]
    )
    assert torch.equal(grown, random(3).repeat_interleave(2))
