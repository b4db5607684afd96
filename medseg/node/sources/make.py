"""Settings of sources -> the threads that look at them."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.node import source_options
from medseg.node.sources.dicomweb import DicomwebSource
from medseg.node.sources.dimse import DimseSource
from medseg.node.sources.folder import FolderSource
from medseg.node.sources.marks import Marks
from medseg.node.sources.orthanc import OrthancSource
from medseg.node.sources.source import Source, SourceThread
from medseg.node.sources.ups import UpsSource
from medseg.node.sources.ups_performer import NodeParts


def source_threads(sources: Sequence[source_options.Source], parts: NodeParts) -> list[SourceThread]:
    """A thread for each source, not started.

    Raises
    ------
    ConfigError
        A certificate or secret cannot be used.
    """
    found = []
    for options in sources:
        found.append(SourceThread(_source(options, parts), parts.audit))
    return found


def _source(options: source_options.Source, parts: NodeParts) -> Source:
    if isinstance(options, source_options.UpsSource):
        return UpsSource(options, parts)
    marks = Marks(parts.database, parts.clock, options.name)
    intake, clock, file_limit = parts.intake, parts.clock, parts.file_limit
    if isinstance(options, source_options.FolderSource):
        return FolderSource(options, intake=intake, marks=marks, clock=clock, file_limit=file_limit)
    if isinstance(options, source_options.OrthancSource):
        return OrthancSource(options, intake=intake, marks=marks, clock=clock, file_limit=file_limit)
    if isinstance(options, source_options.DicomwebSource):
        return DicomwebSource(options, intake=intake, marks=marks, clock=clock, file_limit=file_limit)
    return DimseSource(options, intake=intake, marks=marks, clock=clock, file_limit=file_limit)
