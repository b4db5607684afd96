"""What a YAML may say about the report. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TableFormat = Literal["csv", "json", "parquet"]


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
    language: Literal["en", "zh"] = Field(
        default="en", description="Language of the pages: English or Chinese."
    )
    tables: tuple[TableFormat, ...] = Field(
        default=("csv", "json"),
        description="Files of the tables beside the cohort page; parquet needs medseg[parquet].",
    )
    worst: int = Field(
        default=12,
        ge=0,
        le=100,
        description="Cases that the cohort page shows a small picture of, the worst first.",
    )
    compare_with: str | None = Field(
        default=None,
        description="Folder of another run (or evaluation) of the same cases, which the cohort page compares this one "
        "with; differences are this run minus that one.",
    )
    pdf: bool = Field(
        default=False, description="Whether the cohort page is also written as report.pdf; needs medseg[pdf]."
    )
