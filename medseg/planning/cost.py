"""What a training takes: predicted from a few measured steps, and compared with what it took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from medseg.amounts import bytes_text, time_text

RAM_TOLERANCE = 0.2
TIME_TOLERANCE = 0.3
# Measured on hippocampus: results are also brought onto the source grid, measured and judged.
_CALIBRATION_COST = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a training of a few steps took.

    Parameters
    ----------
    step_s : float
        One update of the weights, its batch loaded and augmented.
    epoch_end_s : float
        End of an epoch without validation: the checkpoint.
    validation_s, preparation_s : float
        All validation cases of the probe; all cases of the probe made ready.
    validation_voxels, preparation_voxels : float
        What those seconds were spent on: voxels shown to the network, voxels of source images.
    other_s : float
        Start and end of the training: network, loader, bundle.
    ram_bytes : int
        Peak of the process and its loader workers.
    start_bytes : int
        Memory of the process before the training: the program itself.
    gpu_bytes : int or None
        Peak on the CUDA device; None without one.
    steps : int
        Steps that were measured.
    """

    step_s: float
    epoch_end_s: float
    validation_s: float
    validation_voxels: float
    preparation_s: float
    preparation_voxels: float
    other_s: float
    ram_bytes: int
    start_bytes: int
    gpu_bytes: int | None
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the whole training does, in the units of a `ProbeResult`.

    Parameters
    ----------
    steps_per_epoch, validate_every : int
    validation_voxels : float
        Voxels shown to the network in one validation of all cases.
    preparation_voxels : float
        Voxels of all source images.
    calibration_voxels : float
        Voxels shown to the network when the input gate is fitted after the training.
    """

    steps_per_epoch: int
    validate_every: int
    validation_voxels: float
    preparation_voxels: float
    calibration_voxels: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a training is expected to take; `parts` splits the seconds by what they are spent on."""

    ram_bytes: int
    seconds: float
    gpu_bytes: int | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """One phrase for people."""
        gpu = "" if self.gpu_bytes is None else f", {bytes_text(self.gpu_bytes)} of GPU memory"
        return f"{bytes_text(self.ram_bytes)} of memory{gpu}, {time_text(self.seconds)}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = asdict(self)
        return value | {"parts": {name: round(s, 3) for name, s in self.parts.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**value)


def fixed_seconds(probe: ProbeResult, work: Work) -> float:
    """Seconds that a training takes whatever the number of its epochs."""
    return sum(_fixed(probe, work).values())


def seconds_by_epochs(probe: ProbeResult, work: Work, epochs: int) -> dict[str, float]:
    """Seconds of `epochs` epochs, by what they are spent on; the last epoch is always validated."""
    validations = -(-epochs // work.validate_every)
    return {
        "steps": epochs * work.steps_per_epoch * probe.step_s,
        "checkpoints": epochs * probe.epoch_end_s,
        "validation": validations * work.validation_voxels * _rate(probe),
    }


def predict(
    probe: ProbeResult, work: Work, *, epochs: int, program_bytes: int = 0, limit_s: float | None = None
) -> Prediction:
    """Memory and time of a training of `epochs` epochs.

    Parameters
    ----------
    program_bytes : int, optional
        Memory, so far, of the process that will train; what it has beyond the probe's is added.
    limit_s : float, optional
        Time after which the training itself, not what is before and after it, ends in any case.
    """
    fixed, epoch_parts = _fixed(probe, work), seconds_by_epochs(probe, work, epochs)
    share = min(1.0, (limit_s or math.inf) / max(1e-9, sum(epoch_parts.values())))
    parts = fixed | {name: seconds * share for name, seconds in epoch_parts.items()}
    return Prediction(
        ram_bytes=probe.ram_bytes + max(0, program_bytes - probe.start_bytes),
        gpu_bytes=probe.gpu_bytes,
        seconds=round(sum(parts.values()), 3),
        parts=parts,
    )


def fitting_epochs(
    probe: ProbeResult, work: Work, *, seconds: float, most: int, whole: bool = True
) -> tuple[int, float]:
    """Epochs that fit into `seconds`, at most `most`, and the seconds of one.

    Parameters
    ----------
    whole : bool, optional
        Whether preparation, start and end count, too, or the epochs alone.

    Returns
    -------
    (int, float)
        0 epochs where not even one fits; the seconds are those that one epoch needs.
    """
    fixed = fixed_seconds(probe, work) if whole else 0.0

    def needed(epochs: int) -> float:
        return fixed + sum(seconds_by_epochs(probe, work, epochs).values())

    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle) <= seconds else (low, middle - 1)
    return low, needed(1)


def _fixed(probe: ProbeResult, work: Work) -> dict[str, float]:
    prepared = probe.preparation_s / max(1.0, probe.preparation_voxels)
    # Each calibration image is read and prepared once more, like a case of the preparation.
    calibration = _CALIBRATION_COST * work.calibration_voxels * _rate(probe)
    calibration += work.preparation_voxels * prepared if work.calibration_voxels else 0.0
    return {
        "preparation": work.preparation_voxels * prepared,
        "start and end": probe.other_s,
        "calibration": calibration,
    }


def _rate(probe: ProbeResult) -> float:
    return probe.validation_s / probe.validation_voxels if probe.validation_voxels else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a training took beside what was predicted; a ratio above 1 says that it took more."""

    ram_bytes: int
    seconds: float
    predicted: Prediction

    @property
    def ram_ratio(self) -> float:
        """Measured over predicted memory."""
        return self.ram_bytes / self.predicted.ram_bytes

    @property
    def time_ratio(self) -> float:
        """Measured over predicted time."""
        return self.seconds / self.predicted.seconds

    @property
    def text(self) -> str:
        """One sentence for people."""
        return (
            f"took {bytes_text(self.ram_bytes)} of memory (predicted {bytes_text(self.predicted.ram_bytes)}) "
            f"and {time_text(self.seconds)} (predicted {time_text(self.predicted.seconds)})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "text": self.text,
            "ram_bytes": self.ram_bytes,
            "seconds": round(self.seconds, 3),
            "predicted_ram_bytes": self.predicted.ram_bytes,
            "predicted_seconds": self.predicted.seconds,
            "ram_within": abs(self.ram_ratio - 1) <= RAM_TOLERANCE,
            "time_within": abs(self.time_ratio - 1) <= TIME_TOLERANCE,
        }


def compare(predicted: Prediction | None, *, ram_bytes: int, seconds: float) -> Comparison | None:
    """What a training took beside what its plan said; None where the plan predicted nothing."""
    if predicted is None:
        return None
    return Comparison(ram_bytes=ram_bytes, seconds=seconds, predicted=predicted)
