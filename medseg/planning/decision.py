"""Decision: one setting of a run, where it comes from and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

GIVEN = "given in the settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One setting.

    Parameters
    ----------
    name : str
        As `--set` writes it, such as ``training.batch_size``.
    value : JSON value
    reason : str
        One phrase for people.
    given : bool
        Whether the settings say it; else the plan chose it.
    """

    name: str
    value: Any
    reason: str
    given: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "value": self.value,
            "reason": self.reason,
            "source": "given" if self.given else "chosen",
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(
            name=value["name"],
            value=value["value"],
            reason=value["reason"],
            given=value["source"] == "given",
        )


def chosen(name: str, value: Any, reason: str) -> Decision:
    """A setting that the plan chose."""
    return Decision(name=name, value=value, reason=reason)


def given(name: str, value: Any) -> Decision:
    """A setting that the settings say."""
    return Decision(name=name, value=value, reason=GIVEN, given=True)
