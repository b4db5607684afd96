"""What settings may say about the de-identification of data sets. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Retained = Literal[
    "uids",
    "device",
    "institution",
    "patient_characteristics",
    "dates_full",
    "dates_modified",
    "safe_private",
]
Cleaned = Literal["descriptors", "structured_content", "graphics"]

_SAFE_PRIVATE = re.compile(r"[0-9a-f]{3}[13579bdf],xx[0-9a-f]{2},[ -~]{1,64}")
SafePrivate = Annotated[str, Field(pattern=rf"^{_SAFE_PRIVATE.pattern}$")]
"""A private element that identifies nobody, such as `0043,xx2c,GEMS_PARM_01`."""


class ProfileOptions(BaseModel):
    """Options of the Basic Application Level Confidentiality Profile (DICOM PS3.15 E.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retain: tuple[Retained, ...] = Field(
        default=(),
        description="Options of the profile that keep something. dates_modified: dates are shifted, by days of the "
        "patient's own; safe_private: private elements that the standard, the instance itself or `safe_private` calls "
        "safe.",
    )
    clean: tuple[Cleaned, ...] = Field(
        default=(),
        description="Options of the profile that clean what would be removed. descriptors: of descriptions the words "
        "of a list stay; structured_content: reports keep structure, codes, numbers and references, their texts go; "
        "graphics: annotations keep their lines, their texts go.",
    )
    safe_private: tuple[SafePrivate, ...] = Field(
        default=(),
        description="Private elements that identify nobody, for `retain: [safe_private]`: group, xx and element, "
        "creator, such as `0043,xx2c,GEMS_PARM_01`.",
    )
    burned_in: Literal["refuse", "declared", "accept"] = Field(
        default="refuse",
        description="Images that may show identifiers in their pixels. refuse: those that say so and those of kinds "
        "that often do (ultrasound, secondary captures, screens); declared: those that say so; accept: none "
        "is refused.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if {"dates_full", "dates_modified"} <= set(self.retain):
            raise ValueError("retain: dates are kept in full or modified, not both")
        if self.safe_private and "safe_private" not in self.retain:
            raise ValueError("safe_private: name it in `retain`, too")
        return self


class ImageMatch(BaseModel):
    """Which images a rule is for; everything that is given must hold. Texts may have * and ?, case does not matter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: tuple[str, ...] = Field(default=(), description="Modalities, such as US; none: all.")
    manufacturer: str = Field(default="*", description="Manufacturer.")
    model: str = Field(default="*", description="Manufacturer's Model Name.")
    rows: int | None = Field(default=None, ge=1, description="Rows of the image.")
    columns: int | None = Field(default=None, ge=1, description="Columns of the image.")


Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels from the upper left corner; x1 and y1 are the first that are left."""


class BlankRule(BaseModel):
    """What is blanked in the pixels of some images (DICOM PS3.15 E.3.1); the first rule that matches is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: ImageMatch = Field(default=ImageMatch(), description="Which images.")
    regions: tuple[Region, ...] = Field(
        default=(), description="Rectangles x0, y0, x1, y1 that are blanked; x1 and y1 are outside."
    )
    keep_ultrasound_regions: bool = Field(
        default=False,
        description="Blank all that lies outside the regions that the image itself lists (Sequence of Ultrasound "
        "Regions).",
    )

    @model_validator(mode="after")
    def _blanks_something(self) -> Self:
        if not self.regions and not self.keep_ultrasound_regions:
            raise ValueError("give `regions` or `keep_ultrasound_regions`")
        for x0, y0, x1, y1 in self.regions:
            if not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise ValueError(
                    f"regions: [{x0}, {y0}, {x1}, {y1}] is no rectangle; expected x0 < x1 and y0 < y1"
                )
        return self
