"""What a YAML may say about the audit log and about taking identifiers out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.amounts import MemorySize
from medseg.pacs.options import Options, SecretOptions


class AuditOptions(Options):
    """Who did what, as lines of JSON in the folder of the node."""

    identifiers: bool = Field(
        default=False,
        description="Whether UIDs of studies and instances stand in it; else short digests of them.",
    )
    file_limit: MemorySize = Field(default=50 * 10**6, description="A new file is begun after it.")
    keep_files: int = Field(default=20, ge=1, description="Older files are removed.")


class DeidentifyOptions(Options):
    """Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E, on the way in."""

    use: Literal["basic"] = Field(default="basic", description="The basic profile.")
    key: SecretOptions = Field(
        description="Secret that UIDs and patients are mapped with: the same study maps the same way, and without it "
        "nobody goes back."
    )
    retain: tuple[
        Literal["uids", "device", "institution", "patient_characteristics", "dates_full", "dates_modified"],
        ...,
    ] = Field(default=(), description="Options of the profile: what is kept.")
    clean: tuple[Literal["descriptors", "graphics"], ...] = Field(
        default=(), description="Options of the profile: what is cleaned instead of removed."
    )
