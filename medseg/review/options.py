"""What `medseg review` is asked to do besides ranking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg.review.viewers import Viewer

FIRST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewOptions:
    """Where cases go and come from.

    Parameters
    ----------
    first : int
        So many cases are exported or opened, those that most need a person; reviewed ones are passed over.
    cases : tuple of str
        These instead.
    export : Path or None
        Folder that they are exported into.
    open_with : {"slicer", "itksnap"} or None
        Program in which they are opened, one after the other.
    take_back : Path or None
        Folder with corrected masks and sign-offs.
    signoffs : tuple of Path
        Sign-offs that lie elsewhere.
    images : tuple of Path
        Of predictions: where their images are.
    manifest : Path or None
        Of predictions: the list that the model was trained on.
    model : str or None
        Bundle for fine-tuning, where the results do not lead to it.
    output : Path or None
        Folder of review.csv and of the versions; `review` in the results unless given.
    """

    first: int = FIRST
    cases: tuple[str, ...] = ()
    export: Path | None = None
    open_with: Viewer | None = None
    take_back: Path | None = None
    signoffs: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    manifest: Path | None = None
    model: str | None = None
    output: Path | None = None
