"""Which DICOM volumes of a study are meant: a rule that settings hold. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SeriesRule(BaseModel):
    """Which DICOM volumes are meant, where a study holds several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    series: str | None = Field(
        default=None,
        description="Key of the listing of `medseg inspect`, series number, or Series Instance UID. null: any.",
    )
    modality: tuple[str, ...] = Field(default=(), description="DICOM modalities, such as [CT]. Empty: any.")
    description: str | None = Field(
        default=None,
        description="Pattern of the series description, such as '*thorax*'; upper and lower case are one.",
    )
    min_slices: int = Field(default=1, ge=1, description="Fewest slices.")
    max_spacing_mm: float | None = Field(
        default=None, gt=0, description="Largest distance between slices, mm. null: any."
    )
    prefer: Literal["none", "thinnest", "most_slices"] = Field(
        default="none", description="What decides where several volumes of a study fit all rules."
    )
    localizers: bool = Field(
        default=False, description="Whether images that only plan others are meant, too."
    )
