"""What the readers of the layouts hand over: cases, label names, and everything that is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg.data.manifest import Case

Kind = Literal["nnunet", "msd", "bids", "folders"]
#: What one layout alone can honour; `front.import_dataset` refuses it for the others.
ONLY_FOR: dict[str, tuple[Kind, ...]] = {
    "labels": ("folders",),
    "channels": ("folders",),
    "strip": ("folders",),
    "suffixes": ("bids",),
    "label_pattern": ("bids",),
    "label_names": ("bids", "folders"),
    "splits": ("nnunet", "msd"),
    "patient_pattern": ("nnunet", "msd", "folders"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How a data set is imported; the defaults refuse whatever is not complete.

    Parameters
    ----------
    kind : str
        A `Kind`, or auto: told by what lies in the folder.
    labels : Path or None
        folders: where the masks are.
    channels : tuple of Path
        folders: where the images of the second and further channels are, matched by stem as well.
    strip : tuple of str
        folders: words cut from the start or end of names before they are compared, besides the
        usual ones (`matching.WORDS`).
    suffixes : tuple of str
        bids: suffixes of the images, such as T1w; several become channels in this order.
    label_pattern : str or None
        bids: shell pattern of the masks, relative to the folder `derivatives`.
    label_names : mapping of int to str
        bids, folders: names of the mask values, where the data set gives none.
    splits : Path or None
        nnunet, msd: the `splits_final.json` to follow; a file of that name in the data set is
        followed without being named.
    patient_pattern : str or None
        Regular expression with one group, searched in the case id; the group is the patient id.
    root : Path or None
        Folder that the manifest's paths start from; that of the manifest unless given.
    sha256 : bool
        Whether checksums of the images are written.
    check : bool
        Whether NIfTI headers are compared: all files of a case share one grid.
    keep_unlabelled : bool
        Whether a training image without a mask is kept as a case that is only predicted.
    test : bool
        Whether the test images of the data set are taken along.
    skip_broken : bool
        Whether the manifest is written without the cases that have problems.
    overwrite : bool
        Whether existing files are replaced.
    """

    kind: Kind | Literal["auto"] = "auto"
    labels: Path | None = None
    channels: tuple[Path, ...] = ()
    strip: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    label_pattern: str | None = None
    label_names: dict[int, str] = field(default_factory=dict)
    splits: Path | None = None
    patient_pattern: str | None = None
    root: Path | None = None
    sha256: bool = False
    check: bool = True
    keep_unlabelled: bool = False
    test: bool = True
    skip_broken: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong with the data set.

    Parameters
    ----------
    text : str
        One sentence.
    case_id : str or None
        The case that has to be left out for it; None where no case or several are concerned.
    fatal : bool
        Nothing can be written, not even without some cases.
    """

    text: str
    case_id: str | None = None
    fatal: bool = False

    def __str__(self) -> str:
        return plain(self.text if self.case_id is None else f"case {self.case_id}: {self.text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedValue:
    """A mask value and what the data set calls it; `color` as "#rrggbb" where it says so."""

    value: int
    name: str
    color: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNames:
    """The label table as the data set writes it, names unchanged.

    Parameters
    ----------
    values : tuple of NamedValue
        Without background, by value.
    regions : tuple of (name, values)
        Unions of values.
    ignore : int or None
        Mask value that counts neither for nor against anything.
    comments : tuple of str
        Sentences for the labels file.
    """

    values: tuple[NamedValue, ...] = ()
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    ignore: int | None = None
    comments: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Listing:
    """A data set as its layout describes it, filled by one reader."""

    kind: Kind
    title: str
    cases: list[Case] = field(default_factory=list)
    names: LabelNames = field(default_factory=LabelNames)
    channels: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, text: str, *, case_id: str | None = None, fatal: bool = False) -> None:
        """Note a problem."""
        self.problems.append(Problem(text=text, case_id=case_id, fatal=fatal))

    @property
    def channels_in_one_file(self) -> int:
        """Channels that an image in one file holds along a fourth axis, as the Decathlon has them; else 1."""
        return len(self.channels) if self.kind == "msd" and len(self.channels) > 1 else 1

    @property
    def in_one_file(self) -> bool:
        """Whether some image holds several channels along a fourth axis."""
        return self.channels_in_one_file > 1 and any(len(case.images) == 1 for case in self.cases)

    def broken(self) -> frozenset[str]:
        """Ids of the cases that have a problem."""
        return frozenset(p.case_id for p in self.problems if p.case_id is not None)


def plain(text: object, *, most: int = 2000) -> str:
    """Foreign text on one line: what a terminal would obey becomes `?`, and it is cut to `most`."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:most]


def shown(items: Iterable[object], *, most: int = 5) -> str:
    """The first few of many in words: `a, b, c and 4 more`."""
    texts = [str(item) for item in items]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 case`, `2 cases`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
