"""Losses for complete and partial masks.

A voxel's label is a set index (see `labels.LabelTable.sets`): it says to which classes the voxel may
belong. With L classes, probabilities p_c = softmax(logits)_c and the set s(v) of voxel v:

- voxelwise losses use the marginal probability q(v) = sum of p_c(v) over c in s(v) (Shi et al. 2021), so
  a voxel called "lung" is right wherever left plus right are likely. The set of all classes is left out.
- overlap losses compare areas of structures: every class (background if asked) and every region. For a
  structure with classes U a voxel is certainly in where s is a subset of U, certainly out where s and U share
  nothing, and otherwise not counted (in the spirit of Fidon et al. 2021).

With complete masks these are the losses of the papers; all are better when lower.

References
----------
Milletari et al., V-Net, 3DV 2016, doi:10.1109/3DV.2016.79 (Dice); Lin et al., ICCV 2017,
doi:10.1109/ICCV.2017.324 (focal); Salehi et al., MLMI 2017, doi:10.1007/978-3-319-67389-9_44 (Tversky);
Abraham and Khan, ISBI 2019, doi:10.1109/ISBI.2019.8759329 (focal Tversky); Wu et al., 2016, arXiv:1605.06885
(online bootstrapping, the top-k of nnU-Net); Shi et al., Med Image Anal 2021, doi:10.1016/j.media.2021.101979
(marginal loss); Fidon et al., MICCAI 2021, doi:10.1007/978-3-030-87196-3_60 (label-set losses).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import ConfigError, LabelError
from medseg.training.loss_options import (
    CrossEntropyOptions,
    DiceCrossEntropyOptions,
    DiceFocalOptions,
    DiceLossOptions,
    FocalOptions,
    FocalTverskyOptions,
    LossOptions,
    TopKCrossEntropyOptions,
    TverskyOptions,
)

_LEFT_OUT = -100


def build_loss(
    options: LossOptions, *, set_matrix: NDArray[np.bool_], regions: Mapping[str, tuple[int, ...]]
) -> SegmentationLoss:
    """The loss that the YAML names.

    Parameters
    ----------
    options : LossOptions
    set_matrix : (S, L) bool array
        Whether set s admits class c; the first L sets are the single classes, as in `LabelTable`.
    regions : mapping of str to tuple of int
        Class indices of each label and region, as from `LabelTable.region_classes`. Structures of one class
        are in the loss anyway; here they give the class its name for `class_weights`.

    Raises
    ------
    ConfigError
        A weight for an unknown name, a region that is empty or holds every class, weights that are all zero.
    """
    return SegmentationLoss(options, set_matrix=set_matrix, regions=regions)


class SegmentationLoss(nn.Module):
    """Loss of logits against set indices; see `build_loss` and the module text."""

    set_matrix: Tensor
    set_weights: Tensor
    is_partial: Tensor
    structures: Tensor
    inside: Tensor
    certain: Tensor
    structure_weights: Tensor

    def __init__(
        self,
        options: LossOptions,
        *,
        set_matrix: NDArray[np.bool_],
        regions: Mapping[str, tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.options = options
        matrix = _checked_sets(set_matrix)
        classes = matrix.shape[1]
        structures = _structures(options, regions, classes)
        members = np.zeros((len(structures), classes), dtype=np.bool_)
        for row, classes_of in enumerate(structures):
            members[row, sorted(classes_of)] = True
        outside_members = (matrix[None] & ~members[:, None]).any(axis=2)
        shared = (matrix[None] & members[:, None]).any(axis=2)
        weights = _class_weights(options, regions, classes)
        per_structure = [_structure_weight(options, regions, weights, s) for s in structures]
        sizes = matrix.sum(axis=1)
        per_set = (matrix @ weights) / sizes
        per_set[sizes == classes] = 0.0
        if not per_set.any() or (per_structure and not any(per_structure)):
            raise ConfigError("training.loss.class_weights leave nothing to learn: every weight is 0")
        self._keep("set_matrix", torch.from_numpy(matrix))
        self._keep("set_weights", torch.tensor(per_set, dtype=torch.float32))
        self._keep("is_partial", torch.from_numpy((sizes > 1) & (sizes < classes)))
        self._keep("structures", torch.from_numpy(members).float())
        self._keep("inside", torch.from_numpy(~outside_members).float())
        self._keep("certain", torch.from_numpy(~outside_members | ~shared).float())
        self._keep("structure_weights", torch.tensor(per_structure, dtype=torch.float32))

    def forward(self, logits: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        logits : (B, L, *sp) tensor, or list of them
            A list, finest first, is deep supervision: the label is brought to each size by the nearest voxel.
        label : (B, 1, *sp) integer tensor
            Set indices.

        Returns
        -------
        scalar float32 tensor
            Zero, with zero gradient, where nothing is labelled. Computed in float32 also under autocast.

        Raises
        ------
        LabelError
            Shapes that do not fit, or a set index that the table does not have.
        """
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        self._check(levels[0], label)
        weights = self._level_weights(len(levels))
        with torch.autocast(device_type=label.device.type, enabled=False):
            parts = [
                weight * self._level(level.float(), _nearest(label[:, 0], tuple(level.shape[2:])))
                for level, weight in zip(levels, weights, strict=True)
            ]
        return torch.stack(parts).sum()

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _check(self, logits: Tensor, label: Tensor) -> None:
        sets, classes = self.set_matrix.shape
        if label.shape != (logits.shape[0], 1, *logits.shape[2:]) or logits.shape[1] != classes:
            raise LabelError(
                f"the loss expects logits (B, {classes}, ...) and labels (B, 1, ...) of one size, "
                f"found {tuple(logits.shape)} and {tuple(label.shape)}"
            )
        low, high = torch.aminmax(label)
        if int(low) < 0 or int(high) >= sets:
            raise LabelError(f"labels are set indices 0..{sets - 1}, found {int(low)}..{int(high)}")

    def _level_weights(self, count: int) -> list[float]:
        given = self.options.level_weights
        if count == 1:
            return [1.0]
        weights = list(given) if given is not None else [0.5**level for level in range(count)]
        if len(weights) != count or sum(weights) == 0:
            raise ConfigError(
                f"training.loss.level_weights needs {count} weights, not all 0; found {weights}"
            )
        return [weight / sum(weights) for weight in weights]

    def _level(self, logits: Tensor, label: Tensor) -> Tensor:
        label, log_p = label.long(), F.log_softmax(logits, dim=1)
        counts = _voxels_by_set(label, len(self.set_matrix))
        options = self.options
        match options:
            case DiceCrossEntropyOptions():
                overlap, entropy = (
                    self._overlap(log_p, label, counts),
                    self._cross_entropy(log_p, label, counts),
                )
                return options.dice_weight * overlap + options.ce_weight * entropy
            case DiceFocalOptions():
                overlap, focal = self._overlap(log_p, label, counts), self._focal(log_p, label, options.gamma)
                return options.dice_weight * overlap + options.focal_weight * focal
            case CrossEntropyOptions():
                return self._cross_entropy(log_p, label, counts)
            case FocalOptions():
                return self._focal(log_p, label, options.gamma)
            case TopKCrossEntropyOptions():
                return self._worst(log_p, label, options.percent)
            case DiceLossOptions() | TverskyOptions() | FocalTverskyOptions():
                return self._overlap(log_p, label, counts)

    def _cross_entropy(self, log_p: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """Weighted mean of -log q over labelled voxels."""
        classes = log_p.shape[1]
        weight = self.set_weights[:classes]
        if not bool(counts[:, classes:].any()):
            total = F.nll_loss(log_p, label, weight=weight, reduction="sum")
        else:
            whole = label.masked_fill(label >= classes, _LEFT_OUT)
            total = F.nll_loss(log_p, whole, weight=weight, reduction="sum", ignore_index=_LEFT_OUT)
            partial = self._partial(label)
            total = (
                total
                + (self._partial_surprise(log_p, label, partial) * self.set_weights[label[partial]]).sum()
            )
        return total / (counts.sum(dim=0) @ self.set_weights).clamp_min(1e-12)

    def _focal(self, log_p: Tensor, label: Tensor, gamma: float) -> Tensor:
        """Weighted mean of -(1 - q)^gamma log q over labelled voxels."""
        surprise, weight = self._surprise(log_p, label), self.set_weights[label]
        # The slope of a broken power at 0 is infinite.
        focal = (-torch.expm1(-surprise)).clamp_min(1e-12) ** gamma * surprise
        return (focal * weight).sum() / weight.sum().clamp_min(1e-12)

    def _worst(self, log_p: Tensor, label: Tensor, percent: float) -> Tensor:
        """Mean of the largest values of weight times -log q, a share of all labelled voxels of the batch."""
        weight = self.set_weights[label]
        values = (self._surprise(log_p, label) * weight)[weight > 0]
        if values.numel() == 0:
            return values.sum()
        return values.topk(max(1, round(values.numel() * percent / 100.0))).values.mean()

    def _surprise(self, log_p: Tensor, label: Tensor) -> Tensor:
        """(B, *sp): -log q; exactly 0 without gradient where all classes may be."""
        whole = label.masked_fill(label >= log_p.shape[1], _LEFT_OUT)
        surprise = F.nll_loss(log_p, whole, reduction="none", ignore_index=_LEFT_OUT)
        partial = self._partial(label)
        return surprise.masked_scatter(partial, self._partial_surprise(log_p, label, partial))

    def _partial(self, label: Tensor) -> Tensor:
        """(B, *sp) bool: voxels whose set holds more than one class, but not all."""
        return self.is_partial[label]

    def _partial_surprise(self, log_p: Tensor, label: Tensor, partial: Tensor) -> Tensor:
        """(n,): -log of the sum of the admitted probabilities at the voxels of `partial`."""
        admitted = self.set_matrix[label[partial]]
        found = log_p.movedim(1, -1)[partial].masked_fill(~admitted, -torch.inf)
        # A sum of probabilities may round to a little over 1.
        return -found.logsumexp(dim=1).clamp_max(0.0)

    def _overlap(self, log_p: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """Weighted mean over structures (and images) of one minus Dice or Tversky index."""
        sums = _sums_by_set(log_p.exp(), label, counts)
        uncertain = counts @ (1.0 - self.certain).T
        if getattr(self.options, "batch", False):
            sums, counts, uncertain = (part.sum(dim=0, keepdim=True) for part in (sums, counts, uncertain))
        by_structure = torch.einsum("bsc,uc->bus", sums, self.structures)
        hit = (by_structure * self.inside).sum(dim=2)
        predicted = (by_structure * self.certain).sum(dim=2)
        reference = counts @ self.inside.T
        terms = self._terms(hit, predicted, reference)
        # A structure that may lie in the unlabelled part alone says nothing about the image.
        weights = self.structure_weights * ((reference > 0) | (uncertain == 0))
        return (terms * weights).sum() / weights.sum().clamp_min(1e-12)

    def _terms(self, hit: Tensor, predicted: Tensor, reference: Tensor) -> Tensor:
        """(B, U) loss of each structure from its areas in voxels."""
        options = self.options
        if isinstance(options, TverskyOptions | FocalTverskyOptions):
            price = options.alpha * (predicted - hit) + options.beta * (reference - hit)
            lost = 1.0 - (hit + options.smooth) / (hit + price + options.smooth)
            if isinstance(options, FocalTverskyOptions):
                # The slope of x^0.75 at 0 is infinite.
                return lost.clamp_min(1e-6) ** options.gamma
            return lost
        smooth = getattr(options, "smooth", 0.0)
        return 1.0 - (2.0 * hit + smooth) / (predicted + reference + smooth)


def _voxels_by_set(label: Tensor, sets: int) -> Tensor:
    """(B, S) float: voxels of each set in each image."""
    batch = label.shape[0]
    offset = sets * torch.arange(batch, device=label.device).unsqueeze(1)
    counts = torch.bincount((label.flatten(1) + offset).flatten(), minlength=batch * sets)
    return counts.reshape(batch, sets).float()


def _sums_by_set(p: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    """Sums of probabilities over the voxels of each set, (B, S, L).

    All areas of all structures are linear in these, so no structure needs a mask of its own, and
    only sets that are present need one.
    """
    present = counts.sum(dim=0).nonzero().flatten()
    where = (label.flatten(1).unsqueeze(1) == present.reshape(1, -1, 1)).to(p.dtype)
    found = torch.bmm(p.flatten(2), where.transpose(1, 2)).transpose(1, 2)
    return p.new_zeros(*counts.shape, p.shape[1]).index_copy(1, present, found)


def _nearest(label: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, *sp) -> (B, *size) by the voxel nearest to each new centre."""
    for axis, (old, new) in enumerate(zip(tuple(label.shape[1:]), size, strict=True), start=1):
        if old != new:
            index = ((torch.arange(new, device=label.device) + 0.5) * (old / new)).long()
            label = label.index_select(axis, index)
    return label


def _checked_sets(set_matrix: NDArray[Any]) -> NDArray[np.bool_]:
    matrix = np.asarray(set_matrix, dtype=np.bool_)
    classes = matrix.shape[1]
    if len(matrix) < classes or not np.array_equal(matrix[:classes], np.eye(classes, dtype=np.bool_)):
        raise LabelError(f"the first {classes} sets must be the single classes; give LabelTable.set_matrix")
    if not matrix.any(axis=1).all():
        raise LabelError("every label set needs at least one class")
    return matrix


def _structures(
    options: LossOptions, regions: Mapping[str, tuple[int, ...]], classes: int
) -> list[frozenset[int]]:
    first = 0 if getattr(options, "include_background", False) else 1
    structures = [frozenset({index}) for index in range(first, classes)]
    for name, members in regions.items():
        union = frozenset(members)
        if not union or not union < frozenset(range(classes)):
            raise ConfigError(
                f"region {name} must hold some of the classes 0..{classes - 1}, found {sorted(union)}"
            )
        if len(union) > 1 and union not in structures:
            structures.append(union)
    return structures


def _class_weights(
    options: LossOptions, regions: Mapping[str, tuple[int, ...]], classes: int
) -> NDArray[np.float64]:
    known = {"background": (0,), **regions}
    unknown = [name for name in options.class_weights if name not in known]
    if unknown:
        raise ConfigError(f"training.loss.class_weights names {unknown}; known: {', '.join(known)}")
    weights = np.ones(classes)
    for name, weight in options.class_weights.items():
        if len(known[name]) == 1:
            weights[known[name][0]] = weight
    return weights


def _structure_weight(
    options: LossOptions,
    regions: Mapping[str, tuple[int, ...]],
    weights: NDArray[np.float64],
    members: frozenset[int],
) -> float:
    if len(members) == 1:
        return float(weights[next(iter(members))])
    named = [w for name, w in options.class_weights.items() if frozenset(regions.get(name, ())) == members]
    return float(named[0]) if named else 1.0
