"""What the probabilities of evaluated cases say, gathered while their results are made, and kept for the evaluation.

A case that is predicted for its result need not be predicted once more to hold its probabilities against the
reference. What is gathered lies in the cache of the run, at most some hundred kilobytes a case; where it is not there,
because another version or another process made the results, it is made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.manifest import Case
from medseg.pipeline.kept_arrays import Arrays, read_arrays, write_arrays
from medseg.provenance import sha256_json

if TYPE_CHECKING:
    from medseg.calibration.look import CaseLook
    from medseg.inference.answer import Answer
    from medseg.models.bundle import Bundle
    from medseg.pipeline.context import Context
    from medseg.pipeline.model import LoadedModel
    from medseg.volume import Volume

MOST_CASES = {2: 400, 3: 60}
"""Images whose probabilities are looked at, by their number of axes; of more, those whose names hash lowest."""


def chosen_cases(cases: Sequence[Case], *, dims: int) -> set[str]:
    """The cases that are looked at, of those that could be."""
    ordered = sorted(cases, key=lambda case: sha256_json(case.case_id))
    return {case.case_id for case in ordered[: MOST_CASES[dims]]}


def hands_over(config: Any) -> bool:
    """Whether predictions are looked at on the way; below a ceiling of memory they are made as small as can be."""
    return bool(config.evaluation.calibration and config.predict.max_ram is None)


def seed_of(case_id: str) -> int:
    """Seed of the voxels that are drawn of a case, whatever the order of the cases."""
    return int(sha256_json(case_id)[:8], 16)


def look_key(context: Context, bundle: Bundle, case_id: str) -> str:
    """What a look depends on: the raw prediction, how probabilities are scaled, and the reference."""
    from medseg.pipeline.cleaning import answer_key

    return sha256_json(
        [
            answer_key(context, bundle, case_id),
            bundle.record.temperature,
            context.config.predict.precision,
            context.config.predict.engine,
            context.device(),
            context.run.record["inputs"][case_id],
            context.table.to_json(),
            context.section("data"),
        ]
    )


@dataclass(frozen=True, slots=True)
class LookStore:
    """A folder with one file for each case."""

    folder: Path

    def read(self, case_id: str, key: str, *, patient_id: str) -> CaseLook | None:
        """The look that was written with this key, without sizes; None where there is none or it is damaged."""
        return read_arrays(self.folder, case_id, key, partial(_look, patient_id))

    def write(self, case_id: str, key: str, look: CaseLook) -> None:
        """Keep a look, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {
            "unscaled": _rows(look.unscaled),
            "calibrated": _rows(look.calibrated),
            "values": look.sample.values,
            "allowed": look.sample.allowed,
        }
        write_arrays(self.folder, case_id, key, arrays, {"structures": list(look.unscaled)})


def _look(patient_id: str, stored: Arrays, said: Mapping[str, Any]) -> CaseLook:
    from medseg.calibration.look import CaseLook
    from medseg.calibration.reliability import ReliabilitySums
    from medseg.calibration.voxels import VoxelSample

    sums = {
        state: {
            name: ReliabilitySums.from_row(row)
            for name, row in zip(said["structures"], stored[state], strict=True)
        }
        for state in ("unscaled", "calibrated")
    }
    sample = VoxelSample(values=stored["values"], allowed=stored["allowed"])
    return CaseLook(patient_id=patient_id, sample=sample, sizes={}, **sums)


def _rows(sums: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.stack([one.row() for one in sums.values()])


def looks(context: Context) -> LookStore:
    """Where looks are kept."""
    return LookStore(context.run.cache / "looks")


@dataclass(slots=True)
class Watched:
    """Answers of a run, looked at on the way where the evaluation will ask for it.

    Parameters
    ----------
    context : Context
    """

    context: Context
    _wanted: set[str] | None = field(default=None, init=False)

    def answer(self, model: LoadedModel, case: Case, volume: Volume) -> Answer:
        """What the network makes of the image of a case, see `LoadedModel.answer`."""
        from medseg.calibration.look import CaseLook
        from medseg.calibration.voxels import start_watch
        from medseg.pipeline.readers import read_reference

        context = self.context
        if case.case_id not in self._cases(model.bundle.spatial_dims):
            return model.answer(volume)
        start = partial(
            start_watch,
            reference=read_reference(case, volume, context.config, context.table),
            volume=volume,
            table=context.table,
            scaled=model.predictor.scaling.changes,
            seed=seed_of(case.case_id),
        )
        answer = model.answer(volume, watch=start)
        watch = answer.watch
        look = CaseLook(
            patient_id=case.patient_id,
            unscaled=watch.unscaled(),
            calibrated=watch.calibrated(),
            sample=watch.sample,
            sizes={},
        )
        looks(context).write(case.case_id, look_key(context, model.bundle, case.case_id), look)
        return answer

    def _cases(self, dims: int) -> set[str]:
        if self._wanted is None:
            context = self.context
            cases = context.labelled(context.chosen(context.config.evaluation.cases))
            self._wanted = chosen_cases(cases, dims=dims) if hands_over(context.config) else set()
        return self._wanted
