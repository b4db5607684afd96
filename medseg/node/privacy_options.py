"""What a YAML may say about the audit log."""

from __future__ import annotations

from pydantic import Field

from medseg.amounts import MemorySize
from medseg.pacs.options import Options


class AuditOptions(Options):
    """Who did what, as lines of JSON in the folder of the node."""

    identifiers: bool = Field(
        default=False,
        description="Whether UIDs of studies and instances stand in it; else short digests of them.",
    )
    file_limit: MemorySize = Field(default=50 * 10**6, description="A new file is begun after it.")
    keep_files: int = Field(default=20, ge=1, description="Older files are removed.")
