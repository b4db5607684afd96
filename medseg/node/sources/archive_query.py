"""Which studies of an archive a source asks for; the same for DICOMweb and C-FIND."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from medseg.amounts import counted
from medseg.errors import MedsegError, PacsUnreachableError, StorageError
from medseg.node.source_options import QueryOptions
from medseg.node.sources.marks import Marks

_TRIES = 5
"""After so many looks a study is left as it is until the archive has more of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of a study.

    Parameters
    ----------
    taken : int
        Instances that are new to the node.
    came : int or None
        Instances of the study that came, known ones included; None where nobody counted them.
    """

    taken: int
    came: int | None


def keys_of(options: QueryOptions, *, now: float) -> dict[str, str]:
    """Matching keys of a query for studies, by DICOM keyword.

    Studies carry the date of their site: the range begins a day early and ends a day late.
    """
    today = datetime.fromtimestamp(now, UTC)
    first, last = today - timedelta(days=options.days), today + timedelta(days=1)
    keys = {"StudyDate": f"{first:%Y%m%d}-{last:%Y%m%d}"}
    if options.description is not None:
        keys["StudyDescription"] = options.description
    return keys


def fetch_grown(
    studies: Iterable[tuple[str, int | None]],
    marks: Marks,
    *,
    count: Callable[[str], int],
    fetch: Callable[[str], Fetched],
) -> int:
    """Fetch the studies of which the archive has more instances than at the last look.

    One that cannot be had whole is tried again at the next looks, and holds no other up.

    Parameters
    ----------
    studies : iterable of (study UID, number of instances)
        None where the archive does not say the number with the study.
    marks : Marks
    count : callable
        Asks for the number of instances of a study.
    fetch : callable
        Fetches a study.

    Returns
    -------
    int
        Instances that came.

    Raises
    ------
    MedsegError
        The first trouble, after all studies were tried; want of room at once.
    """
    taken = 0
    trouble: MedsegError | None = None
    for study, said in studies:
        try:
            taken += _fetch_if_grown(study, count(study) if said is None else said, marks, fetch)
        except StorageError:
            raise
        except MedsegError as err:
            trouble = trouble or err
    if trouble is not None:
        raise trouble
    return taken


def _fetch_if_grown(study: str, count: int, marks: Marks, fetch: Callable[[str], Fetched]) -> int:
    seen, _, tries = (marks.get(study) or "").partition(" tries ")
    if seen == str(count) and (not tries or int(tries) >= _TRIES):
        return 0
    try:
        fetched = fetch(study)
        if fetched.came is not None and fetched.came < count:
            raise PacsUnreachableError(f"{fetched.came} of {counted(count, 'instance')} of a study came")
    except StorageError:
        raise
    except MedsegError:
        tried = int(tries or 0) + 1 if seen == str(count) else 1
        marks.set(study, f"{count} tries {tried}")
        raise
    marks.set(study, str(count))
    return fetched.taken
