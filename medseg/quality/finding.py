"""Finding: one thing that speaks against an input, and how much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

GateLevel = Literal["pass", "review", "refuse"]
_ORDER: tuple[GateLevel, ...] = ("pass", "review", "refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check of the input gate found.

    Parameters
    ----------
    check : str
        Stable name, such as "size", "colour", "distance", "fraction lung_left".
    level : str
        "review": a person should look; "refuse": the model must not be used on this image.
    text : str
        One sentence without identifiers.
    measured, limit : float or None
    """

    check: str
    level: Literal["review", "refuse"]
    text: str
    measured: float | None = None
    limit: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def worst_level(levels: Iterable[GateLevel]) -> GateLevel:
    """The most severe of some levels; "pass" of none."""
    return max(levels, key=_ORDER.index, default="pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """One thing that the gate looked at, and how it ended.

    Parameters
    ----------
    name : str
        Stable name for people, such as "modality" or "field of view".
    finding : Finding or None
        What speaks against the image; None where it passed or was not judged.
    reason : str
        Why it was not judged; "" otherwise.
    measured, limit : float or None
    """

    name: str
    finding: Finding | None = None
    reason: str = ""
    measured: float | None = None
    limit: float | None = None

    @property
    def outcome(self) -> Literal["passed", "flagged", "not judged"]:
        """How it ended."""
        return "flagged" if self.finding else "not judged" if self.reason else "passed"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the finding, which stands among the findings."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "reason": self.reason,
            "measured": self.measured,
            "limit": self.limit,
        }
