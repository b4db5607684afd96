"""What a pipeline's YAML may say about sending its results. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.amounts import Duration
from medseg.pacs.options import Archive, Options, SendName


class SendOptions(Options):
    """Results of a pipeline to archives. Nothing is sent by a pipeline without this section."""

    to: tuple[Archive, ...] = Field(min_length=1, description="Archives; each gets everything.")
    send: tuple[SendName, ...] = Field(
        default=("dicom_seg",),
        min_length=1,
        description="Exports that are sent, which must stand under `export` as well.",
    )
    hold_on: tuple[Literal["review", "fail"], ...] = Field(
        default=("review", "fail"),
        description="Cases with these verdicts are not sent: a person looks at them and sends their files by "
        "`medseg send`. []: all are sent.",
    )
    retry_for: Duration = Field(
        default=60.0, description="How long to go on trying what an archive does not take; 0.1s: hardly."
    )
