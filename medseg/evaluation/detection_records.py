"""What became of each predicted and each reference instance of a case; written to and read from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medseg.evaluation.instance_options import DetectionOptions
from medseg.evaluation.rows import Cell

COLUMNS = (
    "case_id",
    "structure",
    "state",
    "reference",
    "predicted",
    "iou",
    "confidence",
    "voxels",
    "where",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A predicted and a reference instance that share voxels, or whose centre lies in the other.

    Parameters
    ----------
    predicted, reference : int
        Numbers from 1.
    iou : float
        Intersection over union, open voxels left out.
    covered : float
        Share of the reference instance that the predicted one covers.
    centre : bool
        Whether the voxel at the centre of the predicted one belongs to the reference instance.
    """

    predicted: int
    reference: int
    iou: float
    covered: float
    centre: bool

    def admitted(self, options: DetectionOptions) -> bool:
        """Whether the two may be matched under the rule of the settings."""
        if options.match == "centre":
            return self.centre
        return self.iou >= options.min_iou if options.match == "iou" else self.covered >= options.min_overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A predicted instance and what became of it.

    Parameters
    ----------
    number : int
    voxels : int
    confidence : float or None
    matched : int or None
        Number of its reference instance.
    iou : float
        With that one; without one the largest with any, 0 where it touches none.
    open_share : float
        Share of its voxels that the reference leaves open, or has in a component below the least size.
    set_aside : bool
        Not matched, and mostly in such voxels: neither found nor invented.
    text : str
        Size and place in words.
    """

    number: int
    voxels: int
    confidence: float | None
    matched: int | None
    iou: float
    open_share: float = 0.0
    set_aside: bool = False
    text: str = ""

    @property
    def invented(self) -> bool:
        """Whether it counts as a false positive."""
        return self.matched is None and not self.set_aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A reference instance: found by which predicted one (None: missed), with which IoU, else the largest with any."""

    number: int
    voxels: int
    matched: int | None
    iou: float
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureDetection:
    """Instances of one structure in one case.

    Parameters
    ----------
    structure : str
    judged : bool
        False where the reference does not tell the structure: nothing of it counts.
    predicted : tuple of Candidate
    reference : tuple of Target
    pairs : tuple of Overlap
        All pairs that touch.
    """

    structure: str
    judged: bool
    predicted: tuple[Candidate, ...]
    reference: tuple[Target, ...]
    pairs: tuple[Overlap, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StructureDetection:
        """What `to_json` wrote."""
        return cls(
            structure=value["structure"],
            judged=value["judged"],
            predicted=tuple(Candidate(**item) for item in value["predicted"]),
            reference=tuple(Target(**item) for item in value["reference"]),
            pairs=tuple(Overlap(**item) for item in value["pairs"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDetection:
    """Instances of all structures of one case."""

    case_id: str
    patient_id: str
    structures: tuple[StructureDetection, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN."""
        return {
            "case_id": self.case_id,
            "patient_id": self.patient_id,
            "structures": [structure.to_json() for structure in self.structures],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CaseDetection:
        """What `to_json` wrote."""
        return cls(
            case_id=value["case_id"],
            patient_id=value["patient_id"],
            structures=tuple(StructureDetection.from_json(item) for item in value["structures"]),
        )

    def rows(self) -> list[dict[str, Cell]]:
        """A row for each instance of either side: found, missed, invented, set aside or not judged; see `COLUMNS`."""
        rows: list[dict[str, Cell]] = []
        for found in self.structures:
            head: dict[str, Cell] = {"case_id": self.case_id, "structure": found.structure}
            sure = {candidate.number: candidate.confidence for candidate in found.predicted}
            for target in found.reference:
                state = "missed" if target.matched is None else "found"
                rows.append(
                    {
                        **head,
                        "state": state if found.judged else "not judged",
                        "reference": target.number,
                        "predicted": target.matched,
                        "iou": target.iou,
                        "confidence": None if target.matched is None else sure[target.matched],
                        "voxels": target.voxels,
                        "where": target.text,
                    }
                )
            for candidate in found.predicted:
                if candidate.matched is not None:
                    continue
                state = "set aside" if candidate.set_aside else "invented"
                rows.append(
                    {
                        **head,
                        "state": state if found.judged else "not judged",
                        "predicted": candidate.number,
                        "iou": candidate.iou,
                        "confidence": candidate.confidence,
                        "voxels": candidate.voxels,
                        "where": candidate.text,
                    }
                )
        return rows
