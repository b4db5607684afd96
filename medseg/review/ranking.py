"""Which results a person should look at first, and why.

The score of a result is its worst flag level (0 pass, 1 note, 2 review, 3 fail; 4 where there is no result) plus a
share below 1 that orders results of one level: ``1 - (1 - u)(1 - d) 0.9^(n - 1)``, where u is 1 minus the mean
probability in the core of the least certain structure, d the mean disagreement of an ensemble's networks in the
structure where they differ most, and n the number of flags of that level. Equal scores are in the order of case ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.quality.flag import LEVELS

FAILED = "failed"
LOW_CONFIDENCE = "Q401"
_ORDER: dict[str, int] = {level: number for number, level in enumerate((*LEVELS, FAILED))}
_PER_FLAG = 0.9
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCase:
    """One case in the order of review.

    Parameters
    ----------
    case_id : str
    level : str
        Worst flag level: fail, review, note or pass; failed where there is no result.
    score : float
        See the module.
    flags : tuple of str
        Code, level and structure of each flag, the worst first.
    uncertainty, disagreement : float or None
        u and d of the score; None where the record does not tell.
    because : str
        The reasons in words.
    """

    case_id: str
    level: str
    score: float
    flags: tuple[str, ...] = ()
    uncertainty: float | None = None
    disagreement: float | None = None
    because: str

    def row(self, rank: int) -> dict[str, object]:
        """The line of review.csv."""
        return {
            "rank": rank,
            "case_id": self.case_id,
            "level": self.level,
            "score": round(self.score, 4),
            "flags": "; ".join(self.flags),
            "uncertainty": None if self.uncertainty is None else round(self.uncertainty, 4),
            "disagreement": None if self.disagreement is None else round(self.disagreement, 4),
            "because": self.because,
        }


def rank_cases(
    records: Mapping[str, Mapping[str, Any]], failures: Mapping[str, str] | None = None
) -> tuple[RankedCase, ...]:
    """Order results, the one that most needs a person first.

    Parameters
    ----------
    records : mapping of str to mapping
        Case id -> its measurements.json.
    failures : mapping of str to str, optional
        Case id -> why there is no result.

    Returns
    -------
    tuple of RankedCase
        The same for the same records, whatever their order.
    """
    ranked = [_ranked(case_id, record) for case_id, record in records.items()]
    ranked += [
        RankedCase(case_id=case_id, level=FAILED, score=float(_ORDER[FAILED]), because=f"no result: {text}")
        for case_id, text in (failures or {}).items()
    ]
    return tuple(sorted(ranked, key=lambda case: (-round(case.score, 9), case.case_id)))


def _ranked(case_id: str, record: Mapping[str, Any]) -> RankedCase:
    flags = sorted(
        record.get("flags", ()), key=lambda f: (-_ORDER.get(f["level"], 0), f["code"], f["structure"])
    )
    # A gate that a user overruled is told by its level alone.
    level = max(
        (str(record.get("verdict", "pass")), *(str(f["level"]) for f in flags)), key=_ORDER.__getitem__
    )
    unsure = _worst({name: 1 - v for name, v in _numbers(record, "mean_probability")})
    apart = _worst(dict(_numbers(record, "disagreement")))
    count = sum(flag["level"] == level for flag in flags)
    doubt = 1 - (1 - _share(unsure)) * (1 - _share(apart)) * _PER_FLAG ** max(0, count - 1)
    return RankedCase(
        case_id=case_id,
        level=level,
        score=_ORDER[level] + min(doubt, 1 - 1e-9),
        flags=tuple(" ".join(filter(None, (f["code"], f["level"], f["structure"]))) for f in flags),
        uncertainty=None if unsure is None else unsure[1],
        disagreement=None if apart is None else apart[1],
        because=_because(flags, unsure, apart),
    )


def _numbers(record: Mapping[str, Any], name: str) -> Iterable[tuple[str, float]]:
    """(structure, value) of one number of the record's confidence, those that are finite."""
    for structure, values in record.get("confidence", {}).items():
        value = values.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            yield structure, float(value)


def _worst(values: Mapping[str, float]) -> tuple[str, float] | None:
    return max(values.items(), key=lambda item: (round(item[1], 9), item[0]), default=None)


def _share(found: tuple[str, float] | None) -> float:
    return 0.0 if found is None else min(max(found[1], 0.0), 1.0)


def _because(
    flags: Sequence[Mapping[str, Any]], unsure: tuple[str, float] | None, apart: tuple[str, float] | None
) -> str:
    texts = [f"{flag['code']} {flag['text']}" for flag in flags]
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    said = [*texts[:_SHOWN], *more] or ["no flags"]
    if unsure is not None and not any(flag["code"] == LOW_CONFIDENCE for flag in flags):
        said.append(f"mean probability {1 - unsure[1]:.2f} in the core of {unsure[0]}")
    if apart is not None:
        said.append(f"networks disagree by {apart[1]:.2f} in {apart[0]}")
    return "; ".join(said)
