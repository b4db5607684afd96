"""The tables of a node: what came in, what is to be done, what went out.

Times are seconds since 1970 by the node's clock, for people and retention; no lease and no order depends on them.
Order is that of `id` columns. States are words, checked by the database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from medseg.pacs.outbox_table import deliveries as outbox_deliveries

SCHEMA_VERSION = 1

STUDY_STATES = ("receiving", "settled")
"""receiving: instances may still come; settled: rules were asked, its jobs exist."""

JOB_STATES = ("queued", "running", "done", "held", "failed", "given_up", "cancelled", "superseded")
"""queued -> running -> done, held (a person decides), failed (refused input), given_up (tries used up).

`superseded`: slices came later and a newer job has taken its place. `cancelled`: by a person.
"""

WORK_ITEM_STATES = ("claiming", "claimed", "asked", "finishing", "completed", "canceled", "let_go")
"""claiming (the claim may have been sent) -> claimed -> asked (its jobs exist) -> finishing -> completed, canceled.

`let_go`: somebody else performs it, ended it, or took it from the list.
"""

metadata = MetaData()
_UID = String(64)
# SQLite counts up only what is declared INTEGER.
_ID = BigInteger().with_variant(Integer, "sqlite")


def _one_of(table: str, column: str, states: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{table}_{column}_known")


about = Table(
    "about",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    comment="schema version, medseg version",
)

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", String(32), primary_key=True, comment="random, one for each start"),
    Column("name", String(64), nullable=False),
    Column("process", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column(
        "beat", BigInteger, nullable=False, comment="grows while the node lives; others watch whether it does"
    ),
    Column("stopped", Boolean, nullable=False, default=False),
)

studies = Table(
    "studies",
    metadata,
    Column("study_uid", _UID, primary_key=True),
    Column("state", String(16), _one_of("study", "state", STUDY_STATES), nullable=False),
    Column(
        "patient", String(64), nullable=False, default="", comment="that of its first instance, see instances"
    ),
    Column(
        "arrivals",
        Integer,
        nullable=False,
        comment="grows with each instance; a settled study that grows is opened",
    ),
    Column(
        "settled_arrivals",
        Integer,
        nullable=False,
        default=0,
        comment="`arrivals` when rules were last asked",
    ),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("note", Text, nullable=False, default="", comment="what a reader must know, without identifiers"),
)

series = Table(
    "series",
    metadata,
    Column("series_uid", _UID, primary_key=True),
    Column(
        "study_uid", _UID, ForeignKey("studies.study_uid", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("modality", String(16), nullable=False),
    Column("body_part", String(64), nullable=False),
    Column("description", Text, nullable=False, comment="Series Description"),
    Column("protocol", Text, nullable=False, comment="Protocol Name"),
    Column("number", Integer, nullable=True),
    Column(
        "called_by", String(64), nullable=False, comment="AE title, account or source of its first instance"
    ),
    Column("instances", Integer, nullable=False),
    Column(
        "mixed",
        Text,
        nullable=False,
        default="",
        comment="why its instances do not belong together, or empty",
    ),
)

# Added to version 1: a table that is missing is made when the database is opened, and who does not know it leaves it.
study_numbers = Table(
    "study_numbers",
    metadata,
    Column("study_uid", _UID, ForeignKey("studies.study_uid", ondelete="CASCADE"), primary_key=True),
    Column("digest", String(32), primary_key=True, index=True, comment="keyed, see `number_digest`"),
    comment="accession and patient numbers by which a study is found; the numbers themselves are not kept",
)

instances = Table(
    "instances",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("sop_instance_uid", _UID, nullable=False, unique=True),
    Column("sop_class_uid", _UID, nullable=False),
    Column(
        "series_uid", _UID, ForeignKey("series.series_uid", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("study_uid", _UID, nullable=False, index=True),
    Column(
        "patient",
        String(64),
        nullable=False,
        comment="keyed digest of patient ID and issuer; tells patients apart",
    ),
    Column("transfer_syntax_uid", _UID, nullable=False),
    Column("path", Text, nullable=False, comment="below the folder of the node"),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False, comment="of the data set as it came"),
    Column("received_at", Float, nullable=False),
    Column("route", String(16), nullable=False),
    Column("peer", String(64), nullable=False),
)

# Added to version 1, as above.
conflicts = Table(
    "conflicts",
    metadata,
    Column("sop_instance_uid", _UID, primary_key=True),
    Column(
        "series_uid", _UID, ForeignKey("series.series_uid", ondelete="CASCADE"), nullable=False, index=True
    ),
    comment="instances that came again with other content, which was not kept",
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("study_uid", _UID, nullable=False, index=True),
    Column("series_uid", _UID, nullable=False, index=True),
    Column("rule", String(64), nullable=False),
    Column("model", Text, nullable=False, comment="digest of the bundle and of the settings of the rule"),
    Column("input", String(64), nullable=False, comment="digest of the instances it is about"),
    Column("repeat", Integer, nullable=False, default=0, comment="grows when a person asks for it once more"),
    Column("instances", Integer, nullable=False, comment="of the series when it was queued"),
    Column("state", String(16), _one_of("job", "state", JOB_STATES), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("owner", String(32), nullable=False, default="", comment="node_id of who runs it"),
    Column("not_before", Float, nullable=False, default=0),
    Column("priority", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("reason", Text, nullable=False, default="", comment="one sentence, without identifiers"),
    Column("verdict", String(16), nullable=False, default="", comment="pass, note, review, fail"),
    Column("flags", Text, nullable=False, default="[]", comment="JSON list of flags of the case"),
    Column("peak_bytes", BigInteger),
    Column(
        "folder", Text, nullable=False, default="", comment="of its results, below the folder of the node"
    ),
    Column("superseded_by", _ID, ForeignKey("jobs.id", ondelete="SET NULL")),
    UniqueConstraint("series_uid", "rule", "model", "input", "repeat", name="job_once"),
    Index("jobs_by_state", "state", "not_before", "id"),
)

results = Table(
    "results",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", String(32), nullable=False, comment="name of the export: dicom_seg, measurement_sr, html"),
    Column("sop_class_uid", _UID, nullable=False, default=""),
    Column(
        "sop_instance_uid", _UID, nullable=False, default="", index=True, comment="empty for pages and tables"
    ),
    Column("path", Text, nullable=False, comment="below the folder of the node"),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)

# Added to version 1, as study_numbers.
removals = Table(
    "removals",
    metadata,
    Column("path", Text, primary_key=True, comment="below the folder of the node"),
    comment="files whose rows are gone and that may not be gone yet; none of them comes back",
)

# Added to version 1, as study_numbers.
ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("nonce", String(32), primary_key=True, comment="random text that tells a log-in apart"),
    Column("at", Float, nullable=False),
    comment="log-ins of the page whose cookie is worth nothing any more",
)

source_marks = Table(
    "source_marks",
    metadata,
    Column("source", String(16), primary_key=True),
    Column("key", String(64), primary_key=True, comment="digest of what was looked at"),
    Column("value", Text, nullable=False, comment="how far it was taken"),
    Column("at", Float, nullable=False),
)

# Added to version 1: a table that is missing is made when the database is opened, and who does not know it leaves it.
work_items = Table(
    "work_items",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("source", String(16), nullable=False, comment="whose work list it stands on"),
    Column("workitem_uid", _UID, nullable=False),
    Column("transaction_uid", _UID, nullable=False, comment="written before the claim is sent"),
    Column("state", String(16), _one_of("work_item", "state", WORK_ITEM_STATES), nullable=False),
    Column("owner", String(32), nullable=False, comment="node_id of who performs it"),
    Column("rule", String(64), nullable=False),
    Column("request", Text, nullable=False, comment="JSON: code, priority and input that it names"),
    Column("jobs", Text, nullable=False, default="[]", comment="JSON list of [job, queued for this item]"),
    Column("tries", Integer, nullable=False, default=0, comment="looks at which its input was not whole"),
    Column("told", Text, nullable=False, default="", comment="progress that the server was told last"),
    Column("outcome", Text, nullable=False, default="", comment="JSON: how it is to end"),
    Column("reason", Text, nullable=False, default="", comment="one sentence, without identifiers"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    UniqueConstraint("source", "workitem_uid", name="claimed_once"),
    Index("work_items_by_state", "state", "source", "id"),
)

deliveries = outbox_deliveries.to_metadata(metadata)
