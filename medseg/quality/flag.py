"""Flags and checks: the codes, what a flag says, and what the checks are given to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.cases import CaseEvaluation
from medseg.evaluation.quantities import CaseMeasures
from medseg.labels import LabelTable
from medseg.quality.family import LEAST_MARGIN
from medseg.quality.finding import Finding, GateCheck
from medseg.quality.options import FlagCode, FlagLevel
from medseg.quality.place import MaskOf, Place
from medseg.quality.ranges import Range

Verdict = Literal["pass", "note", "review", "fail"]
LEVELS: tuple[Verdict, ...] = ("pass", "note", "review", "fail")

CHECKS: dict[FlagCode, str] = {
    "Q101": "cut off at the edge of the field of view",
    "Q102": "slice gap or doubled slice",
    "Q201": "disconnected parts",
    "Q202": "closed holes",
    "Q203": "step between slices",
    "Q301": "unlikely size",
    "Q302": "left/right ratio",
    "Q303": "left and right swapped",
    "Q304": "position of structures to each other",
    "Q401": "low confidence in the core",
    "Q402": "input unlike the training data",
    "Q403": "disagreement of folds",
    "Q501": "expected structure absent",
    "Q601": "agreement with the reference",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One thing that is or may be wrong, and one thing to do about it.

    Parameters
    ----------
    code : str
        Stable, see `CHECKS`.
    level : str
        "note", "review" or "fail".
    structure : str
        Label, region or pair; "" for the whole image.
    text : str
        One sentence without identifiers.
    measured, limit : float or None
        In `unit`.
    advice : str
        What to do.
    unit : str
        Such as "ml", "mm" or "1" for a share; "" where nothing was measured.
    place : Place or None
        Where to look; None for the whole image, and for what is absent.
    """

    code: FlagCode
    level: FlagLevel
    structure: str
    text: str
    measured: float | None
    limit: float | None
    advice: str
    unit: str = ""
    place: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """That a check was made of a structure, and how it ended; `reason` where it was not judged.

    `part` tells checks of one code apart, such as those of the input; `measured` and `limit` are in `unit`.
    """

    code: FlagCode
    structure: str
    outcome: Literal["passed", "flagged", "not judged"]
    reason: str = ""
    part: str = ""
    measured: float | None = None
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFlags:
    """All flags and checks of a case; `verdict` is the worst level, "pass" without flags."""

    verdict: Verdict
    flags: tuple[Flag, ...]
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the titles of the codes."""
        value = asdict(self)
        for item in (*value["flags"], *value["checks"]):
            item["title"] = CHECKS[item["code"]]
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFacts:
    """What is known of a result; parts that are None make their checks "not judged".

    Parameters
    ----------
    label_map : (*sp) integer array
        Class indices.
    table : LabelTable
    measures : CaseMeasures
    confidence : mapping, optional
        Label or region -> numbers: "uncertain_core", the share of the core that is undecided (border band left
        out), or else "mean_probability" of the core. Of a region they are those of the sum over its labels.
    ranges : mapping, optional
        From `fit_ranges`, with the record of this result in `record`.
    cohort_margin : float, optional
        Room beyond the ends of those ranges, from `family.cohort_margin`.
    record : mapping, optional
        From `plausibility_record`.
    gate : sequence of Finding, optional
        What the input gate found; empty where it passed, None where the model has no gate.
    gate_checks : sequence of GateCheck, optional
        All that the input gate looked at; takes the place of `gate`.
    doubled : sequence of int, optional
        Slices of the image that equal the next one, from `doubled_slices`.
    even_slices : bool, optional
        Whether the places of all slices are known and even; None where the file does not tell them.
    affine : (4, 4) array, optional
        As in `Volume`.
    patient_orientation : (str, str), optional
        As in `Volume`.
    evaluation : CaseEvaluation, optional
        Where there is a reference.
    """

    label_map: NDArray[Any]
    table: LabelTable
    measures: CaseMeasures
    confidence: Mapping[str, Mapping[str, float]] | None = None
    ranges: Mapping[str, Range] | None = None
    cohort_margin: float = LEAST_MARGIN
    record: Mapping[str, float] | None = None
    gate: Sequence[Finding] | None = None
    gate_checks: Sequence[GateCheck] | None = None
    doubled: Sequence[int] | None = None
    even_slices: bool | None = None
    affine: NDArray[np.float64] | None = None
    patient_orientation: tuple[str, str] | None = None
    evaluation: CaseEvaluation | None = None

    def mask(self, structure: str) -> MaskOf:
        """The mask of a label, box by box."""
        index = self.table.class_index(structure)
        return lambda box: np.asarray(self.label_map[box] == index, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended: a flag, passed, or not judged for a reason."""

    code: FlagCode
    structure: str
    flag: Flag | None = None
    reason: str = ""
    part: str = ""
    measured: float | None = None
    limit: float | None = None
    unit: str = ""

    def check(self) -> Check:
        """For the list of all checks."""
        outcome: Literal["passed", "flagged", "not judged"] = (
            "flagged" if self.flag else "not judged" if self.reason else "passed"
        )
        number = self.flag or self
        return Check(
            code=self.code,
            structure=self.structure,
            outcome=outcome,
            reason=self.reason,
            part=self.part,
            measured=number.measured,
            limit=number.limit,
            unit=number.unit,
        )
