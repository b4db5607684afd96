"""The searched settings as parameters: what a trial is given, and what that means in the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from medseg.search.options import DimensionOptions

Raw: TypeAlias = int | float | str


class Suggests(Protocol):
    """What is needed of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One searched setting.

    Parameters
    ----------
    key : str
        Dotted path of the setting.
    dimension : DimensionOptions
    labels : tuple of str
        A text for each choice; empty for a range.
    """

    key: str
    dimension: DimensionOptions
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``choice``, ``int`` or ``float``."""
        return "choice" if self.labels else "int" if self.dimension.whole else "float"

    def suggest(self, trial: Suggests) -> Raw:
        """The value of a trial: a number, or the text of a choice."""
        d = self.dimension
        if self.labels:
            return str(trial.suggest_categorical(self.key, self.labels))
        if d.low is None or d.high is None:
            raise ValueError(f"{self.key} has no range")
        if d.whole:
            return trial.suggest_int(self.key, int(d.low), int(d.high), step=int(d.step or 1), log=d.log)
        return trial.suggest_float(self.key, float(d.low), float(d.high), step=d.step, log=d.log)

    def setting(self, raw: Raw) -> Any:
        """What stands in the settings for a value of a trial."""
        if not self.labels or self.dimension.choices is None:
            return raw
        return self.dimension.choices[self.labels.index(str(raw))]

    def samples(self) -> list[Any]:
        """Every choice, or both ends of the range: what is checked before the first trial."""
        if self.dimension.choices is not None:
            return list(self.dimension.choices)
        return [self.dimension.low, self.dimension.high]


def parameters(space: Mapping[str, DimensionOptions]) -> tuple[Parameter, ...]:
    """The searched settings in the order of the file, which is also the order in which they are drawn."""
    return tuple(
        Parameter(key=key, dimension=d, labels=tuple(map(choice_text, d.choices or ())))
        for key, d in space.items()
    )


def settings_of(found: Sequence[Parameter], raw: Mapping[str, Raw]) -> dict[str, Any]:
    """Dotted key -> value for the settings."""
    return {parameter.key: parameter.setting(raw[parameter.key]) for parameter in found}


def choice_text(value: Any) -> str:
    """A choice as people write it: `tversky`, `[16, 32]`, `{use: tversky, alpha: 0.3}`."""
    if isinstance(value, Mapping):
        if set(value) == {"use"}:
            return str(value["use"])
        return "{" + ", ".join(f"{key}: {choice_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(choice_text, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
