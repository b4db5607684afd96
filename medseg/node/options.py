"""NodeConfig: all that `medseg serve` is told, composed of the options of its parts. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from medseg.amounts import Duration, MemorySize, Wait
from medseg.node.listen_options import CallerOptions, DimseListenOptions, HttpListenOptions
from medseg.node.privacy_options import AuditOptions, DeidentifyOptions
from medseg.node.rule_options import JobOptions, ReviewOptions, RuleOptions
from medseg.node.source_options import DimseSource, Source, UpsSource
from medseg.pacs.options import (
    Destination,
    DestinationName,
    DimseDestination,
    DimsePeer,
    Options,
    SecretOptions,
)
from medseg.settings_conflict import Place, conflict


class SqliteOptions(Options):
    """The embedded database, for one node."""

    use: Literal["sqlite"] = Field(default="sqlite", description="A file in the folder of the node.")


class PostgresqlOptions(Options):
    """A database server, where several nodes share the work and the folder."""

    use: Literal["postgresql"] = Field(
        default="postgresql", description="PostgreSQL; needs medseg[postgresql]."
    )
    url: SecretOptions = Field(
        description="postgresql://USER:PASSWORD@HOST/NAME, from the environment or a file."
    )


DatabaseOptions = Annotated[SqliteOptions | PostgresqlOptions, Field(discriminator="use")]


def _kept(seconds: float) -> float:
    if seconds < 3600:
        raise ValueError("expected 1h or more, such as 90d; a number without a unit is in seconds")
    return seconds


Kept = Annotated[Duration, AfterValidator(_kept)]
"""How long patients' data are kept: whoever forgets the unit must not lose them within minutes."""


class StorageOptions(Options):
    """Disk."""

    reserve: MemorySize = Field(
        default=2 * 10**9, description="Space that stays free; below it new instances are refused politely."
    )
    quota: MemorySize | None = Field(
        default=None, description="Most that received instances and results may take; null: no limit."
    )
    instance_limit: MemorySize = Field(default=2 * 10**9, description="Largest instance that is taken.")
    on_conflict: Literal["refuse", "warn"] = Field(
        default="refuse",
        description="What a sender of an instance hears whose UID is there with other content; the first one is kept. "
        "warn: a warning status, after which most senders forget their copy.",
    )
    key: SecretOptions | None = Field(
        default=None,
        description="Key of 32 bytes, base64; with it all that is stored of patients is encrypted (AES-256-GCM).",
    )
    keep_instances: Kept = Field(
        default=7 * 86400.0,
        description="Received instances are removed that long after their study's last job.",
    )
    keep_results: Kept = Field(
        default=90 * 86400.0, description="Results and their rows are removed after it."
    )


class StudyOptions(Options):
    """When a study counts as complete."""

    stable_after: Duration = Field(default=60.0, description="Quiet time after the last instance of a study.")
    wait_for_gaps: Wait = Field(
        default=600.0,
        description="How much longer a series is waited for whose positions show a gap; then the job runs and its "
        "result says so, or is refused, as the reader decides. 0: not at all.",
    )


def _doubled(block: str, names: Sequence[str]) -> list[tuple[Place, str]]:
    return [
        ((block, number, "name"), f"the name {name!r} is used twice")
        for number, name in enumerate(names)
        if name in names[:number]
    ]


