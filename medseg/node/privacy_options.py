"""What a YAML may say about the audit log and about taking identifiers out. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

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


Retained = Literal["uids", "device", "institution", "patient_characteristics", "dates_full", "dates_modified"]


class DeidentifyOptions(Options):
    """Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E, before anything is stored."""

    use: Literal["basic"] = Field(default="basic", description="The basic profile.")
    key: SecretOptions = Field(
        description="Secret of 16 characters or more that UIDs, patients and dates are mapped with: the same study "
        "maps the same way as long as it stays, and without it nobody goes back."
    )
    retain: tuple[Retained, ...] = Field(
        default=(),
        description="Options of the profile. dates_modified: dates are shifted, by days of the patient's own.",
    )
    burned_in: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="What follows when an image says that identifiers are burned into its pixels; nobody cleans "
        "those.",
    )

    @model_validator(mode="after")
    def _one_kind_of_dates(self) -> Self:
        if {"dates_full", "dates_modified"} <= set(self.retain):
            raise ValueError("retain: dates are kept in full or modified, not both")
        return self
