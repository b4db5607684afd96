"""What is known of a trial and of a search as a whole, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medseg.search.space import Raw

TrialState = Literal["complete", "pruned", "failed", "running", "waiting"]
ENDED: tuple[TrialState, ...] = ("complete", "pruned", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialJob:
    """One training to be done: its number in the study, and the settings that it changes."""

    number: int
    raw: Mapping[str, Raw]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended.

    Parameters
    ----------
    state : "complete", "pruned" or "failed"
    value : float or None
        Of a complete trial: the metric of the weights that came out.
    reason : str
        Why it was pruned or failed; "" for a complete trial.
    facts : mapping
        JSON values about a complete trial, such as `weights_sha256`.
    """

    state: TrialState
    value: float | None = None
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """A trial as the study remembers it.

    Parameters
    ----------
    number : int
    state : TrialState
    raw : mapping
        Key -> number, or text of a choice.
    value : float or None
    reason : str
    seconds : float
        Time that was spent on it.
    curve : mapping of int to float
        Epoch, counted from 1 -> metric; not finite values are left out.
    facts : mapping
    """

    number: int
    state: TrialState
    raw: Mapping[str, Raw]
    value: float | None = None
    reason: str = ""
    seconds: float = 0.0
    curve: Mapping[int, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Last epoch that was validated."""
        return max(self.curve, default=0)

    @property
    def shown(self) -> float | None:
        """The value, or the last one of a trial that did not end."""
        return self.value if self.value is not None else self.curve.get(self.epochs)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = asdict(self)
        return {**plain, "epochs": self.epochs, "curve": {str(k): v for k, v in self.curve.items()}}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> TrialRow:
        """What `to_json` gave."""
        known = {name: plain[name] for name in cls.__slots__ if name != "curve"}
        return cls(**known, curve={int(epoch): value for epoch, value in plain["curve"].items()})


def best_row(rows: Sequence[TrialRow], *, higher_is_better: bool) -> TrialRow | None:
    """The best complete trial, the first of equals; None where there is none."""
    whole = [row for row in rows if row.state == "complete" and row.value is not None]
    sign = -1.0 if higher_is_better else 1.0
    return min(whole, key=lambda row: (sign * (row.value or 0.0), row.number), default=None)


def finite(value: float | None) -> float | None:
    """The value, None where it is no number."""
    return value if value is not None and math.isfinite(value) else None
