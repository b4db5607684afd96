"""One case gone through: probabilities and sizes against the reference. Many of them: what is fitted, what is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medseg import __version__
from medseg.calibration.conformal import LEVEL
from medseg.calibration.reliability import Reliability, ReliabilitySums, reliability
from medseg.calibration.sizes import SizePair, fit_sizes, size_pairs
from medseg.calibration.temperature import TemperatureFit, fit_temperature
from medseg.calibration.voxels import FOREGROUND, MARGIN_MM, MARGIN_SHARE, VoxelSample, start_watch
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.rows import Cell
from medseg.inference.options import PostprocessStep
from medseg.inference.postprocess import postprocess
from medseg.inference.predictor import Predictor
from medseg.inference.scaling import Scaling
from medseg.labels import LabelTable
from medseg.models.calibration_record import CalibrationRecord, SizeIntervalRecord, TemperatureRecord
from medseg.volume import Volume

MOST_VOXELS = 2_000_000
"""Voxels of all cases that a temperature is fitted on; of more, every so many-th."""
REGION_TEXT = (
    f"voxels of the box around a structure in the reference, {MARGIN_MM:g} mm wider on each side "
    f"({MARGIN_SHARE:.0%} of the longest side where the spacing is not known), and voxels anywhere that the network "
    "gives it with a probability of at least 0.5; on the grid of the network"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseLook:
    """What one case says about the probabilities and sizes of a model.

    Parameters
    ----------
    patient_id : str
    unscaled, calibrated : mapping of str to ReliabilitySums
        By structure, `FOREGROUND` for all labels together.
    sample : VoxelSample
    sizes : mapping of str to SizePair
        By label and region, after clean-up.
    """

    patient_id: str
    unscaled: Mapping[str, ReliabilitySums]
    calibrated: Mapping[str, ReliabilitySums]
    sample: VoxelSample
    sizes: Mapping[str, SizePair]


def look_at(
    predictor: Predictor,
    volume: Volume,
    reference: NDArray[Any],
    *,
    cleaning: Sequence[PostprocessStep] = (),
    patient_id: str,
    seed: int = 0,
) -> CaseLook:
    """Predict an image and hold its probabilities and sizes against the reference.

    Probabilities are summed block by block as they come, so memory stays that of a prediction, with one set index a
    voxel of the network's grid more.

    Parameters
    ----------
    predictor : Predictor
    volume : Volume
    reference : (1, *source) integer array
        Set indices.
    cleaning : sequence of PostprocessStep, optional
        Sizes are those after it.
    patient_id : str
    seed : int, optional
        Of the sample.
    """
    table = predictor.table
    start = partial(
        start_watch,
        reference=reference,
        volume=volume,
        table=table,
        scaled=predictor.scaling.changes,
        seed=seed,
    )
    found = predictor.predict(volume, watch=start)
    label_map = postprocess(found.label_map, cleaning, table=table, spacing_mm=volume.spacing_mm)
    return CaseLook(
        patient_id=patient_id,
        unscaled=found.watch.unscaled(),
        calibrated=found.watch.calibrated(),
        sample=found.watch.sample,
        sizes=size_pairs(label_map, reference[0], table),
    )


def fit_record(
    looks: Sequence[CaseLook],
    scaling: Scaling,
    table: LabelTable,
    *,
    data: str,
    of: Literal["model", "members"] = "model",
    level: float = LEVEL,
    sizes: Iterable[tuple[str, Mapping[str, SizePair]]] | None = None,
) -> CalibrationRecord:
    """Temperature and intervals of sizes as a bundle keeps them.

    Parameters
    ----------
    looks : sequence of CaseLook
        Of cases that the network never saw.
    scaling : Scaling
        How the predictor's values become probabilities.
    table : LabelTable
    data : str
        Which cases.
    of : {"model", "members"}, optional
        Whose answers these are.
    level : float, optional
        Coverage of the intervals.
    sizes : iterable of (patient_id, pairs), optional
        Instead of those of the looks, where more cases have some.
    """
    fit = _temperature([look.sample for look in looks if look.sample.values.size], scaling)
    patients = len({look.patient_id for look in looks})
    pairs = [(look.patient_id, look.sizes) for look in looks] if sizes is None else sizes
    intervals = fit_sizes(pairs, list(table.region_classes()), level=level)
    return CalibrationRecord(
        data=f"{data}: {len(looks)} images of {patients} patients",
        of=of,
        temperature=None
        if fit is None
        else TemperatureRecord(
            value=round(fit.temperature, 4),
            nll_before=fit.nll_before,
            nll_after=fit.nll_after,
            voxels=fit.voxels,
            cases=len(looks),
            patients=patients,
        ),
        sizes={
            name: SizeIntervalRecord(
                level=found.level,
                quantile=found.quantile,
                cases=found.cases,
                patients=found.patients,
                reason=found.reason,
            )
            for name, found in intervals.items()
        },
        fitted_with=__version__,
    )


def _temperature(samples: Sequence[VoxelSample], scaling: Scaling) -> TemperatureFit | None:
    if not samples:
        return None
    values = np.concatenate([sample.values for sample in samples], axis=1)
    allowed = np.concatenate([sample.allowed for sample in samples])
    step = -(-values.shape[1] // MOST_VOXELS)
    shown, allowed = torch.from_numpy(np.ascontiguousarray(values[:, ::step])), allowed[::step]
    unscaled = scaling.choice.probabilities(shown, class_count=scaling.class_count)

    def likely(temperature: float) -> NDArray[np.floating]:
        scaled = replace(scaling, temperature=temperature).probabilities(shown, unscaled)
        found: NDArray[np.floating] = scaled.numpy()
        return found

    return fit_temperature(likely, allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSummary:
    """Reliability of each structure over cases, with and without the temperature of the model.

    Parameters
    ----------
    calibrated, unscaled : mapping of str to Reliability
        By structure, `FOREGROUND` for all labels together.
    temperature : float
    data : str
        Which cases.
    """

    calibrated: Mapping[str, Reliability]
    unscaled: Mapping[str, Reliability]
    temperature: float
    data: str

    def to_json(self) -> dict[str, Any]:
        """As calibration.json holds it: all labels together, and each structure."""
        names = [name for name in self.calibrated if name != FOREGROUND]
        return {
            "format": 1,
            **self._entry(FOREGROUND),
            "of": "all labels together",
            "structures": {name: self._entry(name) for name in names},
            "data": self.data,
            "region": REGION_TEXT,
            "note": f"{self.data}; {REGION_TEXT}",
        }

    def rows(self) -> list[dict[str, Cell]]:
        """One row per structure and state, for calibration.csv."""
        return [
            {"structure": name or "all labels", "state": state, "temperature": heat, **found[name].row()}
            for name in self.calibrated
            for state, heat, found in self._states
        ]

    def bin_rows(self) -> list[dict[str, Cell]]:
        """One row per bin with a voxel, for calibration_bins.csv."""
        return [
            {"structure": name or "all labels", "state": state, **row}
            for name in self.calibrated
            for state, _, found in self._states
            for row in found[name].bin_rows()
        ]

    @property
    def _states(self) -> tuple[tuple[str, float, Mapping[str, Reliability]], ...]:
        own = ("network", 1.0, self.unscaled)
        return (own,) if self.temperature == 1.0 else (own, ("calibrated", self.temperature, self.calibrated))

    def _entry(self, name: str) -> dict[str, Any]:
        entry = {**self.calibrated[name].to_json(), "temperature": self.temperature}
        return entry | {"without_temperature": self.unscaled[name].to_json()}


def summarise_looks(
    looks: Sequence[CaseLook],
    *,
    temperature: float,
    data: str,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 1,
) -> CalibrationSummary:
    """Sum cases up.

    Parameters
    ----------
    looks : sequence of CaseLook
        One or more.
    temperature : float
        Of the predictor that looked.
    data : str
    samples, level, seed : optional
        Of the bootstrap over patients.
    """
    draws = PatientBootstrap.draw(
        [look.patient_id for look in looks], samples=samples, level=level, seed=seed
    )

    def of(state: str) -> dict[str, Reliability]:
        names = list(getattr(looks[0], state))
        return {
            name: reliability([(look.patient_id, getattr(look, state)[name]) for look in looks], draws)
            for name in names
        }

    return CalibrationSummary(
        calibrated=of("calibrated"), unscaled=of("unscaled"), temperature=temperature, data=data
    )
