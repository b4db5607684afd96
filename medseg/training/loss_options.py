"""What a YAML may say about the loss. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Weight = Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)]


_PERCENT = "Share of the labelled voxels that counts, in per cent."


class _Loss(BaseModel):
    """Fields of every loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_weights: dict[str, Weight] = Field(
        default_factory=dict,
        description="Weight by label, region or `background`; names not given have weight 1.",
    )
    level_weights: tuple[Weight, ...] | None = Field(
        default=None,
        min_length=1,
        description="Weights of the levels of deep supervision, finest first, scaled to sum 1; "
        "None: 1, 1/2, 1/4, ...",
    )


class _Overlap(_Loss):
    """Fields of losses that compare areas."""

    include_background: bool = Field(default=False, description="Background is a structure like any other.")
    batch: bool = Field(
        default=False, description="Areas are summed over the batch before they are compared, not per image."
    )
    smooth: float = Field(
        default=1e-5,
        gt=0.0,
        le=1e3,
        description="Added to numerator and denominator, in voxels; makes empty-empty perfect.",
    )


class _DicePart(_Overlap):
    """Fields of losses that join Dice with a voxelwise loss."""

    dice_weight: Weight = Field(default=1.0, description="Factor of the Dice part.")


class DiceLossOptions(_Overlap):
    """One minus the soft Dice coefficient, mean over structures and images."""

    use: Literal["dice"] = "dice"


class CrossEntropyOptions(_Loss):
    """Cross-entropy, mean over the voxels that are labelled."""

    use: Literal["ce"] = "ce"


class DiceCrossEntropyOptions(_DicePart):
    """Dice loss plus cross-entropy."""

    use: Literal["dice_ce"] = "dice_ce"
    ce_weight: Weight = Field(default=1.0, description="Factor of the cross-entropy part.")


class DiceTopKOptions(_DicePart):
    """Dice loss plus the cross-entropy of the worst voxels of each batch."""

    use: Literal["dice_top_k"] = "dice_top_k"
    percent: float = Field(default=10.0, gt=0.0, le=100.0, description=_PERCENT)
    ce_weight: Weight = Field(default=1.0, description="Factor of the cross-entropy part.")


class BoundaryOptions(_DicePart):
    """Dice loss plus cross-entropy plus the boundary loss, which counts how far off a wrong voxel lies."""

    use: Literal["dice_ce_boundary"] = "dice_ce_boundary"
    ce_weight: Weight = Field(default=1.0, description="Factor of the cross-entropy part.")
    boundary_weight: Weight = Field(
        default=0.05, description="Factor of the boundary part, after it has grown to this."
    )
    boundary_rise: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="Share of the training over which the factor of the boundary part grows from 0; 0: at once.",
    )
    voxel_size: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = Field(
        default=None,
        min_length=2,
        max_length=3,
        description="Size of a voxel of the prepared image along each axis, in mm; distances are in mm then. "
        "null: in voxels.",
    )


class GeneralisedDiceOptions(_Overlap):
    """One minus one Dice coefficient of all structures together, each weighted by one over its volume squared."""

    use: Literal["generalised_dice"] = "generalised_dice"


class FocalOptions(_Loss):
    """Cross-entropy that turns away from voxels that are right already."""

    use: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0.0, le=10.0, description="Power of (1 - p); 0 is cross-entropy.")


class DiceFocalOptions(_DicePart):
    """Dice loss plus focal loss."""

    use: Literal["dice_focal"] = "dice_focal"
    gamma: float = Field(default=2.0, ge=0.0, le=10.0, description="Power of (1 - p); 0 is cross-entropy.")
    focal_weight: Weight = Field(default=1.0, description="Factor of the focal part.")


class TverskyOptions(_Overlap):
    """Dice with its own price for false and for missed voxels."""

    use: Literal["tversky"] = "tversky"
    alpha: float = Field(default=0.3, ge=0.0, le=1.0, description="Price of a false positive voxel.")
    beta: float = Field(default=0.7, ge=0.0, le=1.0, description="Price of a missed voxel.")


class FocalTverskyOptions(_Overlap):
    """Tversky loss to a power: hard structures weigh more."""

    use: Literal["focal_tversky"] = "focal_tversky"
    alpha: float = Field(default=0.3, ge=0.0, le=1.0, description="Price of a false positive voxel.")
    beta: float = Field(default=0.7, ge=0.0, le=1.0, description="Price of a missed voxel.")
    gamma: float = Field(default=0.75, gt=0.0, le=10.0, description="Power of (1 - Tversky index).")


class TopKCrossEntropyOptions(_Loss):
    """Cross-entropy of the worst voxels of each batch only."""

    use: Literal["top_k_ce"] = "top_k_ce"
    percent: float = Field(default=10.0, gt=0.0, le=100.0, description=_PERCENT)


LossOptions = Annotated[
    DiceLossOptions
    | CrossEntropyOptions
    | DiceCrossEntropyOptions
    | FocalOptions
    | DiceFocalOptions
    | TverskyOptions
    | FocalTverskyOptions
    | TopKCrossEntropyOptions
    | DiceTopKOptions
    | BoundaryOptions
    | GeneralisedDiceOptions,
    Field(discriminator="use"),
]
