"""Raw predictions kept on disk, so that clean-up can be tuned on them without asking the network twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import GridMap
from medseg.inference.certainty import CertaintyMap
from medseg.inference.union_plan import UnionPlan
from medseg.pipeline.kept_arrays import Arrays, read_arrays, write_arrays

if TYPE_CHECKING:
    from medseg.inference.answer import Answer


@dataclass(frozen=True, slots=True)
class AnswerStore:
    """A folder with one file for each case."""

    folder: Path

    def read(self, case_id: str, key: str) -> Answer | None:
        """The answer that was written with this key, None where there is none or it is damaged."""
        return read_arrays(self.folder, case_id, key, _answer)

    def write(self, case_id: str, key: str, answer: Answer) -> None:
        """Keep an answer, whole or not at all."""
        said = {
            "confidence": {name: dict(values) for name, values in answer.confidence.items()},
            "entropy": dict(answer.entropy),
            "disagreement": dict(answer.disagreement),
            "passes": answer.passes,
            "notes": list(answer.notes),
            "windows": dict(answer.windows),
            "certainty": None,
        }
        features = np.empty(0, dtype=np.float32) if answer.features is None else answer.features
        arrays: dict[str, NDArray[Any]] = {"label_map": answer.label_map, "features": features}
        if answer.certainty is not None:
            known = answer.certainty
            arrays |= {"winner": known.label_map, "winning": known.winning, "matrix": known.grid.matrix}
            arrays |= {f"union{number}": steps for number, steps in enumerate(known.unions)}
            said["certainty"] = {
                "source": known.grid.source_shape,
                "target": known.grid.target_shape,
                "temperature": known.temperature,
                "regions": known.plan.to_json() if known.unions else None,
            }
        write_arrays(self.folder, case_id, key, arrays, said)


def _answer(stored: Arrays, said: Mapping[str, Any]) -> Answer:
    from medseg.inference.answer import Answer

    features = stored["features"]
    return Answer(
        certainty=_certainty(stored, said),
        label_map=stored["label_map"],
        confidence=said["confidence"],
        entropy=said["entropy"],
        disagreement=said.get("disagreement", {}),
        features=features if features.size else None,
        passes=said["passes"],
        notes=tuple(said["notes"]),
        windows=said.get("windows", {}),
    )


def _certainty(stored: Arrays, said: Mapping[str, Any]) -> CertaintyMap | None:
    shapes = said.get("certainty")
    if shapes is None:
        return None
    grid = GridMap(
        source_shape=tuple(shapes["source"]), target_shape=tuple(shapes["target"]), matrix=stored["matrix"]
    )
    plan = UnionPlan() if shapes.get("regions") is None else UnionPlan.from_json(shapes["regions"])
    return CertaintyMap(
        unions=tuple(stored[f"union{number}"] for number in range(len(plan.layers))),
        plan=plan,
        label_map=stored["winner"],
        winning=stored["winning"],
        grid=grid,
        temperature=float(shapes.get("temperature", 1.0)),
    )
