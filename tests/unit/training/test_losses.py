"""Losses equal the references on complete masks, and partial masks count for no more than they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import distance_transform_edt

from medseg.errors import ConfigError, LabelError
from medseg.training.boundary import signed_distance
from medseg.training.loss_options import LossOptions
from medseg.training.losses import build_loss

OPTIONS = TypeAdapter(LossOptions)
# Sets 0..2 are the classes; then {left, right}, {background, left}, {background, right}, all.
SETS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=np.bool_)
REGIONS = {"right": (1,), "left": (2,), "lung": (1, 2)}
EVERY_LOSS = (
    "dice",
    "ce",
    "dice_ce",
    "focal",
    "dice_focal",
    "tversky",
    "focal_tversky",
    "top_k_ce",
    "dice_top_k",
    "dice_ce_boundary",
    "generalised_dice",
)
BOTH, ANY = 3, 6


def make(use, *, regions=None, **arguments):
    options = OPTIONS.validate_python({"use": use, **arguments})
    loss = build_loss(options, set_matrix=SETS, regions=REGIONS if regions is None else regions)
    loss.set_progress(1.0)
    return loss


def batch(size=(9, 7), *, high=3, count=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 3, *size, generator=generator, dtype=dtype).requires_grad_()
    return logits, torch.randint(0, high, (count, 1, *size), generator=generator)


@pytest.mark.parametrize("size", [(9, 7), (5, 4, 6)])
@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("whole_batch", [False, True])
def test_complete_masks_give_the_dice_ce_of_monai(size, include_background, whole_batch):
    logits, label = batch(size)
    label[1][label[1] == 2] = 0
    found = make("dice_ce", regions={}, include_background=include_background, batch=whole_batch)(
        logits, label
    )
    peer = DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=include_background, batch=whole_batch
    )
    expected = peer(logits, label)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    (slope,) = torch.autograd.grad(found, logits)
    (peer_slope,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(slope, peer_slope, atol=1e-7, rtol=1e-4)


def test_complete_masks_give_the_dice_focal_and_tversky_of_monai():
    logits, label = batch()
    with torch.no_grad():
        assert make("dice", regions={})(logits, label).item() == pytest.approx(
            DiceLoss(softmax=True, to_onehot_y=True, include_background=False)(logits, label).item(), abs=1e-6
        )
        # MONAI's mean counts the classes that a voxel is not.
        focal = FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0, include_background=True)(
            logits, label
        )
        assert make("focal")(logits, label).item() == pytest.approx(3 * focal.item(), abs=1e-6)
        tversky = TverskyLoss(softmax=True, to_onehot_y=True, include_background=False, alpha=0.3, beta=0.7)
        assert make("tversky", regions={})(logits, label).item() == pytest.approx(
            tversky(logits, label).item(), abs=1e-6
        )


@pytest.mark.parametrize("size", [(9, 7), (5, 4, 6)])
@pytest.mark.parametrize("whole_batch", [False, True])
def test_complete_masks_give_the_generalised_dice_of_monai_also_where_a_class_is_absent(size, whole_batch):
    logits, label = batch(size)
    label[1][label[1] == 2] = 0
    found = make("generalised_dice", regions={}, include_background=True, batch=whole_batch)(logits, label)
    expected = GeneralizedDiceLoss(softmax=True, to_onehot_y=True, batch=whole_batch)(logits, label)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    (slope,) = torch.autograd.grad(found, logits)
    (peer_slope,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(slope, peer_slope, atol=1e-6, rtol=1e-3)


def kervadec_map(mask):
    """As `one_hot2dist` of the paper's published code does it, for one class."""
    if not mask.any():
        return np.zeros(mask.shape)
    return distance_transform_edt(~mask) * ~mask - (distance_transform_edt(mask) - 1) * mask


@pytest.mark.parametrize("size", [(14, 9), (8, 11, 6)])
def test_the_boundary_term_is_the_mean_of_probability_times_the_papers_distance_map(size):
    logits, label = batch(size, high=1)
    label[(0, 0, *(slice(2, 6) for _ in size))] = 1
    label[(0, 0, *(slice(4, 6) for _ in size))] = 2
    label[(1, 0, *(slice(0, 3) for _ in size))] = 2
    with torch.no_grad():
        plain = make("dice_ce", regions={})(logits, label)
        found = make("dice_ce_boundary", regions={}, boundary_weight=0.3)(logits, label) - plain
    p = logits.detach().softmax(dim=1).numpy()
    maps = np.stack([[kervadec_map(image[0].numpy() == c) for c in (1, 2)] for image in label])
    assert found.item() == pytest.approx(0.3 * (p[:, 1:] * maps).mean(), abs=1e-5)


def test_distances_are_signed_in_mm_and_zero_without_a_border():
    mask = np.zeros((7, 5), dtype=np.bool_)
    mask[2:6, 1:4] = True
    found = signed_distance(mask, (2.0, 3.0))
    assert found[0, 2] == 4
    assert found[3, 0] == 3
    assert found[1, 0] == pytest.approx(math.hypot(2, 3))
    assert (found[2, 2], found[3, 2]) == (0, -2)
    for whole in (np.zeros_like(mask), np.ones_like(mask)):
        assert (signed_distance(whole) == 0).all()


