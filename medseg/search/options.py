"""What a YAML may say about a search for settings. Imports neither torch nor Optuna."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medseg.amounts import Duration

_FROZEN = ConfigDict(frozen=True, extra="forbid")
_URL = re.compile(r"\w{3,}:/+\w")
SettingKey = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*(\.[A-Za-z0-9_-]+)*$", max_length=200)]


class DimensionOptions(BaseModel):
    """The values that one setting may take: a range, or a list of choices."""

    model_config = _FROZEN

    low: int | float | None = Field(
        None,
        description="Smallest value of a range. Where both bounds are whole numbers, only whole numbers are "
        "tried; write 0.0 for fractions.",
    )
    high: int | float | None = Field(None, description="Largest value of a range, itself included.")
    log: bool = Field(
        False, description="Whether the range is searched by factors, as suits a learning rate."
    )
    step: int | float | None = Field(None, gt=0, description="Distance of the values of a range.")
    choices: tuple[Any, ...] | None = Field(
        None, min_length=1, max_length=100, description="The values, each as it would stand in the file."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        ranged = self.low is not None or self.high is not None
        if ranged == (self.choices is not None):
            raise ValueError("give either low and high, or choices")
        if self.choices is not None and (self.log or self.step is not None):
            raise ValueError("log and step belong to a range, not to choices")
        if ranged:
            self._check_range()
        return self

    def _check_range(self) -> None:
        if self.low is None or self.high is None:
            raise ValueError("a range has both low and high")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low:g} and {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a range with log starts above 0 and has no step")
        if self.whole and self.step is not None and not isinstance(self.step, int):
            raise ValueError("the step of whole numbers is a whole number; write the bounds with a point")

    @property
    def whole(self) -> bool:
        """Whether the range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class TpeOptions(BaseModel):
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011): tries what is like the good trials."""

    model_config = _FROZEN

    use: Literal["tpe"] = "tpe"
    seed: int = Field(1, ge=0, lt=2**63, description="Seed of the values.")
    startup_trials: int = Field(
        5, ge=1, description="Trials with random values before the first that learns from others."
    )


class RandomOptions(BaseModel):
    """Random values, each trial by itself."""

    model_config = _FROZEN

    use: Literal["random"] = "random"
    seed: int = Field(1, ge=0, lt=2**63, description="Seed of the values.")


SamplerOptions = Annotated[TpeOptions | RandomOptions, Field(discriminator="use")]


class MedianPrunerOptions(BaseModel):
    """End a trial whose best value so far is worse than the median of the others at the same epoch."""

    model_config = _FROZEN

    use: Literal["median"] = "median"
    startup_trials: int = Field(3, ge=1, description="Trials that run to their end before any is pruned.")
    warmup_epochs: int = Field(3, ge=0, description="Epochs that every trial may run.")


class NoPrunerOptions(BaseModel):
    """Every trial runs to its end."""

    model_config = _FROZEN

    use: Literal["none"] = "none"


PrunerOptions = Annotated[MedianPrunerOptions | NoPrunerOptions, Field(discriminator="use")]


class SearchOptions(BaseModel):
    """Which settings are searched, how many trainings may be spent on it, and what comes after."""

    model_config = _FROZEN

    trials: int = Field(
        20, ge=1, le=100_000, description="Trainings that are tried; pruned and failed ones count."
    )
    time: Duration | None = Field(
        None,
        description="Time after which no trial starts and the one that runs is ended: 2h, 30min; null: no limit.",
    )
    metric: str = Field("dice", min_length=1, description="Validation value by which trials are compared.")
    metric_is: Literal["higher_better", "lower_better"] = Field(
        "higher_better", description="Which direction of the metric is better."
    )
    sampler: SamplerOptions = Field(TpeOptions(), description="How the values of a trial are chosen.")
    pruner: PrunerOptions = Field(MedianPrunerOptions(), description="When a bad trial is ended early.")
    storage: Path | None = Field(
        None,
        description="SQLite file of the study, relative to this file; runs that name the same one share it. "
        "null: a file in the run's folder.",
    )
    storage_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the URL of a database that machines share, such as "
        "postgresql+psycopg://user:password@host/name; the URL itself never stands in a file.",
    )
    parallel: int = Field(1, ge=1, le=256, description="Trials at the same time; they share the threads.")
    then: Literal["train_best", "stop"] = Field(
        "train_best", description="After the search: train with the best values and go on, or stop."
    )
    settings: dict[SettingKey, Any] = Field(
        default_factory=dict,
        description="Settings of the trials alone, by dotted key, such as training.epochs: 10; the training "
        "after the search keeps those of the file.",
    )
    space: dict[SettingKey, DimensionOptions] = Field(
        min_length=1,
        description="Setting, by its dotted key as after --set -> the values that are tried: "
        "training.learning_rate: {low: 1e-4, high: 1e-2, log: true}.",
    )

    @field_validator("storage", mode="before")
    @classmethod
    def _no_url(cls, value: Any) -> Any:
        # A path is joined to the folder of the file before it gets here, which leaves `name:/`.
        if value is not None and _URL.search(str(value)):
            raise ValueError(
                "storage is a file; the URL of a database may hold a password: put it into an environment "
                "variable and name that with storage_env"
            )
        return value

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.storage is not None and self.storage_env is not None:
            raise ValueError("storage and storage_env name two places for one study; keep one")
        both = sorted(set(self.settings) & set(self.space))
        if both:
            raise ValueError(f"{both[0]} stands in settings and in space; keep one")
        return self

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return self.metric_is == "higher_better"
