"""The table of what is to be sent, and what became of it. It stands in the database of whoever sends."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

DELIVERY_STATES = ("waiting", "sending", "sent", "committed", "failed", "cancelled")
"""waiting (for its next try) -> sending -> sent -> committed (where the archive is asked); failed: given up."""

UNSENT_STATES = ("waiting", "failed", "cancelled")
"""Nothing of them is at the archive, nor on its way."""

metadata = MetaData()
_UID = String(64)
# SQLite counts up only what is declared INTEGER.
_ID = BigInteger().with_variant(Integer, "sqlite")

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("destination", String(64), nullable=False),
    Column("sop_class_uid", _UID, nullable=False),
    Column("sop_instance_uid", _UID, nullable=False),
    Column("path", Text, nullable=False, comment="below the folder of the node"),
    Column("job_id", _ID, index=True, comment="what it is a result of; none for files sent by hand"),
    Column(
        "state",
        String(16),
        CheckConstraint(
            "state IN (" + ", ".join(f"'{state}'" for state in DELIVERY_STATES) + ")",
            name="delivery_state_known",
        ),
        nullable=False,
    ),
    Column("owner", String(32), nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("sent_at", Float),
    Column("committed_at", Float),
    Column("transaction_uid", _UID, nullable=False, default="", comment="of storage commitment"),
    Column("reason", Text, nullable=False, default=""),
    UniqueConstraint("destination", "sop_instance_uid", name="delivered_once"),
    Index("deliveries_by_state", "state", "destination", "not_before", "id"),
)
