"""What a YAML may say about the audit log and about taking identifiers out. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.amounts import MemorySize
from medseg.deidentification.options import ProfileOptions
from medseg.pacs.options import Options, SecretOptions


class AuditOptions(Options):
    """Who did what, as lines of JSON in the folder of the node."""

    identifiers: bool = Field(
        default=False,
        description="Whether UIDs of studies and instances stand in it; else short digests of them.",
    )
    file_limit: MemorySize = Field(default=50 * 10**6, description="A new file is begun after it.")
    keep_files: int = Field(default=20, ge=1, description="Older files are removed.")


class DeidentifyOptions(ProfileOptions):
    """Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E, before anything is stored."""

    use: Literal["basic"] = Field(default="basic", description="The basic profile.")
    key: SecretOptions = Field(
        description="Secret of 16 characters or more that UIDs, patients and dates are mapped with: the same study "
        "maps the same way as long as it stays, and without it nobody goes back."
    )
