"""What a YAML may say about the report. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ReportOptions(BaseModel):
    """The HTML report of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: Literal["test", "all", "none"] = Field(
        default="test",
        description="Cases that get a section of their own: those of the test split, all, or none.",
    )
    title: str = Field(
        default="", max_length=200, description="Title of the page; empty: the pipeline's name."
    )
    signoff: bool = Field(
        default=True, description="Whether each case has fields for accept, edit or reject and a note."
    )
