"""How a stress test is made. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from medseg.errors import ConfigError
from medseg.evaluation.options import EvaluationOptions
from medseg.transforms.corruption_levels import SEVERITIES, GeometryCorruption, ValueCorruption

ATTACKS = ("fgsm", "pgd")
ALL_TESTS: tuple[str, ...] = (*get_args(ValueCorruption), *get_args(GeometryCorruption), *ATTACKS)
QUICK_CASES = 8


class StressOptions(BaseModel):
    """What is tried, on how many cases, and what is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tests: tuple[str, ...] = Field(ALL_TESTS, min_length=1, description="Corruptions and attacks, by name.")
    severities: tuple[int, ...] = Field(SEVERITIES, min_length=1, description="Of 1 (mild) to 5.")
    cases: int | None = Field(None, ge=1, description="Cases that are drawn; None: all.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the draw and of every pattern.")
    steps: int = Field(10, ge=1, le=1000, description="Steps of PGD.")
    metrics: EvaluationOptions = Field(
        default_factory=lambda: EvaluationOptions.model_validate(
            {"metrics": [{"use": "dice"}, {"use": "hd95"}], "samples": 1000}
        ),
        description="Metrics, resamples and level of the intervals; the first metric ranks.",
    )

    @field_validator("tests")
    @classmethod
    def _known(cls, tests: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in tests if name not in ALL_TESTS]
        if unknown:
            raise ValueError(f"no test {unknown[0]!r}")
        return tests

    @field_validator("severities")
    @classmethod
    def _in_range(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        if any(s not in SEVERITIES for s in severities) or list(severities) != sorted(set(severities)):
            raise ValueError("severities ascend within 1 to 5")
        return severities


def stress_options(
    *, only: Sequence[str] = (), quick: bool = False, cases: int | None = None, seed: int = 0
) -> StressOptions:
    """The options of a command.

    Parameters
    ----------
    only : sequence of str
        Corruptions and attacks; all unless given.
    quick : bool
        Three severities, Dice alone, eight cases unless `cases` says otherwise, five steps of PGD.
    cases : int or None
    seed : int

    Raises
    ------
    ConfigError
        A corruption or attack that does not exist.
    """
    names = tuple(dict.fromkeys(name.strip() for text in only for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in ALL_TESTS]
    if unknown:
        raise ConfigError(
            f"--only {unknown[0]}: no such corruption or attack; there are {', '.join(ALL_TESTS)}"
        )
    options = StressOptions(tests=names or ALL_TESTS, cases=cases, seed=seed)
    if not quick:
        return options
    dice = EvaluationOptions.model_validate({"metrics": [{"use": "dice"}], "samples": 1000})
    return options.model_copy(
        update={"severities": (1, 3, 5), "metrics": dice, "steps": 5, "cases": cases or QUICK_CASES}
    )
