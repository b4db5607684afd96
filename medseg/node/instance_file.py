"""How an instance lies on the disk: a DICOM file whose name tells whether its bytes are whole."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from medseg.export.dicom_bytes import file_head
from medseg.node.instance_header import InstanceFacts

_LETTERS = 24
_CHECK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFile:
    """One file of an instance.

    Parameters
    ----------
    path : str
        In the vault; see `path_of`.
    head, data_set : bytes
        What is in it.
    sha256 : str
        Of the data set.
    """

    path: str
    head: bytes
    data_set: bytes
    sha256: str


def new_file(facts: InstanceFacts, data_set: bytes) -> InstanceFile:
    """The file that an arrival becomes.

    Every arrival has a name of its own: none replaces another's file, nor loses its own to the removal of an older one.
    """
    head = file_head(
        transfer_syntax_uid=facts.transfer_syntax_uid,
        sop_class_uid=facts.sop_class_uid,
        sop_instance_uid=facts.sop_instance_uid,
    )
    return _file(facts, head, data_set, token=secrets.token_hex(4))


def whole_file(path: str, facts: InstanceFacts, head: bytes, data_set: bytes) -> InstanceFile | None:
    """A file that was found, or None where its name says that it had other bytes or is another instance's."""
    token = path.rpartition("/")[2].split("-")[1:2]
    found = _file(facts, head, data_set, token="".join(token))
    return found if found.path == path else None


def _file(facts: InstanceFacts, head: bytes, data_set: bytes, *, token: str) -> InstanceFile:
    """With a path from which no identifier can be read."""
    study, series, instance = (
        hashlib.sha256(uid.encode()).hexdigest()[:_LETTERS]
        for uid in (facts.study_uid, facts.series_uid, facts.sop_instance_uid)
    )
    check = hashlib.sha256(data_set)
    sha256 = check.hexdigest()
    # What a power loss leaves of a file may have its length and an intact front.
    check.update(head)
    name = f"{instance}-{token}-{check.hexdigest()[:_CHECK]}.dcm"
    return InstanceFile(
        path=f"instances/{study}/{series}/{name}", head=head, data_set=data_set, sha256=sha256
    )
