"""What a YAML may say about the recognition of targets. Imports no NumPy and no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Connectivity = Literal["corners", "faces"]
MatchRule = Literal["iou", "overlap", "centre"]
Share = Annotated[float, Field(gt=0, le=1)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecogniseOptions(_Options):
    """Which connected objects of a mask are told one by one, with place, size and confidence."""

    labels: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default="all", description="Labels and regions whose instances are told; all: every label."
    )
    connectivity: Connectivity = Field(
        default="corners",
        description="What is one instance. corners: voxels that share a corner, an edge or a face; faces: a face.",
    )
    min_mm2: float | None = Field(
        default=None, gt=0, description="Least area in mm2; 2-D with known pixel spacing."
    )
    min_ml: float | None = Field(
        default=None, gt=0, description="Least volume in ml; 3-D with known spacing."
    )
    min_pixels: int | None = Field(default=None, ge=1, description="Least number of pixels or voxels.")
    nearest_within_mm: float = Field(
        default=50.0,
        gt=0,
        le=1000,
        description="Farthest that another label may lie from the centre of an instance to be named as nearest, mm.",
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        names = ("min_mm2", "min_ml", "min_pixels")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give at most one of {', '.join(names)}, found {given}")
        if self.labels != "all" and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels names {list(self.labels)}; each may stand there once")
        return self


class DetectionOptions(_Options):
    """How recognised instances are held against those of the reference."""

    match: MatchRule = Field(
        default="iou",
        description="When an instance may count as found. iou: by intersection over union; overlap: by the share of "
        "the reference instance that is covered; centre: the centre of the predicted one lies in the other.",
    )
    min_iou: Share = Field(default=0.5, description="Least intersection over union for match: iou, 0..1.")
    min_overlap: Share = Field(
        default=0.1, description="Least covered share of the reference instance for match: overlap, 0..1."
    )
    ap_iou: Annotated[tuple[Share, ...], Field(min_length=1)] = Field(
        default=(0.1, 0.25, 0.5, 0.75),
        description="Intersections over union at which the average precision is computed.",
    )
    froc: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = Field(
        default=(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        description="Invented instances per case at which the share of found ones is told.",
    )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for name in ("ap_iou", "froc"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must ascend, found {list(values)}")
        return self
