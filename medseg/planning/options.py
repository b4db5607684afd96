"""What a YAML may say about the means of a training."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from medseg.amounts import Duration, MemorySize


class BudgetOptions(BaseModel):
    """What the training may take; the plan chooses the settings that are `auto` to fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ram: MemorySize | None = Field(
        default=None,
        description="Main memory, such as 8GB; null: 70 % of what is free when the plan is made.",
    )
    time: Duration = Field(
        default=1200.0,
        description="Time of the training with its validations, such as 20min; `training.epochs: auto` is "
        "fitted to it, or to training.time where that is given.",
    )
    gpu_memory: MemorySize | None = Field(
        default=None,
        description="Memory of the CUDA device, such as 24GB; null: 90 % of what is free when the plan is made.",
    )
    probe: bool = Field(
        default=True,
        description="Whether the plan runs a few training steps to measure memory and time; without it "
        "nothing is predicted and training.epochs must be a number.",
    )
