"""What the page of one case says, as data: the pipeline gathers it from a run, `case_report` renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from medseg.report.language import Language
from medseg.report.mosaic import Strip
from medseg.report.page import CaseReport, Json, Picture, Structure

LEAST_COHORT = 20
"""With fewer cases a percentile says nothing."""


def flag_key(flag: Json) -> str:
    """What tells the flags of a case apart."""
    return f"{flag['code']} {flag['structure']} {flag['text']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page that another module makes, such as the viewer.

    Parameters
    ----------
    html : Markup
        Its content, without a heading; texts in it are escaped already.
    style : str
        Rules for the page's style sheet.
    scripts : tuple of str
        Scripts that run after the page's own, each allowed by its SHA-256.
    script_hashes : tuple of str
        More scripts that these may start, such as an unpacked library: "sha256-...".
    policy : mapping of str to str
        More sources by directive of the Content-Security-Policy, such as {"img-src": "blob:"}.
    """

    html: Markup
    style: str = ""
    scripts: tuple[str, ...] = ()
    script_hashes: tuple[str, ...] = ()
    policy: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Sizes that results are ranked against.

    Parameters
    ----------
    name : str
        Where they come from, for people.
    values : mapping of str to sequence of float
        Structure -> sizes of whole (not cut off) structures, in ml or mm2.
    """

    name: str
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """An earlier examination of the same patient.

    Parameters
    ----------
    case_id, date : str
        The date is "" where it is unknown.
    record : mapping
        Its measurements.json.
    """

    case_id: str
    date: str
    record: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of the log: when, how severe, what."""

    time: str
    level: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePage:
    """The page of one case.

    Parameters
    ----------
    case : CaseReport
        Record, evaluation, files, notes; pictures of a radiograph.
    structures : tuple of Structure
        Labels, then regions.
    language : Language
    pipeline, run, settings_sha256, title : str
    codes : mapping of str to str
        Structure -> coded concept, such as "SCT 10200004".
    strips : tuple of Strip
        Slices of a volume in three planes.
    doubt : Strip or Picture or None
        Map of the uncertainty.
    thumbnails : mapping of str to Strip or Picture
        `flag_key` of a flag -> a small picture of it.
    window : str
        What is shown black and white, for people; "" where unknown.
    facts : sequence of (str, str)
        Of the model and run: key of the catalogue, value.
    study : sequence of (str, str)
        Of the examination: key of the catalogue, value.
    geometry : sequence of (str, str)
        Of the image, besides what its record says: key of the catalogue, value.
    date : str
        Of the examination.
    cohort, previous : Cohort or None, Previous or None
    test_retest_percent : mapping of str to float
        Structure -> change that repeated examinations show without a change of the patient; "other" for the rest.
    study_uid : str
        Only where the page may identify the patient.
    methods, settings : str
    versions : mapping of str to str
    stages : sequence of mapping
        Name, seconds and peak_ram_mb of each stage.
    log : sequence of LogLine
    signoff : bool
    viewer : Section or None
    """

    case: CaseReport
    structures: tuple[Structure, ...]
    language: Language = "en"
    title: str = ""
    pipeline: str = ""
    run: str = ""
    settings_sha256: str = ""
    codes: Mapping[str, str] = field(default_factory=dict)
    strips: tuple[Strip, ...] = ()
    doubt: Strip | Picture | None = None
    thumbnails: Mapping[str, Strip | Picture] = field(default_factory=dict)
    window: str = ""
    facts: Sequence[tuple[str, str]] = ()
    study: Sequence[tuple[str, str]] = ()
    geometry: Sequence[tuple[str, str]] = ()
    date: str = ""
    cohort: Cohort | None = None
    previous: Previous | None = None
    test_retest_percent: Mapping[str, float] = field(default_factory=dict)
    study_uid: str = ""
    methods: str = ""
    settings: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    stages: Sequence[Json] = ()
    log: Sequence[LogLine] = ()
    signoff: bool = True
    viewer: Section | None = None

    @property
    def flat(self) -> bool:
        """Whether the image has two axes."""
        return len(self.case.record["image"]["shape"]) == 2
