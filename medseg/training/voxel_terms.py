"""The sums over voxels that all losses are made of, with their slopes written out.

Left to automatic differentiation, a loss of Dice and cross-entropy takes three exponentials of every
probability and keeps five arrays of their size until the backward pass; here it is one and two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class VoxelTerms(NamedTuple):
    """What losses need of a batch of B images with L classes, N voxels each, and S label sets.

    Attributes
    ----------
    counts : (B, S) tensor
        Voxels of each set; without gradient.
    sums : (B, S, L) tensor
        Sum of each probability over the voxels of each set.
    surprise_sums : (B, S) tensor
        Sum of `surprise` over the voxels of each set.
    surprise : (B, N) tensor
        -log of the probability of the voxel's class; 0 where its set is not a single class.
    weighted : scalar tensor
        Sum of all probabilities, each times its entry in `field`; 0 without a field.
    """

    counts: Tensor
    sums: Tensor
    surprise_sums: Tensor
    surprise: Tensor
    weighted: Tensor


def voxel_terms(logits: Tensor, label: Tensor, *, sets: int, field: Tensor | None = None) -> VoxelTerms:
    """Sums and voxelwise surprise of the softmax of `logits`, differentiable in `logits`.

    Parameters
    ----------
    logits : (B, L, *sp) float32 tensor
    label : (B, *sp) int64 tensor
        Set indices below `sets`; those below L are single classes.
    sets : int
        S, at least L.
    field : (B, L, *sp) float32 tensor, optional
        Weights of the sum `weighted`; without gradient.
    """
    flat = None if field is None else field.flatten(2)
    inputs = (logits.flatten(2).contiguous(), label.flatten(1), sets, flat)
    return VoxelTerms(*_Terms.apply(*inputs))  # type: ignore[no-untyped-call]


class _Terms(torch.autograd.Function):
    """Forward: one softmax. Backward: p * (G - sum of p G + g) - g at the voxel's class."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, sets: int, field: Tensor | None
    ) -> tuple[Tensor, ...]:
        classes = logits.shape[1]
        p = logits.softmax(dim=1)
        present = torch.bincount(label.flatten(), minlength=sets).nonzero().flatten()
        members = p.new_empty(label.shape[0], len(present), label.shape[1])
        # Comparisons of small numbers are several times faster.
        torch.eq(label.short().unsqueeze(1), present.short().reshape(1, -1, 1), out=members)
        # The largest probability is never tiny, so that its logarithm is exact where others underflow.
        surprise = logits.amax(dim=1).sub_(p.amax(dim=1).log_())
        surprise.sub_(logits.gather(1, label.clamp_max(classes - 1).unsqueeze(1)).squeeze(1)).clamp_min_(0)
        if int(present[-1]) >= classes:
            surprise.masked_fill_(label >= classes, 0)
        of_present = torch.bmm(members, p.transpose(1, 2))
        sums = p.new_zeros(p.shape[0], sets, classes).index_copy_(1, present, of_present)
        surprises = (members * surprise.unsqueeze(1)).sum(dim=2)
        surprise_sums = p.new_zeros(p.shape[0], sets).index_copy_(1, present, surprises)
        counts = p.new_zeros(p.shape[0], sets).index_copy_(1, present, members.sum(dim=2))
        weighted = p.new_zeros(()) if field is None else (p * field).sum()
        ctx.save_for_backward(p, members, present, field)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(counts)
        return counts, sums, surprise_sums, surprise, weighted

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor, None, None, None]:
        p, members, present, field = ctx.saved_tensors
        _, of_sums, of_surprise_sums, of_surprise, of_weighted = slopes
        slope = torch.zeros_like(p)
        if of_sums is not None:
            slope = torch.bmm(of_sums.index_select(1, present).transpose(1, 2), members)
        if field is not None and of_weighted is not None:
            slope.addcmul_(field, of_weighted)
        slope.sub_((p * slope).sum(dim=1, keepdim=True))
        of_voxels = _slope_of_surprise(of_surprise_sums, of_surprise, members, present, p.shape[1])
        if of_voxels is None:
            return slope.mul_(p), None, None, None
        slope.add_(of_voxels.unsqueeze(1)).mul_(p)
        for row, index in enumerate(present.tolist()):
            if index < p.shape[1]:
                slope[:, index].addcmul_(members[:, row], of_voxels, value=-1)
        return slope, None, None, None


def _slope_of_surprise(
    of_sums: Tensor | None, of_voxels: Tensor | None, members: Tensor, present: Tensor, classes: int
) -> Tensor | None:
    """(B, N): slope with respect to the surprise of each voxel, 0 where its set is not a single class."""
    single = (present < classes).to(members.dtype)
    found = None
    if of_sums is not None:
        weights = (of_sums.index_select(1, present) * single).unsqueeze(1)
        found = torch.bmm(weights, members).squeeze(1)
    if of_voxels is not None:
        labelled = of_voxels * torch.einsum("bpn,p->bn", members, single)
        found = labelled if found is None else found + labelled
    return found
