"""What a YAML may say about the input gate and the flags. Imports no NumPy and no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.evaluation.options import MetricName

FlagCode = Literal[
    "Q101",
    "Q102",
    "Q201",
    "Q202",
    "Q203",
    "Q301",
    "Q302",
    "Q303",
    "Q304",
    "Q401",
    "Q402",
    "Q403",
    "Q501",
    "Q601",
]
FlagLevel = Literal["note", "review", "fail"]
GateCheckName = Literal[
    "modality", "orientation", "field of view", "proportions", "values", "histogram", "appearance", "sides"
]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GateOptions(_Options):
    """When an image is too unlike what a model was trained on."""

    refuse: bool = Field(
        default=True,
        description="Refuse images that fail the gate (exit code 3; nothing is written for the case). "
        "False: segment them all the same and flag them Q402, level fail.",
    )
    smallest_side: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None,
        description="Images with fewer voxels than this along i or j are refused. null: 64 for pictures, 8 for "
        "volumes, which are cut out around an organ.",
    )
    largest_aspect: float = Field(
        default=3.0, ge=1.0, le=100.0, description="Images longer than this times their width are refused."
    )
    fewest_levels: int = Field(
        default=16,
        ge=2,
        le=4096,
        description="Images with fewer different grey values are refused (masks, drawings).",
    )
    colour_tolerance: Share = Field(
        default=0.02,
        description="For a model of grey images: mean difference of colour channels, as a share of the "
        "grey range, above which an image counts as a colour photograph and is refused.",
    )
    spacing: Literal["flag", "refuse", "off"] = Field(
        default="flag",
        description="Volumes whose spacing lies outside that of the training volumes: flagged Q402, level review; "
        "refused; or not looked at. Bundles that do not tell the spacing of their training have no limit.",
    )
    spacing_factor: float = Field(
        default=1.5,
        ge=1.0,
        le=100.0,
        description="How far beyond the finest and the coarsest training spacing a volume may lie, as a factor.",
    )
    extent_factor: float = Field(
        default=1.25,
        ge=1.0,
        le=100.0,
        description="How far beyond the shortest and the longest training volume along an axis of the body a volume "
        "may reach, as a factor; beyond it is flagged Q402, level review.",
    )
    off: tuple[GateCheckName, ...] = Field(
        default=(), description="Checks against the training images that are not made."
    )
    review_distance: float | None = Field(
        default=None,
        gt=0,
        description="Feature distance above which an image is flagged. None: the limit of the model bundle.",
    )
    doubt_distance: float | None = Field(
        default=None,
        gt=0,
        description="Feature distance above which an image is refused if its result is implausible, too. "
        "None: the limit of the model bundle.",
    )
    refuse_distance: float | None = Field(
        default=None,
        gt=0,
        description="Feature distance above which an image is refused in any case. None: the limit of the "
        "model bundle.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = [
            (name, value)
            for name in ("review_distance", "doubt_distance", "refuse_distance")
            if (value := getattr(self, name)) is not None
        ]
        for (low_name, low), (high_name, high) in pairwise(given):
            if high < low:
                raise ValueError(f"{high_name} {high:g} lies below {low_name} {low:g}")
        return self


class FlagOptions(_Options):
    """Limits of the checks on a result; each flag has a stable code."""

    off: tuple[FlagCode, ...] = Field(default=(), description="Codes of checks that are not made.")
    levels: dict[FlagCode, FlagLevel] = Field(
        default_factory=dict,
        description="Level of every flag of a code, in place of its own: note, review or fail.",
    )
    expected: Literal["all"] | tuple[str, ...] = Field(
        default="all", description="Labels that must be found (Q501); all: every label of the table."
    )
    stray_share: Share = Field(
        default=0.01, description="Q201: share of a structure that may lie outside its largest part."
    )
    hole_share: Share = Field(
        default=0.005, description="Q202: share of a structure that closed holes may have."
    )
    hole_ml: float = Field(
        default=0.5,
        ge=0,
        description="Q202: volume of closed holes that is let pass in volumes, ml, however small a share it is.",
    )
    slice_step: float = Field(
        default=0.35,
        ge=0,
        le=1,
        description="Q203: how much less two neighbouring slices of a structure may overlap (1 - Dice) than those "
        "around them; where the model knows its training cohort, the larger of this and the cohort's upper percentile.",
    )
    percentiles: tuple[float, float] = Field(
        default=(0.5, 99.5),
        description="Q301, Q302, Q304: percentiles of the training cohort, 0 to 100, outside of which a size, a ratio "
        "or a position is unlikely.",
    )
    cohort_margin: Annotated[float, Field(ge=0, le=10)] | None = Field(
        default=None,
        description="Q301, Q302, Q304: how far beyond those percentiles a number may lie, as a share of the way to the "
        "median: the ends of a cohort are not known exactly. null: as far as the model bundle says that all of them "
        "together flag 2.5 % of its left-out training results; 0.1 where it does not tell.",
    )
    wrong_side_share: Share = Field(
        default=0.02,
        description="Q303: share of a left label that may lie beyond the centre of the right one (or the "
        "reverse).",
    )
    uncertain_share: Share = Field(
        default=0.10, description="Q401: share of a structure's core that may be undecided."
    )
    least_probability: Share = Field(
        default=0.85,
        description="Q401, where that share is not known: least mean probability of a structure's core.",
    )
    disagreement: Share = Field(
        default=0.15,
        description="Q403: share of pairs of networks of an ensemble that may differ, averaged over a structure.",
    )
    agreement: dict[MetricName, float] = Field(
        default_factory=dict,
        description="Q601: metric -> limit for each case that has a reference: the least where more is "
        "better, the most otherwise.",
    )

    @model_validator(mode="after")
    def _percentiles_ascend(self) -> Self:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must ascend between 0 and 100, found {low:g} and {high:g}")
        return self
