"""Which studies of an archive a source asks for; the same for DICOMweb and C-FIND."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from medseg.node.source_options import QueryOptions


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