def test_the_boundary_term_grows_over_the_asked_share_of_the_training():
    logits, label = batch((6, 5))
    loss = build_loss(
        OPTIONS.validate_python({"use": "dice_ce_boundary", "boundary_weight": 0.4, "boundary_rise": 0.5}),
        set_matrix=SETS,
        regions={},
    )
    plain = make("dice_ce", regions={})(logits, label).item()
    shares = {}
    for done in (0.0, 0.25, 0.5, 1.0):
        loss.set_progress(done)
        shares[done] = loss(logits, label).item() - plain
    assert shares[0.0] == 0
    assert shares[0.25] == pytest.approx(shares[0.5] / 2, rel=1e-3)
    assert shares[1.0] == pytest.approx(shares[0.5])


def test_coarse_levels_have_no_boundary_term():
    logits, label = batch((8, 6))
    coarse = torch.randn(2, 3, 4, 3)
    both, plain = make("dice_ce_boundary"), make("dice_ce")
    term = both(logits, label) - plain(logits, label)
    whole = both([logits, coarse], label) - plain([logits, coarse], label)
    assert whole.item() == pytest.approx(2 / 3 * term.item(), rel=1e-4)


def test_dice_top_k_is_the_sum_of_its_parts():
    logits, label = batch((10, 6), high=7)
    with torch.no_grad():
        parts = make("dice")(logits, label) + 0.5 * make("top_k_ce", percent=20)(logits, label)
        whole = make("dice_top_k", percent=20, ce_weight=0.5)(logits, label)
    assert whole.item() == pytest.approx(parts.item(), rel=1e-6)


@pytest.mark.parametrize("use", EVERY_LOSS)
def test_patches_in_which_a_class_is_absent_give_finite_slopes_in_3d(use):
    logits, label = batch((5, 6, 4), high=1)
    label[1, 0, 2:4, 1:4] = 1
    label[1, 0, 4] = BOTH
    loss = make(use, class_weights={"left": 2.0, "lung": 0.5})(logits, label)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1].abs().sum() > 0


def test_slopes_are_the_same_in_any_layout_of_memory():
    logits, label = batch((5, 6, 4), high=7)
    other = logits.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    for use in EVERY_LOSS:
        (slope,) = torch.autograd.grad(make(use)(logits, label), logits)
        (turned,) = torch.autograd.grad(make(use)(other, label), other)
        assert torch.equal(slope, turned)


def test_cross_entropy_of_a_union_is_that_of_the_summed_probability():
    p = torch.tensor([0.5, 0.2, 0.3])
    logits = p.log().reshape(1, 3, 1, 1)
    assert make("ce")(logits, torch.tensor(BOTH).reshape(1, 1, 1, 1)).item() == pytest.approx(-math.log(0.5))
    assert make("focal", gamma=2.0)(logits, torch.tensor(BOTH).reshape(1, 1, 1, 1)).item() == pytest.approx(
        0.25 * -math.log(0.5)
    )


def test_overlap_of_a_union_by_hand():
    # Two voxels "left or right", one background; the last may be anything.
    p = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    logits = p.log().T.reshape(1, 3, 2, 2)
    label = torch.tensor([BOTH, BOTH, 0, ANY]).reshape(1, 1, 2, 2)
    hit, predicted, reference = 0.5 + 0.9, 0.5 + 0.9 + 0.2, 2.0
    # Left and right alone are certain nowhere; the union is.
    assert make("dice")(logits, label).item() == pytest.approx(
        1 - 2 * hit / (predicted + reference), abs=1e-4
    )
    assert make("dice", regions={})(logits, label).item() == 0.0


