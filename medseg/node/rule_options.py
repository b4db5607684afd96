"""What a YAML may say about which series are segmented, by what, and what happens to the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from medseg.amounts import Duration, MemorySize, Wait
from medseg.export.options import ExportName
from medseg.inference.options import EngineSetting
from medseg.pacs.options import DestinationName, Options

Pattern = Annotated[str, Field(max_length=200)]


class MatchOptions(Options):
    """What a series must be like; all that is given must match.

    Texts: `*` and `?` stand for any characters, case is ignored, and "" is a series that does not say.
    """

    modality: tuple[str, ...] = Field(default=(), description="Modalities, such as [CR, DX]; empty: any.")
    body_part: tuple[Pattern, ...] = Field(default=(), description="Body Part Examined, any of these.")
    description: tuple[Pattern, ...] = Field(default=(), description="Series Description, any of these.")
    not_description: tuple[Pattern, ...] = Field(default=(), description="Series Description, none of these.")
    protocol: tuple[Pattern, ...] = Field(default=(), description="Protocol Name, any of these.")
    view: tuple[Pattern, ...] = Field(
        default=(),
        description="View Position of radiographs, such as [PA, AP]: one image of the series at least is any of these.",
    )
    calling_ae_title: tuple[Pattern, ...] = Field(default=(), description="Who sent it, any of these.")
    min_slices: int = Field(default=1, ge=1, description="Fewest instances or frames.")
    max_slices: int | None = Field(
        default=None, ge=1, description="Most instances or frames; null: no limit."
    )
    max_spacing_mm: float | None = Field(default=None, gt=0, description="Largest step between slices, mm.")


class RuleOptions(Options):
    """One kind of series and what is done with it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="Shown in the queue.")
    match: MatchOptions = Field(default=MatchOptions(), description="Which series.")
    model: str | None = Field(default=None, description="Name of a shipped model, or folder of a bundle.")
    pipeline: Path | None = Field(
        default=None, description="Pipeline YAML whose model, prediction, measurements and exports are taken."
    )
    choose: Literal["best", "all"] = Field(
        default="best",
        description="best: of several series of a study that match, the one with most slices, thinnest first; the "
        "others are told why not. all: each.",
    )
    exports: tuple[ExportName, ...] = Field(
        default=("nifti", "dicom_seg", "measurement_sr", "html"),
        min_length=1,
        description="Files of a result.",
    )
    engine: EngineSetting = Field(default="auto", description="What runs the network on a CPU.")
    send_to: tuple[DestinationName, ...] = Field(default=(), description="Destinations of the result.")
    priority: int = Field(default=0, ge=-100, le=100, description="Jobs of a higher one go first.")
    runs: Literal["auto", "on_arrival", "on_request"] = Field(
        default="auto",
        description="on_arrival: for every study that has a series like this; on_request: when a work item asks for "
        "it, and only then; auto: on_request where `workitems` of a source names the rule, else on_arrival. One that "
        "runs on arrival may be asked for as well.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.model is None) == (self.pipeline is None):
            raise ValueError("give either `model` or `pipeline`")
        return self


class JobOptions(Options):
    """Limits of jobs; each runs in a process of its own that never touches the network."""

    workers: int = Field(default=1, ge=1, le=64, description="Jobs at a time.")
    max_ram: MemorySize = Field(
        default=8 * 10**9, description="Memory of one job; one that needs more is ended."
    )
    max_time: Duration = Field(default=3600.0, description="A job that takes longer is ended.")
    attempts: int = Field(
        default=3, ge=1, le=20, description="Tries of a job that dies or hangs, then it is given up."
    )
    first_wait: Duration = Field(default=30.0, description="Wait after a failed try; it doubles with each.")
    stop_grace: Wait = Field(
        default=10.0,
        le=15.0,
        description="How long a job that runs when the node is stopped may take to end; others go back to the queue.",
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of one job; null: shared out."
    )

    @field_validator("max_ram")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value < 100 * 10**6:
            raise ValueError("expected 100MB or more, such as 8GB; a number without a unit is in bytes")
        return value


class ReviewOptions(Options):
    """Which results wait for a person before they are sent."""

    hold: Literal["never", "fail", "review", "always"] = Field(
        default="review",
        description="Least verdict that is held: fail: flags that block; review: also those that ask for a look; "
        "always: everything; never: nothing, flags go along.",
    )
