"""Which engine runs windows of one size, by what trials of engines found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medseg.amounts import time_text
from medseg.inference.engine_trial import Looked, Trial
from medseg.inference.options import EngineName

# A smaller gain may be noise.
_LEAST_GAIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """Which engine runs windows of one size, and why.

    Parameters
    ----------
    window : tuple of int
    engine : EngineName
    because : str
    tried : tuple of Trial
    final : bool
        Whether it stands; else the next image is looked at, too.
    """

    window: tuple[int, ...]
    engine: EngineName
    because: str
    tried: tuple[Trial, ...] = ()
    final: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "final"}

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each engine that ran and was refused."""
        refused = [t for t in self.tried if not t.passed and t.parity is not None]
        return tuple(f"Engine {t.engine} is not used: {t.because}." for t in refused)


def soonest(window: tuple[int, ...], known: Mapping[EngineName, Trial], runs: int) -> EngineChoice:
    """The engine that does so many runs soonest, of torch and those that passed.

    Parameters
    ----------
    window : tuple of int
    known : mapping of EngineName to Trial
        What was measured; torch among them, or nothing else counts.
    runs : int
        Runs of the network that are ahead.
    """
    tried = tuple(known.values())
    torch_s = known["torch"].seconds if "torch" in known else None
    if torch_s is None:
        because = f"the work, {runs} runs of the network, is too short for measuring"
        return EngineChoice(window=window, engine="torch", because=because, tried=tried)
    totals = {t.engine: t.start_s + runs * t.seconds for t in tried if t.passed and t.seconds is not None}
    best = min(totals, key=lambda name: (totals[name], name))
    if totals[best] > (1 - _LEAST_GAIN) * totals["torch"]:
        best = "torch"
    told = ", ".join(f"{name} {time_text(total)}" for name, total in sorted(totals.items()))
    because = f"soonest done of those whose masks agree, for {runs} runs with the start: {told}"
    return EngineChoice(window=window, engine=best, because=because, tried=tried)


def worst(trials: Sequence[Trial]) -> Trial:
    """What the trials of all members say together: the first failure or the least agreement, mean seconds."""
    failed = next((trial for trial in trials if trial.seconds is None), None)
    if failed is not None:
        return failed
    lowest = min(trials, key=lambda t: (t.passed, 0.0 if t.parity is None else t.parity.agreement))
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    return Trial(
        engine=lowest.engine,
        seconds=sum(seconds) / len(seconds),
        start_s=sum(trial.start_s for trial in trials),
        passed=lowest.passed,
        because=lowest.because,
        parity=lowest.parity,
    )


def of_torch(reference: Looked) -> Trial:
    """The trial of the reference itself, for its seconds."""
    return Trial(engine="torch", seconds=reference.seconds, start_s=0.0, passed=True, because="the reference")


def nothing_found(window: tuple[int, ...], *, final: bool = False) -> EngineChoice:
    """torch, because the image had no structure to compare masks by."""
    because = "no structure was found in the windows that were looked at, so there is nothing to compare by"
    return EngineChoice(window=window, engine="torch", because=because, final=final)