class NodeConfig(Options):
    """A PACS node.

    It refuses to listen beyond loopback where neither certificates nor a list of callers (DIMSE), or tokens over
    TLS (HTTP), say who may come in.
    """

    medseg_node: Literal[1] = Field(description="Version of this format.")
    name: str = Field(
        default="medseg", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$", description="Shown to people."
    )
    folder: Path = Field(
        description="Where everything is kept; one node at a time, unless PostgreSQL joins several."
    )
    database: DatabaseOptions = Field(default=SqliteOptions(), description="Where states are kept.")
    dimse: DimseListenOptions | None = Field(default=None, description="DICOM listener; null: none.")
    http: HttpListenOptions | None = Field(
        default=HttpListenOptions(), description="Page, STOW-RS, health and metrics; null: none."
    )
    callers: tuple[CallerOptions, ...] = Field(default=(), description="Who may call the DICOM listener.")
    sources: tuple[Source, ...] = Field(default=(), description="Where studies are fetched from.")
    rules: tuple[RuleOptions, ...] = Field(
        min_length=1, description="Which series are segmented by what; all rules that match apply."
    )
    destinations: dict[DestinationName, Destination] = Field(
        default_factory=dict, description="Archives by name; rules name those that their results go to."
    )
    studies: StudyOptions = Field(default=StudyOptions(), description="When a study is complete.")
    jobs: JobOptions = Field(default=JobOptions(), description="Limits of jobs.")
    review: ReviewOptions = Field(default=ReviewOptions(), description="What is held for a person.")
    storage: StorageOptions = Field(default=StorageOptions(), description="Disk, encryption, retention.")
    audit: AuditOptions = Field(default=AuditOptions(), description="Who did what.")
    deidentify: DeidentifyOptions | None = Field(
        default=None, description="What is taken out of instances before they are stored; null: nothing."
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        found: list[tuple[Place, str]] = []
        found += _doubled("rules", [rule.name for rule in self.rules])
        found += _doubled("sources", [source.name for source in self.sources])
        known = ", ".join(self.destinations) or "none"
        found += [
            (("rules", number, "send_to", place), f"no destination {name!r}; those of the node: {known}")
            for number, rule in enumerate(self.rules)
            for place, name in enumerate(rule.send_to)
            if name not in self.destinations
        ]
        if found:
            raise conflict(found)
        return self

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.dimse is None or self.http is None or self.dimse.port != self.http.port:
            return self
        hosts = {self.dimse.host, self.http.host}
        if len(hosts) == 1 or hosts & {"0.0.0.0", "::"}:
            raise conflict(
                [(("http", "port"), f"{self.http.port} is the port of `dimse`; give each its own")]
            )
        return self

    @model_validator(mode="after")
    def _called_back(self) -> Self:
        """Archives that answer by calling the listener must call it by its own name."""
        called: list[tuple[Place, str, DimsePeer]] = [
            (("sources", number), "C-MOVE sends to", source)
            for number, source in enumerate(self.sources)
            if isinstance(source, DimseSource) and source.retrieve == "move"
        ]
        moving = [place for place, _, _ in called]
        called += [
            (("destinations", name), "storage commitment is reported to", one)
            for name, one in self.destinations.items()
            if isinstance(one, DimseDestination) and one.commitment == "ask"
        ]
        found: list[tuple[Place, str]]
        if (listener := self.dimse) is None:
            found = [((*place, "retrieve"), "C-MOVE sends to the listener; add `dimse`") for place in moving]
        else:
            found = [
                (
                    (*place, "calling_ae_title"),
                    f"{what} {peer.calling_ae_title}, and the listener is {listener.ae_title} (dimse.ae_title); "
                    "give both the same",
                )
                for place, what, peer in called
                if peer.calling_ae_title != listener.ae_title
            ]
        if found:
            raise conflict(found)
        return self

    @model_validator(mode="after")
    def _asked_for(self) -> Self:
        names, asked = {rule.name for rule in self.rules}, self.requested_rules()
        found: list[tuple[Place, str]] = [
            (
                ("sources", number, "workitems", place, "rule"),
                f"no rule {item.rule!r}; those of the node: {', '.join(sorted(names))}",
            )
            for number, source in enumerate(self.sources)
            if isinstance(source, UpsSource)
            for place, item in enumerate(source.workitems)
            if item.rule not in names
        ]
        found += [
            (
                ("rules", number, "runs"),
                f"{rule.name!r} runs on request, and `workitems` of no source names it",
            )
            for number, rule in enumerate(self.rules)
            if rule.runs == "on_request" and rule.name not in asked
        ]
        if found:
            raise conflict(found)
        if asked and self.deidentify is not None and "uids" not in self.deidentify.retain:
            raise ValueError(
                "deidentify: a work list would be told results of a study that it does not know; retain `uids`, or "
                "take the source `use: ups` out"
            )
        return self

    @property
    def worklists(self) -> tuple[UpsSource, ...]:
        """The sources that are work lists."""
        return tuple(source for source in self.sources if isinstance(source, UpsSource))

    def requested_rules(self) -> set[str]:
        """Names of the rules that work items ask for."""
        return {item.rule for source in self.worklists for item in source.workitems}
