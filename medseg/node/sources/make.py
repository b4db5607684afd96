"""Settings of sources -> the threads that look at them."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.database import Database
from medseg.node import source_options
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.sources.dicomweb import DicomwebSource
from medseg.node.sources.dimse import DimseSource
from medseg.node.sources.folder import FolderSource
from medseg.node.sources.marks import Marks
from medseg.node.sources.orthanc import OrthancSource
from medseg.node.sources.source import Source, SourceThread, Taker


def source_threads(
    sources: Sequence[source_options.Source],
    *,
    intake: Taker,
    database: Database,
    audit: Audit,
    clock: Clock,
    file_limit: int,
) -> list[SourceThread]:
    """A thread for each source, not started.

    Raises
    ------
    ConfigError
        A certificate or secret cannot be used.
    """
    found = []
    for options in sources:
        marks = Marks(database, clock, options.name)
        found.append(SourceThread(_source(options, intake, marks, clock, file_limit), audit))
    return found


def _source(
    options: source_options.Source, intake: Taker, marks: Marks, clock: Clock, file_limit: int
) -> Source:
    if isinstance(options, source_options.FolderSource):
        return FolderSource(options, intake=intake, marks=marks, clock=clock, file_limit=file_limit)
    if isinstance(options, source_options.OrthancSource):
        return OrthancSource(options, intake=intake, marks=marks, file_limit=file_limit)
    if isinstance(options, source_options.DicomwebSource):
        return DicomwebSource(options, intake=intake, marks=marks, clock=clock, file_limit=file_limit)
    return DimseSource(options, intake=intake, marks=marks, clock=clock)
