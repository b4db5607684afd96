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
(online bootstrapping, the top-k of nnU-Net); Kervadec et al., Med Image Anal 2021,
doi:10.1016/j.media.2020.101851 (boundary); Sudre et al., DLMIA 2017, doi:10.1007/978-3-319-67558-9_28
(generalised Dice); Shi et al., Med Image Anal 2021, doi:10.1016/j.media.2021.101979
(marginal loss); Fidon et al., MICCAI 2021, doi:10.1007/978-3-030-87196-3_60 (label-set losses).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import ConfigError, LabelError
from medseg.training.boundary import distance_maps
from medseg.training.loss_options import (
    BoundaryOptions,
    CrossEntropyOptions,
    DiceCrossEntropyOptions,
    DiceFocalOptions,
    DiceLossOptions,
    DiceTopKOptions,
    FocalOptions,
    FocalTverskyOptions,
    GeneralisedDiceOptions,
    LossOptions,
    TopKCrossEntropyOptions,
    TverskyOptions,
)
from medseg.training.loss_structures import (
    checked_sets,
    class_weights,
    find_structures,
    structure_weight,
)
from medseg.training.voxel_terms import VoxelTerms, voxel_terms


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


class _Batch(NamedTuple):
    """A batch of B images, N voxels each, as the losses see it.

    `label` (B, N) set indices; `partial` (B, N) whether the set is several classes, but not all, None where
    none is; `partial_surprise` (n,) -log q of those voxels; `boundary` scalar.
    """

    label: Tensor
    terms: VoxelTerms
    partial: Tensor | None
    partial_surprise: Tensor | None
    boundary: Tensor

    @property
    def surprise(self) -> Tensor:
        """(B, N): -log q; exactly 0 without gradient where all classes may be."""
        if self.partial is None or self.partial_surprise is None:
            return self.terms.surprise
        return self.terms.surprise.masked_scatter(self.partial, self.partial_surprise)


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
        self.boundary_factor = 0.0
        self.set_progress(0.0)
        matrix = checked_sets(set_matrix)
        classes = matrix.shape[1]
        structures = find_structures(options, regions, classes)
        members = np.zeros((len(structures), classes), dtype=np.bool_)
        for row, classes_of in enumerate(structures):
            members[row, sorted(classes_of)] = True
        outside_members = (matrix[None] & ~members[:, None]).any(axis=2)
        shared = (matrix[None] & members[:, None]).any(axis=2)
        weights = class_weights(options, regions, classes)
        per_structure = [structure_weight(options, regions, weights, s) for s in structures]
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
                weight
                * self._level(
                    level.float(), _nearest(label[:, 0], tuple(level.shape[2:])), finest=number == 0
                )
                for number, (level, weight) in enumerate(zip(levels, weights, strict=True))
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

    def set_progress(self, done: float) -> None:
        """Say how much of the training is done, 0 to 1; terms that grow with it follow.

        The same value gives the same loss, so a training that goes on after a break says it again.
        """
        options = self.options
        if isinstance(options, BoundaryOptions):
            rise = options.boundary_rise
            self.boundary_factor = options.boundary_weight * (min(1.0, done / rise) if rise else 1.0)

    def _level(self, logits: Tensor, label: Tensor, *, finest: bool) -> Tensor:
        label = label.long()
        batch = self._batch(logits, label, distances=finest and self.boundary_factor > 0)
        options = self.options
        match options:
            case DiceCrossEntropyOptions():
                return options.dice_weight * self._overlap(batch) + options.ce_weight * self._cross_entropy(
                    batch
                )
            case BoundaryOptions():
                whole = options.dice_weight * self._overlap(batch)
                whole = whole + options.ce_weight * self._cross_entropy(batch)
                return whole + self.boundary_factor * batch.boundary
            case DiceFocalOptions():
                overlap, focal = self._overlap(batch), self._focal(batch, options.gamma)
                return options.dice_weight * overlap + options.focal_weight * focal
            case DiceTopKOptions():
                overlap, worst = self._overlap(batch), self._worst(batch, options.percent)
                return options.dice_weight * overlap + options.ce_weight * worst
            case CrossEntropyOptions():
                return self._cross_entropy(batch)
            case FocalOptions():
                return self._focal(batch, options.gamma)
            case TopKCrossEntropyOptions():
                return self._worst(batch, options.percent)
            case GeneralisedDiceOptions():
                return self._generalised(batch)
            case DiceLossOptions() | TverskyOptions() | FocalTverskyOptions():
                return self._overlap(batch)

    def _batch(self, logits: Tensor, label: Tensor, *, distances: bool) -> _Batch:
        field, labelled = self._distance_field(label) if distances else (None, 1.0)
        terms = voxel_terms(logits, label, sets=len(self.set_matrix), field=field)
        flat = label.flatten(1)
        found = torch.nonzero(terms.counts.sum(dim=0)).flatten()
        partial = self.is_partial[flat] if bool(self.is_partial[found].any()) else None
        return _Batch(
            label=flat,
            terms=terms,
            partial=partial,
            partial_surprise=None
            if partial is None
            else self._partial_surprise(logits.flatten(2), flat, partial),
            boundary=terms.weighted / labelled,
        )

    def _cross_entropy(self, batch: _Batch) -> Tensor:
        """Weighted mean of -log q over labelled voxels."""
        total = (batch.terms.surprise_sums @ self.set_weights).sum()
        if batch.partial is not None and batch.partial_surprise is not None:
            total = total + (batch.partial_surprise * self.set_weights[batch.label[batch.partial]]).sum()
        return total / (batch.terms.counts.sum(dim=0) @ self.set_weights).clamp_min(1e-12)

    def _focal(self, batch: _Batch, gamma: float) -> Tensor:
        """Weighted mean of -(1 - q)^gamma log q over labelled voxels."""
        weight, surprise = self.set_weights[batch.label], batch.surprise
        # The slope of a broken power at 0 is infinite.
        focal = (-torch.expm1(-surprise)).clamp_min(1e-12) ** gamma * surprise
        return (focal * weight).sum() / weight.sum().clamp_min(1e-12)

    def _worst(self, batch: _Batch, percent: float) -> Tensor:
        """Mean of the largest values of weight times -log q, a share of all labelled voxels of the batch."""
        weight = self.set_weights[batch.label]
        values = (batch.surprise * weight)[weight > 0]
        if values.numel() == 0:
            return values.sum()
        return values.topk(max(1, round(values.numel() * percent / 100.0))).values.mean()

    def _partial_surprise(self, logits: Tensor, label: Tensor, partial: Tensor) -> Tensor:
        """(n,): -log of the sum of the admitted probabilities at the voxels of `partial`."""
        admitted = self.set_matrix[label[partial]]
        found = logits.movedim(1, -1)[partial].log_softmax(dim=1).masked_fill(~admitted, -torch.inf)
        # A sum of probabilities may round to a little over 1.
        return -found.logsumexp(dim=1).clamp_max(0.0)

    def _distance_field(self, label: Tensor) -> tuple[Tensor, float]:
        """Distance maps as weights of the class probabilities, and the number by which their sum is divided.

        The boundary loss is the mean over voxels and structures of probability times signed distance; the
        probability of a structure is the sum of those of its classes.
        """
        options = self.options
        maps = distance_maps(
            label,
            inside=self.inside,
            certain=self.certain,
            spacing=options.voxel_size if isinstance(options, BoundaryOptions) else None,
        ).to(label.device)
        weights = self.structure_weights[:, None] * self.structures
        field = torch.einsum("bun,uc->bcn", maps.flatten(2), weights)
        count = label.numel() * max(1e-12, float(self.structure_weights.sum()))
        return field.reshape(*field.shape[:2], *label.shape[1:]), count

    def _overlap(self, batch: _Batch) -> Tensor:
        """Weighted mean over structures (and images) of one minus Dice or Tversky index."""
        hit, predicted, reference, known = self._areas(batch)
        # A structure that may lie in the unlabelled part alone says nothing about the image.
        weights = self.structure_weights * known
        return (self._terms(hit, predicted, reference) * weights).sum() / weights.sum().clamp_min(1e-12)

    def _generalised(self, batch: _Batch) -> Tensor:
        """One minus Dice of all structures, each weighted by 1 / volume^2; an absent one by the largest weight."""
        hit, predicted, reference, known = self._areas(batch)
        weights = torch.where(reference > 0, reference.clamp_min(1e-12) ** -2, 0.0)
        largest = weights.amax(dim=1, keepdim=True)
        weights = torch.where(reference > 0, weights, largest) * self.structure_weights * known
        smooth = getattr(self.options, "smooth", 0.0)
        shared = (2.0 * hit * weights).sum(dim=1) + smooth
        return (1.0 - shared / (((predicted + reference) * weights).sum(dim=1) + smooth)).mean()

    def _areas(self, batch: _Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, U) areas in voxels: shared, predicted, of the reference; and whether the image tells of them."""
        sums, counts = batch.terms.sums, batch.terms.counts
        uncertain = counts @ (1.0 - self.certain).T
        if getattr(self.options, "batch", False):
            sums, counts, uncertain = (part.sum(dim=0, keepdim=True) for part in (sums, counts, uncertain))
        by_structure = torch.einsum("bsc,uc->bus", sums, self.structures)
        hit = (by_structure * self.inside).sum(dim=2)
        predicted = (by_structure * self.certain).sum(dim=2)
        reference = counts @ self.inside.T
        return hit, predicted, reference, (reference > 0) | (uncertain == 0)

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


def _nearest(label: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, *sp) -> (B, *size) by the voxel nearest to each new centre."""
    for axis, (old, new) in enumerate(zip(tuple(label.shape[1:]), size, strict=True), start=1):
        if old != new:
            index = ((torch.arange(new, device=label.device) + 0.5) * (old / new)).long()
            label = label.index_select(axis, index)
    return label
