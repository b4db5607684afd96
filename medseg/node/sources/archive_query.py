"""Which studies of an archive a source asks for; the same for DICOMweb and C-FIND."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from medseg.errors import MedsegError, StorageError
from medseg.node.source_options import QueryOptions
from medseg.node.sources.marks import Marks

_TRIES = 5
"""After so many looks a study is left as it is until the archive has more of it."""


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


def fetch_grown(studies: Iterable[tuple[str, int]], marks: Marks, fetch: Callable[[str], int]) -> int:
    """Fetch the studies of which the archive has more instances than at the last look.

    One that cannot be had whole is tried again at the next looks, and holds no other up.

    Parameters
    ----------
    studies : iterable of (study UID, number of instances)
    marks : Marks
    fetch : callable
        Fetches a study; the number of instances that came.

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
    for study, count in studies:
        seen, _, tries = (marks.get(study) or "").partition(" tries ")
        if seen == str(count) and (not tries or int(tries) >= _TRIES):
            continue
        try:
            taken += fetch(study)
            marks.set(study, str(count))
        except StorageError:
            raise
        except MedsegError as err:
            tried = int(tries or 0) + 1 if seen == str(count) else 1
            marks.set(study, f"{count} tries {tried}")
            trouble = trouble or err
    if trouble is not None:
        raise trouble
    return taken
