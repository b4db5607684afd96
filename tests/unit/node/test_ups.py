"""Work items: claimed once, done once, told of truly, and never lost, whoever dies."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
pytest.importorskip("httpx", reason="needs medseg[pacs]")
from pydicom import dcmwrite
from pydicom.uid import generate_uid
from sqlalchemy import select, update

from medseg.errors import MedsegError, PacsUnreachableError, StorageError
from medseg.node.arrival import Receipt
from medseg.node.audit import Audit
from medseg.node.intake import Intake
from medseg.node.job_queue import Finished, JobQueue, ResultFile
from medseg.node.options import StorageOptions, StudyOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.rule_options import MatchOptions, RuleOptions
from medseg.node.scheduler import Scheduler
from medseg.node.source_options import UpsSource as UpsOptions
from medseg.node.sources.ups import UpsSource
from medseg.node.sources.ups_performer import NodeParts
from medseg.node.tables import deliveries, instances, jobs, metadata, work_items
from medseg.node.vault import Vault
from medseg.node.work_items import WorkItems
from medseg.pacs.dicom_json import data_set, element, items_of, text_of
from medseg.pacs.options import DicomwebDestination, DimseDestination
from medseg.pacs.workitem import Code
from tests.unit.node.listening import SERIES, STUDY, Database, ct_slice
from tests.unit.node.turned_clock import TurnedClock
from tests.unit.node.ups_server import UpsServer, input_item, ups_server

RULES = (
    RuleOptions(name="liver", model="x", match=MatchOptions(modality=("CT",)), send_to=("archive",)),
    RuleOptions(name="lungs", model="x", match=MatchOptions(modality=("CT",)), send_to=("archive",)),
    RuleOptions(name="head", model="x", match=MatchOptions(modality=("MR",)), send_to=("archive",)),
)
WORKITEMS: list[dict[str, str]] = [
    {"value": "LIVER", "scheme": "99T", "rule": "liver"},
    {"value": "HEAD", "scheme": "99T", "rule": "head"},
    {"value": "OLD", "scheme": "99T", "rule": "gone"},
]
ARCHIVE = DimseDestination(host="127.0.0.1", called_ae_title="PACS")
WEB = DicomwebDestination(url="https://pacs.example.org/dicom-web")
UIDS = [generate_uid() for _ in range(9)]


class Crash(Exception):
    """The node ends here."""


class CrashingItems(WorkItems):
    """Ends the node at the n-th write, before or after it."""

    countdown, after = 0, False

    def _met(self) -> bool:
        type(self).countdown -= 1
        return type(self).countdown == 0

    def add(self, *args, **kwargs):
        met = self._met()
        if met and not self.after:
            raise Crash
        made = super().add(*args, **kwargs)
        if met:
            raise Crash
        return made

    def set_within(self, connection, item, **values):
        # In the transaction: what was written in it is lost.
        if self._met():
            raise Crash
        return super().set_within(connection, item, **values)


def as_file(data_set_) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, data_set_, enforce_file_format=True)
    return stream.getvalue()


class Site:
    """A node without network edges, whose worker and outbox are the test; `restart` ends it and starts the next."""

    def __init__(self, folder: Path, url: str, *, items=WorkItems, database=None, **options) -> None:
        self.folder, self.url, self.clock, self.starts = folder, url, TurnedClock(), 0
        self.options, self.items_class = options, items
        self.database = database or Database.in_file(folder / "node.db", metadata)
        self.vault = Vault(folder)
        self.audit = Audit(folder, AuditOptions(), self.clock)
        self.destinations, self.rules = {"archive": ARCHIVE}, RULES
        self.intake = Intake(
            StorageOptions(reserve=1),
            database=self.database,
            vault=self.vault,
            audit=self.audit,
            clock=self.clock,
            secret=b"s",
        )
        self.intake.start()
        self.computed: list[int] = []
        self.restart()

    def restart(self) -> None:
        before, self.starts = f"node{self.starts}", self.starts + 1
        node_id = f"node{self.starts}"
        self.queue = JobQueue(
            self.database, self.clock, node_id, deliver=self._deliver, attempts=2, first_wait_s=0.0
        )
        given = {"name": "list", "url": self.url, "workitems": WORKITEMS} | self.options
        options = UpsOptions.model_validate(given)
        self.scheduler = Scheduler(
            self.rules,
            {rule.name: "digest" for rule in self.rules},
            StudyOptions(stable_after=60.0),
            database=self.database,
            vault=self.vault,
            queue=self.queue,
            audit=self.audit,
            clock=self.clock,
            requested={one.rule for one in options.workitems},
        )
        items = self.items_class(self.database, self.clock, node_id)
        items.take_over([before])
        self.queue.take_over([before])
        parts = NodeParts(
            intake=self.intake,
            database=self.database,
            vault=self.vault,
            queue=self.queue,
            scheduler=self.scheduler,
            items=items,
            audit=self.audit,
            clock=self.clock,
            destinations=self.destinations,
            rules=frozenset(rule.name for rule in self.rules),
            ae_title="MEDSEG",
            file_limit=1 << 20,
        )
        self.source = UpsSource(options, parts)

    def _deliver(self, connection, job_id, rule, files) -> None:
        for name in self.destinations:
            for file in files:
                row = {
                    "destination": name,
                    "sop_class_uid": file.sop_class_uid,
                    "sop_instance_uid": file.sop_instance_uid,
                    "path": file.path,
                    "job_id": job_id,
                    "state": "waiting",
                    "created_at": 0.0,
                }
                connection.execute(self.database.insert(deliveries).values(row).on_conflict_do_nothing())

    def settle(self) -> None:
        self.scheduler.tick()
        self.clock.turn(61)
        self.scheduler.tick()

    def compute(self, *, held: bool = False) -> None:
        """Do the jobs that wait; a result follows from its input and rule."""
        while (job := self.queue.claim()) is not None:
            self.computed.append(job.id)
            row = self.row(jobs, job.id)
            seg = ct_slice(7)
            seg.Modality = "SEG"
            seg.StudyInstanceUID = job.study_uid
            seg.SOPInstanceUID = generate_uid(entropy_srcs=[row["input"], row["rule"]])
            seg.SeriesInstanceUID = generate_uid(entropy_srcs=[row["input"], row["rule"], "series"])
            content, path = as_file(seg), f"jobs/{job.id}/{job.attempts}/segmentation.dcm"
            self.vault.write(path, content)
            file = ResultFile(
                kind="dicom_seg",
                path=path,
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                sop_class_uid=str(seg.SOPClassUID),
                sop_instance_uid=str(seg.SOPInstanceUID),
            )
            self.queue.finish(job, Finished(folder=path, files=(file,), verdict="pass", held=held))

    def send(self, state: str = "sent") -> None:
        with self.database.write() as connection:
            waiting = deliveries.c.state == "waiting"
            connection.execute(update(deliveries).where(waiting).values(state=state, reason="no room"))

    def round(self) -> None:
        """One look, and time for everything else to happen."""
        self.source.look()
        self.settle()
        self.compute()
        self.send()

    def rows(self, table):
        with self.database.read() as connection:
            return connection.execute(select(table).order_by(table.c.id)).mappings().all()

    def row(self, table, row_id: int):
        return next(row for row in self.rows(table) if row["id"] == row_id)

    def item(self):
        return self.rows(work_items)[-1]

    def audited(self, event: str = "work_item") -> list[str]:
        lines = (self.folder / "audit.jsonl").read_text().splitlines()
        return [
            one["outcome"] + (": " + one["reason"] if "reason" in one else "")
            for one in map(json.loads, lines)
            if one["event"] == event
        ]

    def close(self) -> None:
        self.intake.stop()
        self.database.close()


@pytest.fixture
def server():
    made = UpsServer()
    for number in range(3):
        one = ct_slice(number)
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
        made.files[(STUDY, SERIES, str(one.SOPInstanceUID))] = as_file(one)
    return made


@pytest.fixture
def url(server):
    with ups_server(server) as found:
        yield found


@pytest.fixture
def site(tmp_path: Path, url: str):
    made = Site(tmp_path, url)
    yield made
    made.close()


def test_an_item_is_claimed_computed_delivered_and_completed(server: UpsServer, site: Site):
    uid = server.add(UIDS[0], study=STUDY)
    assert site.source.look() == 3
    assert server.state(uid) == "IN PROGRESS"
    site.settle()
    site.source.look()
    site.source.look()
    # Of the rules that would match, only that of the item runs.
    assert [(row["rule"], row["state"]) for row in site.rows(jobs)] == [
        ("lungs", "queued"),
        ("liver", "queued"),
    ]
    site.compute()
    site.source.look()
    assert server.state(uid) == "IN PROGRESS"
    site.send()
    site.source.look()
    assert server.history[uid] == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    (output,) = server.outputs(uid)
    assert text_of(output, "StudyInstanceUID") == STUDY
    (reference,) = items_of(output, "ReferencedSOPSequence")
    (seg,) = [row for row in site.rows(deliveries) if row["job_id"] == 2]
    assert text_of(reference, "ReferencedSOPInstanceUID") == seg["sop_instance_uid"]
    assert [text_of(one, "RetrieveAETitle") for one in items_of(output, "DICOMRetrievalSequence")] == ["PACS"]
    (done,) = items_of(server.items[uid], "UnifiedProcedureStepPerformedProcedureSequence")
    (performed,) = items_of(done, "PerformedWorkitemCodeSequence")
    assert Code.read(performed) == Code(value="LIVER", scheme="99T", meaning="a kind of work")
    assert server.progress == [
        "the input is being retrieved",
        "waits whether more instances of the study come",
        "waits for a worker",
        "results are being sent: 0 of 1",
        "finished",
    ]
    assert server.refused == []
    assert site.audited() == ["claimed", "completed"]
    before = len(server.requests)
    site.source.look()
    assert len(server.requests) - before == 3


def test_nothing_of_patient_or_item_stands_in_the_audit_log(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY)
    server.add(UIDS[1], study=STUDY, InputInformationSequence=[])
    server.garbled.add(f"/dicom-web/workitems/{server.add(UIDS[2], study=STUDY)}")
    for _ in range(4):
        site.round()
    assert server.state(UIDS[0]) == "COMPLETED"
    written = (site.folder / "audit.jsonl").read_text()
    for text in (*UIDS, STUDY, SERIES, "Doe", 'P1"', *(key[2] for key in server.files)):
        assert text not in written


def test_the_same_asked_again_is_completed_with_the_results_that_are_there(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY)
    for _ in range(3):
        site.round()
    computed = list(site.computed)
    server.add(UIDS[1], study=STUDY)
    site.source.look()
    assert server.state(UIDS[1]) == "COMPLETED"
    assert server.outputs(UIDS[0]) == server.outputs(UIDS[1])
    assert site.computed == computed


def test_an_item_after_a_failure_asks_again(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    site.queue.refuse(job_of(site, "liver"), "slices are missing")
    site.source.look()
    assert server.state(UIDS[0]) == "CANCELED"
    (told,) = items_of(server.items[UIDS[0]], "ProcedureStepProgressInformationSequence")
    assert text_of(told, "ReasonForCancellation") == "slices are missing"
    assert site.audited() == ["claimed", "canceled: slices are missing"]
    server.add(UIDS[1], study=STUDY)
    site.round()
    site.round()
    assert server.state(UIDS[1]) == "COMPLETED"
    assert server.refused == []


def job_of(site: Site, rule: str):
    while (job := site.queue.claim()) is not None:
        if job.rule == rule:
            return job
    raise AssertionError(rule)


def test_a_held_result_waits_and_one_that_is_rejected_cancels_the_item(server: UpsServer, site: Site):
    for uid in UIDS[:2]:
        server.add(uid, study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    site.compute(held=True)
    site.source.look()
    assert server.progress[-1] == "waits for a person to release the result"
    held = next(row["id"] for row in site.rows(jobs) if row["rule"] == "liver")
    site.queue.cancel(held)
    site.source.look()
    assert [server.state(uid) for uid in UIDS[:2]] == ["CANCELED", "CANCELED"]
    server.add(UIDS[2], study=STUDY)
    site.source.look()
    site.compute(held=True)
    assert site.queue.release(held)
    site.send()
    site.source.look()
    assert server.state(UIDS[2]) == "COMPLETED"


def test_a_delivery_that_fails_for_good_cancels_the_item(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    site.compute()
    site.send("failed")
    site.source.look()
    assert server.state(UIDS[0]) == "CANCELED"
    assert "1 of 1 deliveries of the results failed: no room" in site.audited()[-1]


def test_results_are_named_where_each_destination_gives_them(server: UpsServer, tmp_path: Path, url: str):
    site = Site(tmp_path, url)
    site.destinations = {"archive": ARCHIVE.model_copy(update={"commitment": "ask"}), "web": WEB}
    site.restart()
    server.add(UIDS[0], study=STUDY)
    for _ in range(4):
        site.round()
    # The archive has not promised to keep it yet.
    assert server.state(UIDS[0]) == "IN PROGRESS"
    with site.database.write() as connection:
        connection.execute(update(deliveries).values(state="committed"))
    site.source.look()
    (output,) = server.outputs(UIDS[0])
    series = text_of(output, "SeriesInstanceUID")
    assert [text_of(one, "RetrieveURL") for one in items_of(output, "WADORSRetrievalSequence")] == [
        f"https://pacs.example.org/dicom-web/studies/{STUDY}/series/{series}"
    ]
    assert [text_of(one, "RetrieveAETitle") for one in items_of(output, "DICOMRetrievalSequence")] == ["PACS"]
    site.close()


def test_without_a_destination_results_stay_with_the_node(server: UpsServer, site: Site):
    site.destinations = {}
    site.restart()
    server.add(UIDS[0], study=STUDY)
    for _ in range(3):
        site.round()
    (output,) = server.outputs(UIDS[0])
    assert [text_of(one, "RetrieveAETitle") for one in items_of(output, "DICOMRetrievalSequence")] == [
        "MEDSEG"
    ]


def test_every_series_of_a_rule_that_takes_all_is_an_output(server: UpsServer, site: Site):
    second = generate_uid()
    for number in range(3):
        one = ct_slice(number, uid=generate_uid())
        one.SeriesInstanceUID = second
        server.files[(STUDY, second, str(one.SOPInstanceUID))] = as_file(one)
    site.rules = (RULES[0].model_copy(update={"choose": "all"}),)
    site.restart()
    server.add(UIDS[0], study=STUDY)
    for _ in range(3):
        site.round()
    assert server.state(UIDS[0]) == "COMPLETED"
    assert len(server.outputs(UIDS[0])) == 2


def test_a_job_that_was_removed_meanwhile_is_asked_for_again(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    with site.database.write() as connection:
        connection.execute(jobs.delete())
    for _ in range(3):
        site.round()
    assert server.state(UIDS[0]) == "COMPLETED"


def test_a_slice_before_the_job_runs_lets_the_item_ask_again(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    while (job := site.queue.claim()) is not None:
        # What a worker says of a job whose series has grown since.
        site.queue.outdated(job)
    for _ in range(3):
        site.round()
    assert server.state(UIDS[0]) == "COMPLETED"


def test_late_slices_take_the_item_along_to_the_newer_job(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    one = ct_slice(3)
    server.files[(STUDY, SERIES, str(one.SOPInstanceUID))] = as_file(one)
    server.add(UIDS[1], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    assert [row["state"] for row in site.rows(jobs) if row["rule"] == "liver"] == ["superseded", "queued"]
    site.compute()
    site.send()
    site.source.look()
    assert [server.state(uid) for uid in UIDS[:2]] == ["COMPLETED", "COMPLETED"]
    assert server.outputs(UIDS[0]) == server.outputs(UIDS[1])


def test_without_room_an_item_waits_and_is_not_given_up(
    server: UpsServer, site: Site, monkeypatch: pytest.MonkeyPatch
):
    server.add(UIDS[0], study=STUDY)
    full = Receipt(verdict="no_space", reason="the disk is full")
    with monkeypatch.context() as patch:
        patch.setattr(site.intake, "accept", lambda arrival: full)
        for _ in range(30):
            with pytest.raises(StorageError, match="the disk is full"):
                site.source.look()
    assert site.source.look() == 3
    for _ in range(3):
        site.round()
    assert server.state(UIDS[0]) == "COMPLETED"


def test_what_another_performer_took_is_left_to_him(server: UpsServer, site: Site):
    uid = server.add(UIDS[0], study=STUDY)
    server.before_claim = lambda uid: server.state(uid) == "SCHEDULED" and other_claims(server, uid)
    site.round()
    assert server.transactions[uid] == "1.2.3"
    assert site.audited() == ["let_go: another performer was faster"]
    site.round()
    assert site.rows(jobs) == []
    assert len(site.rows(work_items)) == 1


def other_claims(server: UpsServer, uid: str) -> None:
    server.set_state(uid, "IN PROGRESS")
    server.transactions[uid] = "1.2.3"


def test_a_claim_without_an_answer_that_went_to_another_is_found_out(server: UpsServer, site: Site):
    uid = server.add(UIDS[0], study=STUDY)
    # A search for each code, then the item, then its claim.
    server.cut_at = 5
    with pytest.raises(PacsUnreachableError):
        site.source.look()
    other_claims(server, uid)
    site.restart()
    site.source.look()
    assert site.audited()[-1] == "let_go: another performer was faster"
    assert len(server.files) == 3
    assert site.rows(jobs) == []


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELED", "removed"])
def test_what_somebody_else_ended_is_let_go_and_its_job_stopped(server: UpsServer, site: Site, state: str):
    uid = server.add(UIDS[0], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    if state == "removed":
        del server.items[uid]
    else:
        server.set_state(uid, state)
    site.source.look()
    states = {row["rule"]: row["state"] for row in site.rows(jobs)}
    assert states == {"liver": "cancelled", "lungs": "queued"}
    reason = (
        "it is no longer on the work list" if state == "removed" else f"somebody else has set it to {state}"
    )
    assert site.audited()[-1] == f"let_go: {reason}"


def test_a_request_to_cancel_that_the_server_shows_is_obeyed_before_the_result_leaves(
    server: UpsServer, site: Site
):
    uid = server.add(UIDS[0], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    server.ask_to_cancel(uid)
    site.source.look()
    assert server.state(uid) == "CANCELED"
    assert next(row["state"] for row in site.rows(jobs) if row["rule"] == "liver") == "cancelled"
    late = server.add(UIDS[1], study=STUDY)
    site.source.look()
    site.compute()
    server.ask_to_cancel(late)
    site.source.look()
    site.send()
    site.source.look()
    assert server.state(late) == "COMPLETED"


def test_a_job_that_two_items_wait_for_is_not_stopped_for_one(server: UpsServer, site: Site):
    # The first one is asked for first, and the job is queued for it.
    server.add(UIDS[0], study=STUDY, ScheduledProcedureStepPriority=["HIGH"])
    server.add(UIDS[1], study=STUDY)
    site.source.look()
    site.settle()
    site.source.look()
    server.set_state(UIDS[0], "CANCELED")
    site.source.look()
    site.compute()
    site.send()
    site.source.look()
    assert server.state(UIDS[1]) == "COMPLETED"


@pytest.mark.parametrize(
    "changed",
    [
        {"code": "UNKNOWN"},
        {"scheme": "99OTHER"},
        {"InputReadinessState": ["INCOMPLETE"]},
        {"InputReadinessState": ["UNAVAILABLE"]},
    ],
)
def test_what_is_not_for_this_node_is_left_alone_without_a_word(server: UpsServer, site: Site, changed):
    server.add(UIDS[0], study=STUDY, **changed)
    site.source.look()
    assert server.state(UIDS[0]) == "SCHEDULED"
    assert site.rows(work_items) == []
    assert not (site.folder / "audit.jsonl").exists()


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([], "names no DICOM instances"),
        ([data_set(element("TypeOfInstances", "CDA"))], "names no DICOM instances"),
        ([data_set(element("TypeOfInstances", "DICOM"))], "a Study or Series Instance UID that is none"),
        ([input_item("1.2/../3", SERIES, ["1.2.3"])], "a Study or Series Instance UID that is none"),
        ([input_item(STUDY, "../..", ["1.2.3"])], "a Study or Series Instance UID that is none"),
        ([input_item(STUDY, SERIES, ["1.2.3", "x"])], "a Referenced SOP Instance UID that is none"),
    ],
)
def test_a_malformed_item_is_one_line_in_the_audit_log(server: UpsServer, site: Site, inputs, sentence: str):
    server.add(UIDS[0], study=STUDY, InputInformationSequence=inputs)
    server.add(UIDS[1], study=STUDY)
    for _ in range(4):
        site.round()
    assert server.state(UIDS[0]) == "SCHEDULED"
    assert server.state(UIDS[1]) == "COMPLETED"
    (left,) = [line for line in site.audited() if line.startswith("left")]
    assert sentence in left


@pytest.mark.parametrize("garbled", ["item", "search", "numbers"])
def test_answers_that_are_no_work_items_harm_nothing(server: UpsServer, site: Site, garbled: str):
    uid = server.add(UIDS[0], study=STUDY)
    if garbled == "item":
        server.garbled.add(f"/dicom-web/workitems/{uid}")
        site.source.look()
        site.source.look()
        assert site.audited() == ["left: the answer of the work list is not JSON"]
    elif garbled == "search":
        server.garbled.add("/dicom-web/workitems")
        with pytest.raises(MedsegError, match="is not JSON"):
            site.source.look()
    else:
        server._search = lambda query: (
            200,
            b'[1, "x", null, {"00080018": 7}, {"00080018": {"Value": [{}]}}]',
            {},
        )
        site.source.look()
        site.source.look()
        assert site.audited() == ["left: an item of the work list has no valid SOP Instance UID"]
    assert server.state(uid) == "SCHEDULED"
    server.garbled.clear()


@pytest.mark.parametrize("matches", [True, False], ids=["a server that matches", "one that gives all"])
def test_label_station_and_number_of_items_are_heeded(
    server: UpsServer, tmp_path: Path, url: str, matches: bool
):
    if not matches:
        search = server._search
        server._search = lambda query: search({key: query[key] for key in ("limit", "offset")})
    query = {"label": "AI", "station": {"value": "GPU1", "scheme": "99T"}, "by_code": False}
    site = Site(tmp_path, url, query=query, at_most=2)

    def station(scheme: str) -> list:
        coded = Code(value="GPU1", scheme=scheme, meaning="a machine").sequence(
            "ScheduledStationNameCodeSequence"
        )
        return next(iter(coded.values()))["Value"]

    for number, uid in enumerate(UIDS[:5]):
        priority = ["HIGH"] if number == 4 else ["LOW"]
        server.add(
            uid,
            study=STUDY,
            ScheduledStationNameCodeSequence=station("99OTHER" if number == 1 else "99T"),
            WorklistLabel=["QA"] if number == 0 else ["AI"],
            ScheduledProcedureStepPriority=priority,
        )
    site.source.look()
    taken = [uid for uid in UIDS[:5] if server.state(uid) == "IN PROGRESS"]
    assert len(taken) == 2
    assert UIDS[4] in taken
    assert not {UIDS[0], UIDS[1]} & set(taken)
    for _ in range(4):
        site.round()
    assert [server.state(uid) for uid in UIDS[:2]] == ["SCHEDULED", "SCHEDULED"]
    assert {server.state(uid) for uid in UIDS[2:5]} == {"COMPLETED"}
    assert site.row(jobs, 2)["priority"] == 10
    site.close()


def test_two_nodes_on_one_database_share_a_list(server: UpsServer, site: Site):
    uid = server.add(UIDS[0], study=STUDY)
    first = site.source
    site.restart()
    second = site.source
    first.look()
    second.look()
    site.settle()
    for _ in range(3):
        second.look()
        site.compute()
        site.send()
    # The first one has claimed it, and lives.
    assert server.state(uid) == "IN PROGRESS"
    assert site.item()["owner"] == "node1"
    WorkItems(site.database, site.clock, "node2").take_over(["node1"])
    site.round()
    second.look()
    first.look()
    assert server.history[uid] == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert site.audited() == ["claimed", "completed"]


def test_a_long_work_list_is_read_page_by_page(server: UpsServer, site: Site):
    for _ in range(230):
        server.add(generate_uid(), study=STUDY, InputReadinessState=["INCOMPLETE"])
    uid = server.add(UIDS[0], study=STUDY)
    site.source.look()
    assert server.state(uid) == "IN PROGRESS"
    assert len(server.requests) < 20


def test_what_the_rule_does_not_take_or_nobody_has_is_canceled(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY, code="HEAD")
    server.add(UIDS[1], study=STUDY, InputInformationSequence=[input_item(STUDY, SERIES, ["1.2.3"])])
    server.add(UIDS[2], study=STUDY, code="OLD")
    for _ in range(21):
        site.source.look()
        site.settle()
    codes = {}
    for uid in UIDS[:3]:
        assert server.state(uid) == "CANCELED"
        (told,) = items_of(server.items[uid], "ProcedureStepProgressInformationSequence")
        (code,) = items_of(told, "ProcedureStepDiscontinuationReasonCodeSequence")
        codes[uid] = (Code.read(code).value, text_of(told, "ReasonForCancellation"))
    assert codes == {
        UIDS[0]: ("110522", "head leaves series (CT): its modality is not one of MR"),
        UIDS[1]: ("110523", "1 of 1 instances of the input cannot be retrieved or stored"),
        UIDS[2]: ("110513", "the rule gone is no longer there"),
    }


def test_a_series_or_study_that_is_named_as_a_whole_is_had_as_a_whole(server: UpsServer, site: Site):
    server.add(UIDS[0], study=STUDY, InputInformationSequence=[input_item(STUDY, SERIES, [])])
    whole = data_set(element("StudyInstanceUID", STUDY))
    server.add(UIDS[1], study=STUDY, InputInformationSequence=[whole])
    for _ in range(3):
        site.round()
    assert [server.state(uid) for uid in UIDS[:2]] == ["COMPLETED", "COMPLETED"]
    assert len(site.computed) == 2


@pytest.mark.parametrize("named", [False, True])
def test_images_of_another_study_are_no_input(server: UpsServer, site: Site, named: bool):
    (patient, study), ours = ("P2", generate_uid()), ct_slice(0)
    other = ct_slice(9, patient=patient, study=study)
    server.files = {(STUDY, SERIES, str(one.SOPInstanceUID)): as_file(one) for one in (ours, other)}
    names = [str(one.SOPInstanceUID) for one in (ours, other)] if named else []
    server.add(UIDS[0], study=STUDY, InputInformationSequence=[input_item(STUDY, SERIES, names)])
    for _ in range(3):
        site.round()
    with site.database.read() as connection:
        held = set(connection.execute(select(instances.c.study_uid)).scalars())
    assert held == {STUDY}
    assert (server.state(UIDS[0]) == "COMPLETED") is not named


def test_urls_of_an_item_choose_an_archive_and_are_never_called(server: UpsServer, tmp_path: Path, url: str):
    canary = UpsServer()
    second = UpsServer()
    second.files, server.files = server.files, {}
    with ups_server(canary) as elsewhere, ups_server(second) as other:
        site = Site(tmp_path, url, archives=[{"url": url}, {"url": other, "ae_title": "SECOND"}])
        instances = [key[2] for key in second.files]
        urls = [f"{elsewhere}/studies/1.2", f"{other}/studies/{STUDY}/../../secret"]
        named = {
            UIDS[0]: element("WADORSRetrievalSequence", *(element("RetrieveURL", one) for one in urls)),
            UIDS[1]: element("DICOMRetrievalSequence", element("RetrieveAETitle", "SECOND")),
            UIDS[2]: element(
                "WADORSRetrievalSequence", element("RetrieveURL", f"{elsewhere}/studies/{STUDY}")
            ),
        }
        for uid, place in named.items():
            one = input_item(STUDY, SERIES, instances, place)
            server.add(uid, InputInformationSequence=[one])
        for _ in range(3):
            site.round()
        assert {server.state(uid) for uid in UIDS[:3]} == {"COMPLETED"}
        assert canary.requests == []
        assert len(second.requests) == 3
        assert not any("secret" in one for one in second.requests)
        site.close()


def test_of_a_large_series_only_the_named_instances_are_taken(server: UpsServer, site: Site):
    for number in range(3, 30):
        one = ct_slice(number)
        server.files[(STUDY, SERIES, str(one.SOPInstanceUID))] = as_file(one)
    named = [key[2] for key in server.files][:12]
    server.add(UIDS[0], InputInformationSequence=[input_item(STUDY, SERIES, named)])
    assert site.source.look() == 12
    assert sum("/studies/" in one for one in server.requests) == 1


def test_an_archive_that_is_away_holds_up_its_item_alone(server: UpsServer, tmp_path: Path, url: str):
    away = UpsServer()
    away.down = True
    with ups_server(away) as other:
        site = Site(tmp_path, url, archives=[{"url": url}, {"url": other, "ae_title": "AWAY"}])
        place = element("DICOMRetrievalSequence", element("RetrieveAETitle", "AWAY"))
        one = input_item(STUDY, SERIES, [key[2] for key in server.files], place)
        server.add(UIDS[0], InputInformationSequence=[one], ScheduledProcedureStepPriority=["HIGH"])
        server.add(UIDS[1], study=STUDY)
        with pytest.raises(PacsUnreachableError):
            site.source.look()
        site.settle()
        for _ in range(3):
            site.round()
        assert [server.state(uid) for uid in UIDS[:2]] == ["COMPLETED", "COMPLETED"]
        site.close()


def test_a_server_that_forgot_the_claim_is_asked_again(server: UpsServer, site: Site):
    uid = server.add(UIDS[0], study=STUDY)
    site.round()
    transaction = server.transactions.pop(uid)
    server.set_state(uid, "SCHEDULED")
    for _ in range(3):
        site.round()
    assert server.state(uid) == "COMPLETED"
    assert server.transactions[uid] == transaction
    assert len(site.computed) == 2


def test_a_server_that_does_not_take_the_result_hears_of_the_end(server: UpsServer, site: Site):
    uid = server.add(UIDS[0], study=STUDY)
    change = server._change
    server._change = lambda uid, given: (
        (409, b"", {}) if text_of(given, "ProcedureStepState") == "COMPLETED" else change(uid, given)
    )
    for _ in range(3):
        site.round()
    assert server.state(uid) == "CANCELED"
    assert site.audited()[-1] == "canceled: the work list does not take its result as complete"


def live(site: Site, server: UpsServer, uid: str) -> None:
    """Rounds until the item is at its end; a node that ends is started again."""
    for _ in range(12):
        try:
            site.round()
        except (PacsUnreachableError, Crash):
            site.restart()
        if server.state(uid) in ("COMPLETED", "CANCELED") and site.item()["state"] in (
            "completed",
            "canceled",
        ):
            return
    raise AssertionError(f"{server.state(uid)}, {dict(site.item())}")


EVERY = [pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize(
    ("fails", "after"),
    [(False, False), (False, True), (True, True)],
    ids=["completed, unheard", "completed, heard", "canceled, heard"],
)
def test_a_server_that_is_cut_off_at_each_request_loses_nothing(
    server: UpsServer, tmp_path: Path, url: str, fails: bool, after: bool, step: int
):
    code, reached, number = ("HEAD" if fails else "LIVER"), True, 1 + after
    workitems = [one for one in WORKITEMS if one["value"] == code]
    while reached:
        uid = server.add(generate_uid(), study=STUDY, code=code)
        (tmp_path / str(number)).mkdir()
        site = Site(tmp_path / str(number), url, workitems=workitems)
        server.requests.clear()
        server.cut_at, server.cut_after = number, after
        live(site, server, uid)
        reached = len(server.requests) >= number
        check_life(site, server, uid, fails)
        site.close()
        number += step
    assert number > 10


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_node_that_ends_at_each_write_goes_on_with_the_same_transaction(
    server: UpsServer, tmp_path: Path, url: str, after: bool, step: int
):
    reached, number = True, 1 + after
    while reached:
        uid = server.add(generate_uid(), study=STUDY)
        (tmp_path / str(number)).mkdir()
        CrashingItems.countdown, CrashingItems.after = number, after
        site = Site(tmp_path / str(number), url, items=CrashingItems, workitems=WORKITEMS[:1])
        live(site, server, uid)
        reached = CrashingItems.countdown <= 0
        check_life(site, server, uid, fails=False)
        site.close()
        number += step
    assert number > 8


def check_life(site: Site, server: UpsServer, uid: str, fails: bool) -> None:
    """The item ended once, under one claim, its job ran once, and everybody agrees."""
    wanted = "CANCELED" if fails else "COMPLETED"
    assert server.history[uid] == ["SCHEDULED", "IN PROGRESS", wanted]
    (row,) = site.rows(work_items)
    assert (row["state"], row["transaction_uid"]) == (wanted.lower(), server.transactions[uid])
    assert [one["state"] for one in site.rows(jobs)] == ["done", "done"]
    assert site.computed == list(range(1, len(site.computed) + 1))
    if not fails:
        (output,) = server.outputs(uid)
        (reference,) = items_of(output, "ReferencedSOPSequence")
        sent = {one["sop_instance_uid"] for one in site.rows(deliveries) if one["state"] == "sent"}
        assert text_of(reference, "ReferencedSOPInstanceUID") in sent
