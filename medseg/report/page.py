"""What a report says, as data: the cohort, its cases, and the pictures of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from medseg.report.language import Language

Verdict = Literal["pass", "note", "review", "fail"]
VERDICTS: tuple[Verdict, ...] = ("fail", "review", "note", "pass")
"""Worst first."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A label or region with the colour of its contours, "#rrggbb"."""

    name: str
    colour: str
    kind: Literal["label", "region"] = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contour:
    """Contour of one structure in a picture.

    `path` is an SVG path in quarters of a picture pixel; `structure` is "" for a reference that does not
    tell between structures.
    """

    structure: str
    reference: bool
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Grey picture of a case with contours, in display orientation.

    Parameters
    ----------
    width, height : int
        Pixels of the WebP picture.
    webp : bytes
    contours : tuple of Contour
    letters : tuple of (str, str)
        Place (left, right, top, bottom) and direction of the patient there; empty where unknown.
    bar_px, bar_text : float, str
        Length of the scale bar in pixels of the picture and its legend; 0 where the spacing is unknown.
    notes : tuple of str
        What a reader must know of the picture.
    title : str
        What it shows; empty where there is one picture only.
    """

    width: int
    height: int
    webp: bytes
    contours: tuple[Contour, ...]
    letters: tuple[tuple[str, str], ...] = ()
    bar_px: float = 0.0
    bar_text: str = ""
    notes: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """One case.

    Parameters
    ----------
    case_id : str
    patient : str
        Pseudonym; never the identifier itself.
    split : str
    record : mapping
        measurements.json of the case.
    evaluation : mapping or None
        Its entry of evaluation/cases.json, the patient as a pseudonym; None without a reference.
    picture : Picture or None
        Of an image with two axes.
    planes : tuple of Picture
        Of a volume: slices along each axis.
    no_picture : str
        Why there is none.
    files : mapping of str to str
        File name -> SHA-256.
    notes : tuple of str
    section : bool
        Whether it gets a page of its own.
    page : str
        Address of its own page, relative to this one; "" where there is none.
    thumbnail : Picture or None
        Small picture for the list of the worst cases.
    """

    case_id: str
    patient: str
    split: str
    record: Json
    evaluation: Json | None = None
    picture: Picture | None = None
    planes: tuple[Picture, ...] = ()
    no_picture: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    section: bool = True
    page: str = ""
    thumbnail: Picture | None = None

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The picture of a radiograph, or those of a volume."""
        return self.planes if self.picture is None else (self.picture,)

    @property
    def verdict(self) -> Verdict:
        """Worst level of its flags."""
        verdict: Verdict = self.record["verdict"]
        return verdict

    @property
    def rank(self) -> tuple[int, int, float, str]:
        """Sorts the worst first: verdict, number of flags of that level, lowest Dice, name."""
        flags = self.record["flags"]
        structures = {} if self.evaluation is None else self.evaluation["structures"]
        values = [item["metrics"].get("dice", {}).get("value") for item in structures.values()]
        return (
            VERDICTS.index(self.verdict),
            -sum(flag["level"] == self.verdict for flag in flags),
            min((value for value in values if value is not None), default=2.0),
            self.case_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A titled list of facts."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A case that has no result, and why."""

    case_id: str
    stage: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortReport:
    """The whole page.

    Parameters
    ----------
    title, pipeline, about : str
    run : str
        Name of the run's folder.
    settings_sha256 : str
    cards : tuple of Card
    structures : tuple of Structure
        Labels, then regions.
    cases : tuple of CaseReport
        In any order; the page shows the worst first.
    summary : mapping or None
        evaluation/summary.json; None where nothing was evaluated.
    detection : mapping or None
        evaluation/detection_summary.json; None where targets were not judged one by one.
    refused : tuple of Refusal
    notes : tuple of (str, str)
        Case id ("" for the data as a whole) and sentence.
    said : tuple of str
        What is missing on the page, and why.
    curve : tuple of mapping
        Rows of training/metrics.csv.
    fold_curves : mapping of str to tuple of mapping
        The same for each fold of a cross-validation, by its name.
    cleaning : mapping or None
        postprocess.json, where the clean-up was tuned.
    search : mapping or None
        search/search.json; None where nothing was searched.
    methods : str
        Paragraph for a paper.
    settings : str
        Resolved YAML.
    versions : mapping of str to str
    stages : tuple of mapping
        Name, text, seconds and peak_ram_mb of each stage.
    signoff : bool
    language : {"en", "zh"}
        Of the page; names of structures and what files and checks say stay as they are.
    options : mapping or None
        Resolved settings as JSON, for the checklist; None where no pipeline was run.
    facts : mapping of str to str
        For the checklist: network, intended_use, source, start, members; those that are known.
    splits : mapping of str to int
        Usable cases by split.
    training : mapping or None
        What the stage train says of itself; None where a finished model was used.
    calibration : mapping or None
        calibration.json; None where probabilities were not calibrated.
    comparison : mapping or None
        comparison.json; None where no other run was compared.
    tables : mapping of str to tuple of str
        Name of a table -> its files beside the page.
    """

    title: str
    pipeline: str
    run: str
    settings_sha256: str
    cards: tuple[Card, ...]
    structures: tuple[Structure, ...]
    cases: tuple[CaseReport, ...]
    about: str = ""
    summary: Json | None = None
    detection: Json | None = None
    refused: tuple[Refusal, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    said: tuple[str, ...] = ()
    curve: tuple[Mapping[str, float | None], ...] = ()
    fold_curves: Mapping[str, tuple[Mapping[str, float | None], ...]] = field(default_factory=dict)
    cleaning: Json | None = None
    search: Json | None = None
    methods: str = ""
    settings: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    stages: tuple[Json, ...] = ()
    signoff: bool = True
    language: Language = "en"
    options: Json | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    training: Json | None = None
    calibration: Json | None = None
    comparison: Json | None = None
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def ordered(self) -> tuple[CaseReport, ...]:
        """Cases, the worst first."""
        return tuple(sorted(self.cases, key=lambda case: case.rank))
