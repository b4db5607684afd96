"""A node with a few jobs, as its web side sees it, and a client that speaks to it without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from medseg.database import Database
from medseg.node.clock import Clock
from medseg.node.instance_header import number_digest
from medseg.node.tables import deliveries, instances, jobs, results, series, studies, study_numbers
from medseg.node.vault import Vault
from medseg.node.view import Actions, Live, NodeView
from medseg.node.web.accounts import Account, Accounts, _digest

TOKENS = {role: f"{role}-token-0123456789" for role in ("viewer", "sender", "operator", "admin")}
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
STUDY = "1.2.826.0.1.3680043.8.498.1"
ACCESSION, PATIENT_ID = "20261127-0815", "471100"
NUMBER_KEY = b"n" * 32
REPORT = b"<!doctype html><title>report</title>"


class TurnedClock(Clock):
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0
        super().__init__()

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Called:
    """Remembers which actions were asked for."""

    calls: list[tuple[str, int]] = field(default_factory=list)
    answer: bool = True

    def action(self, name: str) -> Any:
        def call(number: int) -> bool:
            self.calls.append((name, number))
            return self.answer

        return call


@dataclass
class Site:
    """The application with what stands behind it; `ask` sends one request."""

    view: NodeView
    database: Database
    clock: TurnedClock
    called: Called
    audit_file: Path
    live: Live
    app: Any = None
    new_app: Callable[[], Any] = dict
    address: str = "10.0.0.1"
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)
    turned_away: list[str] = field(default_factory=list)

    def ask(
        self, method: str, path: str, *, role: str = "", base: str = "http://localhost", **more: Any
    ) -> Any:
        headers = dict(more.pop("headers", {}))
        if role:
            headers["authorization"] = f"Bearer {TOKENS[role]}"

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self.address, 4711))
            async with httpx.AsyncClient(transport=transport, base_url=base, cookies=self.cookies) as client:
                answer = await client.request(method, path, headers=headers, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> Any:
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> Any:
        return self.ask("POST", path, **more)

    def log_in(self, role: str) -> Any:
        return self.post("/login", data={"name": role, "token": TOKENS[role]})

    def form_token(self) -> str:
        text = self.get("/jobs/1").text
        return text.split('name="form_token" value="')[1].split('"')[0]

    def audit(self) -> str:
        return self.audit_file.read_text() if self.audit_file.exists() else ""


def fill(database: Database, vault: Vault, now: float) -> None:
    """Three jobs: done with a report, held, given up with a hostile reason; a delivery of the first."""
    job = {"study_uid": STUDY, "series_uid": f"{STUDY}.1", "model": "m" * 64, "input": "i", "instances": 2}
    flag = (
        '[{"code": "Q301", "level": "review", "structure": "lung", "text": "a flag of it", "advice": "look"}]'
    )
    with database.write() as connection:
        connection.execute(
            studies.insert(),
            {"study_uid": STUDY, "state": "settled", "patient": "abcdef0123", "arrivals": 2}
            | {"first_at": now - 600, "last_at": now - 500, "note": HOSTILE},
        )
        for number in (ACCESSION, PATIENT_ID):
            digest = number_digest(number, NUMBER_KEY)
            connection.execute(study_numbers.insert(), {"study_uid": STUDY, "digest": digest})
        connection.execute(
            series.insert(),
            {"series_uid": f"{STUDY}.1", "study_uid": STUDY, "modality": "DX", "body_part": HOSTILE}
            | {"description": HOSTILE, "protocol": "", "called_by": "SCANNER", "instances": 2},
        )
        connection.execute(
            instances.insert(),
            {"sop_instance_uid": f"{STUDY}.9", "sop_class_uid": "1", "series_uid": f"{STUDY}.1"}
            | {"study_uid": STUDY, "patient": "abcdef0123", "transfer_syntax_uid": "1", "path": "x"}
            | {"size": 1000, "sha256": "0", "received_at": now, "route": "dimse", "peer": "SCANNER"},
        )
        rows = (
            {"rule": "chest", "state": "done", "verdict": "pass", "attempts": 1, "flags": "[]", "reason": ""},
            {"rule": "ct", "state": "held", "verdict": "review", "attempts": 1, "flags": flag, "reason": ""},
            {
                "rule": "head",
                "state": "given_up",
                "verdict": "",
                "attempts": 3,
                "flags": "[]",
                "reason": HOSTILE,
            },
        )
        for row in rows:
            connection.execute(jobs.insert(), job | row | {"created_at": now - 300})
        for kind, name, content in (
            ("html", "report.html", REPORT),
            ("dicom_seg", "segmentation.dcm", b"SEG"),
        ):
            path = f"jobs/1/{name}"
            vault.write(path, content)
            connection.execute(
                results.insert(),
                {"job_id": 1, "kind": kind, "path": path, "size": len(content), "sha256": "a"},
            )
        connection.execute(
            deliveries.insert(),
            {"destination": "pacs", "sop_class_uid": "1", "sop_instance_uid": f"{STUDY}.5", "job_id": 1}
            | {"path": "jobs/1/segmentation.dcm", "state": "waiting", "attempts": 2, "not_before": now + 120}
            | {"created_at": now - 60, "reason": "the archive does not answer"},
        )


def make_view(
    folder: Path, database: Database, clock: Clock, called: Called, live: Callable[[], Live]
) -> NodeView:
    """The view of a filled folder."""
    names = ("release", "hold", "retry", "repeat", "cancel")
    return NodeView(
        database,
        Vault(folder),
        clock,
        name="node of tests",
        rules=("chest", "ct", "head"),
        destinations=("pacs", "other"),
        audit_folder=folder,
        live=live,
        actions=Actions(
            jobs={name: called.action(name) for name in names},
            deliveries={name: called.action(f"delivery {name}") for name in ("retry", "cancel")},
        ),
        number_key=NUMBER_KEY,
    )


def make_accounts(roles: Sequence[str]) -> Accounts:
    """An account of each role, named like it."""
    return Accounts([Account(name=role, role=role, digest=_digest(TOKENS[role])) for role in roles])