def test_a_structure_that_is_surely_absent_is_an_empty_reference():
    logits = torch.zeros(1, 3, 4, 4)
    label = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    assert make("dice")(logits, label).item() == pytest.approx(1.0, abs=1e-4)
    sure = torch.tensor([60.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert make("dice")(sure, label).item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("use", EVERY_LOSS)
def test_ignored_voxels_give_no_loss_and_no_slope(use):
    logits, label = batch(high=7)
    label[:, :, :4] = ANY
    loss = make(use)(logits, label)
    loss.backward()
    assert torch.equal(logits.grad[:, :, :4], torch.zeros_like(logits.grad[:, :, :4]))
    assert logits.grad[:, :, 4:].abs().sum() > 0
    nothing, everywhere = logits.detach().clone().requires_grad_(), torch.full_like(label, ANY)
    empty = make(use)(nothing, everywhere)
    empty.backward()
    assert empty.item() == 0.0
    assert torch.equal(nothing.grad, torch.zeros_like(nothing.grad))


@pytest.mark.parametrize("use", ["ce", "focal", "top_k_ce"])
def test_the_mean_is_over_labelled_voxels_alone(use):
    logits, label = batch((10, 6))
    label[:, :, :5] = ANY
    with torch.no_grad():
        part = make(use)(logits[:, :, 5:], label[:, :, 5:])
        assert make(use)(logits, label).item() == pytest.approx(part.item(), rel=1e-6)


@pytest.mark.parametrize("use", EVERY_LOSS)
def test_values_under_ignored_voxels_do_not_matter(use):
    logits, label = batch(high=7)
    label[:, :, :3] = ANY
    other = logits.detach().clone()
    other[:, :, :3] = 5.0
    assert make(use)(logits, label).item() == pytest.approx(make(use)(other, label).item(), abs=1e-6)


@pytest.mark.parametrize("use", [name for name in EVERY_LOSS if "top_k" not in name])
def test_slopes_agree_with_differences(use):
    logits, label = batch((3, 2), high=7, dtype=torch.float64)
    loss = make(use)
    (slope,) = torch.autograd.grad(loss(logits, label), logits)
    step = 1e-2
    for index in range(0, logits.numel(), 5):
        shift = torch.zeros(logits.numel(), dtype=torch.float64)
        shift[index] = step
        shift = shift.reshape(logits.shape)
        with torch.no_grad():
            rise = (loss(logits + shift, label) - loss(logits - shift, label)).item() / (2 * step)
        assert slope.flatten()[index].item() == pytest.approx(rise, abs=2e-4)


@pytest.mark.parametrize("use", EVERY_LOSS)
def test_extreme_logits_stay_finite(use):
    logits, label = batch(high=7)
    extreme = (logits.detach() * 1e4).requires_grad_()
    loss = make(use)(extreme, label)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(extreme.grad).all()


def test_top_k_is_the_mean_of_the_worst_voxels():
    logits, label = batch((10, 10), count=1)
    with torch.no_grad():
        voxels = torch.nn.functional.cross_entropy(logits, label[:, 0], reduction="none").flatten()
        assert make("top_k_ce", percent=10)(logits, label).item() == pytest.approx(
            voxels.sort().values[-10:].mean().item(), rel=1e-6
        )


def test_class_weights_are_found_by_name():
    logits, label = batch()
    weighted = make("ce", class_weights={"background": 0.5, "left": 3.0})(logits, label)
    expected = torch.nn.functional.cross_entropy(logits, label[:, 0], weight=torch.tensor([0.5, 1.0, 3.0]))
    assert weighted.item() == pytest.approx(expected.item(), rel=1e-6)
    lung_only = make("dice", class_weights={"left": 0, "right": 0})(logits, label)
    merged = build_loss(
        OPTIONS.validate_python({"use": "dice"}), set_matrix=np.eye(2, dtype=np.bool_), regions={}
    )
    pair = torch.stack([logits[:, 0], logits[:, 1:].logsumexp(dim=1)], dim=1)
    assert lung_only.item() == pytest.approx(merged(pair, (label > 0).long()).item(), abs=1e-6)


def test_coarse_levels_weigh_half_and_see_the_nearest_voxel():
    logits, label = batch((8, 6))
    coarse = torch.randn(2, 3, 4, 3)
    loss = make("ce")
    expected = loss(logits, label) * 2 / 3 + loss(coarse, label[:, :, 1::2, 1::2]) / 3
    assert loss([logits, coarse], label).item() == pytest.approx(expected.item(), rel=1e-6)
    first = make("ce", level_weights=(1, 0))
    assert first([logits, coarse], label).item() == pytest.approx(loss(logits, label).item(), rel=1e-6)
    with pytest.raises(ConfigError, match="level_weights needs 2 weights"):
        make("ce", level_weights=(1, 1, 1))([logits, coarse], label)


def test_autocast_does_not_reach_the_loss():
    logits, label = batch((32, 32))
    expected = make("dice_ce")(logits, label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make("dice_ce")(logits, label)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


def test_wrong_use_is_told():
    logits, label = batch()
    with pytest.raises(LabelError, match=r"set indices 0\.\.6, found 5\.\.7"):
        make("ce")(logits, label + 5)
    with pytest.raises(LabelError, match="of one size"):
        make("ce")(logits, label[:, :, 1:])
    with pytest.raises(
        ConfigError, match=r"class_weights names \['heart'\]; known: background, right, left, lung"
    ):
        make("ce", class_weights={"heart": 2})
    with pytest.raises(ConfigError, match="every weight is 0"):
        make("dice", regions={"right": (1,), "left": (2,)}, class_weights={"right": 0, "left": 0})
    with pytest.raises(ConfigError, match="region all must hold some"):
        make("dice", regions={"all": (0, 1, 2)})
    with pytest.raises(LabelError, match="first 3 sets"):
        build_loss(OPTIONS.validate_python({"use": "ce"}), set_matrix=SETS[1:], regions={})
    with pytest.raises(ValidationError, match="gama"):
        OPTIONS.validate_python({"use": "focal", "gama": 1})
