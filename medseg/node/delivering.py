"""Results of jobs -> deliveries to the destinations of their rules; what becomes of them; reports of commitment."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from sqlalchemy import Connection

from medseg.errors import StorageError
from medseg.io.foreign import PARSER_ERRORS
from medseg.node.audit import Audit
from medseg.node.job_queue import ResultFile
from medseg.node.rule_options import RuleOptions
from medseg.pacs.options import Destination
from medseg.pacs.outbox import Outbox

_PROCESSING_FAILURE = 0x0110
_RESOURCE_LIMITATION = 0x0213
"""Statuses of the answer to a report (PS3.7 Annex C)."""


def put_results(
    outbox: Outbox,
    connection: Connection,
    *,
    rule: RuleOptions | None,
    destinations: Mapping[str, Destination],
    job_id: int,
    files: Sequence[ResultFile],
) -> None:
    """Put the results of a job that its rule's destinations want into the outbox.

    Parameters
    ----------
    outbox : Outbox
    connection : Connection
        The transaction in which the job ends.
    rule : RuleOptions or None
        None where the settings have it no longer; nothing is delivered then.
    destinations : mapping of str to Destination
    job_id : int
    files : sequence of ResultFile
    """
    for name in rule.send_to if rule is not None else ():
        for file in files:
            if file.kind in destinations[name].kinds and file.sop_instance_uid:
                outbox.put(
                    connection,
                    destination=name,
                    sop_class_uid=file.sop_class_uid,
                    sop_instance_uid=file.sop_instance_uid,
                    path=file.path,
                    job_id=job_id,
                )


def tell_delivery(audit: Audit, destination: str, state: str, sop_instance_uid: str, reason: str) -> None:
    """A line of the audit log on what became of a delivery."""
    audit.record(
        "delivery", outcome=state, destination=destination, sop_instance_uid=sop_instance_uid, reason=reason
    )


def commitment_report(outbox: Outbox, data: bytes, transfer_syntax_uid: str, event_type: int) -> int:
    """Take a report of storage commitment that came to our own listener; the status of the answer."""
    try:
        information: Dataset = read_dataset(
            io.BytesIO(data),
            transfer_syntax_uid == ImplicitVRLittleEndian,
            transfer_syntax_uid != ExplicitVRBigEndian,
        )
        return outbox.report(information, event_type)
    except PARSER_ERRORS:
        return _PROCESSING_FAILURE
    except StorageError:
        return _RESOURCE_LIMITATION
