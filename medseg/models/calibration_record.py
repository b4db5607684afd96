"""What a bundle says about its probabilities and sizes: a temperature, and intervals. Imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TemperatureRecord(_Strict):
    """By what averaged logits are divided, and what that did on the cases it was fitted on."""

    value: Positive = Field(
        description="1 leaves probabilities as they are; above 1 draws them to the middle."
    )
    nll_before: NotNegative = Field(description="Mean negative log-likelihood per voxel without it.")
    nll_after: NotNegative = Field(description="The same with it.")
    voxels: int = Field(ge=1, description="Voxels it was fitted on, of the box around the structures.")
    cases: int = Field(ge=1, description="Cases they come from.")
    patients: int = Field(ge=1, description="Patients behind them.")


class SizeIntervalRecord(_Strict):
    """How far the size of a structure may be off."""

    level: float = Field(gt=0, lt=1, description="Coverage asked for.")
    quantile: NotNegative | None = Field(
        description="Sizes lie within a factor exp(quantile) of the predicted; null: there is no interval."
    )
    cases: int = Field(ge=0, description="Calibration cases.")
    patients: int = Field(ge=0, description="Patients behind them.")
    reason: str = Field(default="", description="Why there is no interval.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.quantile is None) != bool(self.reason):
            raise ValueError("give a quantile, or the reason why there is none")
        return self

    @property
    def percent(self) -> tuple[float, float] | None:
        """How far down and up the interval reaches, in percent of the predicted size."""
        if self.quantile is None:
            return None
        return 100.0 * (1.0 - math.exp(-self.quantile)), 100.0 * (math.exp(self.quantile) - 1.0)

    @property
    def text(self) -> str:
        """The interval for people, or why there is none."""
        if self.percent is None:
            return self.reason
        return "-{:.1f} % to +{:.1f} %".format(*self.percent)


class CalibrationRecord(_Strict):
    """Fitted on cases that the networks never saw; the weights and the masks are as without it."""

    data: str = Field(min_length=1, description="Which cases, such as `validation split of liver`.")
    of: Literal["model", "members"] = Field(
        default="model",
        description="Whose answers were looked at: the model's own, or those of the single networks of an ensemble, "
        "each on cases of the fold that it never saw. A temperature of members is not used on their mean, which is "
        "less sure than each of them; intervals are, since the mean is hardly worse.",
    )
    temperature: TemperatureRecord | None = Field(
        default=None, description="Null: probabilities are those of the network."
    )
    sizes: dict[str, SizeIntervalRecord] = Field(
        default_factory=dict, description="By label or region; of volumes, or of areas for pictures."
    )
    fitted_with: str = Field(default="", description="Version of medseg.")
