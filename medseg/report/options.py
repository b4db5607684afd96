"""What a YAML may say about the report. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medseg.amounts import MemorySize

TableFormat = Literal["csv", "json", "parquet"]
Percent = Annotated[float, Field(gt=0, le=1000)]


class ReportOptions(BaseModel):
    """The HTML pages of a run: one of the cohort, one of each case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: Literal["test", "all", "none"] = Field(
        default="test",
        description="Cases that get a page of their own (report.html in the folder of each): those of the test split, "
        "all, or none.",
    )
    title: str = Field(
        default="", max_length=200, description="Title of the page; empty: the pipeline's name."
    )
    language: Literal["en", "zh"] = Field(
        default="en", description="Language of the pages: English or simplified Chinese."
    )
    signoff: bool = Field(
        default=True, description="Whether each case has fields for accept, edit or reject and a note."
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
    compare_with: Path | None = Field(
        default=None,
        description="Folder of another run (or evaluation) of the same cases, relative to this file, which the cohort "
        "page compares this one with; differences are this run minus that one.",
    )
    pdf: bool = Field(
        default=False,
        description="Whether the page of the cohort and that of each case are also printed to report.pdf (needs "
        "medseg[pdf]).",
    )
    viewer: Literal["auto"] | bool = Field(
        default="auto",
        description="Whether the page of a volume has a 3D viewer (NiiVue, inside the page, 1.1 MB): auto: where the "
        "volume has 8 voxels or more along each axis.",
    )
    viewer_size: MemorySize = Field(
        default=8_000_000,
        le=100_000_000,
        description="What the image and the masks of the viewer may take in the page, such as 8MB; larger volumes are "
        "made smaller, with a note on the page.",
    )
    identify: bool = Field(
        default=False,
        description="Whether the page of a case tells the patient's identifier and the Study Instance UID; false: "
        "a pseudonym and neither.",
    )
    normal_values: Path | None = Field(
        default=None,
        description="measurements.csv of other cases, relative to this file, that sizes are ranked against. null: "
        "the other cases of the run, where there are 20 or more.",
    )
    previous: Path | None = Field(
        default=None,
        description="Folder of an earlier run, or of the results of `medseg predict`, relative to this file, with "
        "earlier examinations of the same patients (or cases of the same name). Earlier cases of the "
        "patient in this run are found without it, by their dates.",
    )
    date_column: str = Field(
        default="study_date",
        min_length=1,
        max_length=100,
        description="Column of the manifest with the date of each examination, YYYY-MM-DD or YYYYMMDD.",
    )
    test_retest_percent: dict[str, Percent] = Field(
        default_factory=dict,
        description="Label or region -> change of its size, in percent, that repeated examinations show without a "
        "change of the patient (repeatability coefficient); `other` stands for the rest. Larger changes are "
        "called beyond the noise; without a number no change is judged.",
    )
