"""The plan of a run: every setting with its reason, what was noticed, what the training will take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from medseg.errors import StorageError
from medseg.planning.cost import Prediction
from medseg.planning.decision import Decision

PLAN_FILE = "plan.json"
PLAN_FORMAT = 2
BASIS = (
    "Choices follow from the training cases, the budget and the device alone; the number of epochs also from the "
    "speed that the probe measured. The plan is kept, so that a run that was cut off goes on with it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does.

    Parameters
    ----------
    decisions : tuple of Decision
    notes : tuple of str
        What a user should know before the first epoch, one sentence each.
    facts : mapping
        JSON values about data, machine, network and probe.
    prediction : Prediction or None
        None without a training or a probe.
    """

    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any]
    prediction: Prediction | None = None

    def value(self, name: str) -> Any:
        """Value of one decision."""
        return next(decision.value for decision in self.decisions if decision.name == name)

    def rows(self) -> list[tuple[str, str, str]]:
        """Decision, value and reason for a table; a list of steps has a row for each."""
        return [row for decision in self.decisions for row in _rows(decision)]

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        return {
            "format": PLAN_FORMAT,
            "basis": BASIS,
            "decisions": [decision.to_json() for decision in self.decisions],
            "notes": list(self.notes),
            **self.facts,
            "prediction": None if self.prediction is None else self.prediction.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        known = {"format", "basis", "decisions", "notes", "prediction"}
        prediction = value["prediction"]
        return cls(
            decisions=tuple(Decision.from_json(decision) for decision in value["decisions"]),
            notes=tuple(value["notes"]),
            facts={name: part for name, part in value.items() if name not in known},
            prediction=None if prediction is None else Prediction.from_json(prediction),
        )


def read_plan(folder: Path) -> Plan:
    """The plan that lies in a run folder.

    Raises
    ------
    StorageError
        It is missing or damaged.
    """
    path = folder / PLAN_FILE
    try:
        return Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise StorageError(
            f"the plan {path} cannot be read ({type(err).__name__}: {err}); repeat it with --only plan"
        ) from err


def _rows(decision: Decision) -> list[tuple[str, str, str]]:
    value = decision.value
    steps = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
    names, reasons = [decision.name, *[""] * len(steps)], [decision.reason, *[""] * len(steps)]
    return [(n, value_text(v), r) for n, v, r in zip(names, steps, reasons, strict=False)]


def value_text(value: Any) -> str:
    """A setting in one line, as YAML would write it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {value_text(part)}" for name, part in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
