"""Worker processes that answer, die, hang, eat memory or lie; the node and other jobs live on."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from sqlalchemy import delete, select, update

from medseg.errors import StorageError
from medseg.node.audit import Audit
from medseg.node.child import Child, ChildDied, Limits, Stopped
from medseg.node.clock import Clock
from medseg.node.job_input import job_input
from medseg.node.job_model import JobModel
from medseg.node.job_queue import JobQueue, NewJob
from medseg.node.privacy_options import AuditOptions
from medseg.node.rule_options import JobOptions, ReviewOptions
from medseg.node.tables import instances, jobs, results, series, studies
from medseg.node.workers import Workers
from tests.unit.node.listening import Listener, ct_slice, wait_until

walled = pytest.mark.skipif(
    sys.platform != "linux" or Path("/dev/nvidiactl").exists(), reason="the kernel sets no ceiling here"
)
MODEL = JobModel(model="x", exports=("nifti",), engine="torch", recognise=None, digest="d")

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
for line in sys.stdin:
    request = json.loads(line)
    act = Path(sys.argv[1]).read_text().strip()
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "leave":
        sys.exit(7)
    if act == "hang":
        time.sleep(60)
    if act == "wait":
        home = Path(sys.argv[1]).parent
        (home / "begun").touch()
        while not (home / "go_on").exists():
            time.sleep(0.02)
        act = "pass"
    if act == "eat":
        kept = bytearray(400_000_000); kept[::4096] = b"x" * len(kept[::4096]); time.sleep(60)
    if act == "creep":
        kept = []
        while True:
            kept.append(b"x" * 5_000_000); time.sleep(0.005)
    if act == "blink":
        try:
            kept = b"x" * int(2e9 + os.cpu_count() * 1e8)
        except MemoryError:
            print(json.dumps({"error": "not enough memory", "exit_code": 4}), flush=True); continue
        time.sleep(60)
    if act == "abort":
        import mmap
        kept = []
        try:
            while True:
                kept.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE))
        except OSError:
            time.sleep(0.2); os.abort()
    if act == "stray":
        case = Path(request["output"]) / request["name"]
        case.mkdir()
        (case / "measurements.json").write_text('{"verdict": "pass", "flags": [], "export_notes": []}')
        (case / "segmentation.dcm").write_bytes(next(Path(request["input"]).iterdir()).read_bytes())
        print(json.dumps({"cases": [{"folder": request["name"], "verdict": "pass"}]}), flush=True)
        continue
    if act == "lie":
        print("this is no answer", flush=True); continue
    if act == "name":
        error = request["input"] + "/000001.dcm: HighBit is 11; " + request["input"] + ": one is odd"
        print(json.dumps({"error": error, "exit_code": 3}), flush=True); continue
    if act == "slices":
        error = "a gap between slices 1 and 2 of 3 (000000.dcm and 000001.dcm)"
        print(json.dumps({"error": error, "exit_code": 3}), flush=True); continue
    if act == "full":
        print(json.dumps({"error": "x: no space left on device", "exit_code": 4}), flush=True); continue
    if act == "refuse":
        print(json.dumps({"error": "slices are missing", "exit_code": 3}), flush=True); continue
    names = [request["name"]]
    if act == "split":
        names, act = [request["name"] + "-1", request["name"] + "-2"], "pass"
    for name in names:
        case = Path(request["output"]) / name
        case.mkdir()
        record = {"verdict": act, "flags": [], "export_notes": []}
        (case / "measurements.json").write_text(json.dumps(record))
        (case / "segmentation.nii.gz").write_bytes(b"mask of " + str(len(os.listdir(request["input"]))).encode())
    print(json.dumps({"cases": [{"folder": name, "verdict": act} for name in names]}), flush=True)
"""


class Site:
    """A listener that has taken three slices, and workers whose process is a script."""

    def __init__(self, folder: Path, **limits) -> None:
        (folder / "child.py").write_text(textwrap.dedent(CHILD))
        self.act = folder / "act"
        self.listener = Listener(folder / "node")
        self.send(0, 1, 2)
        self.queue = JobQueue(
            self.listener.database, Clock(), "here", deliver=lambda *_: None, attempts=2, first_wait_s=0.01
        )
        self.workers = Workers(
            JobOptions(**({"max_ram": "200MB", "max_time": "0.8s", "stop_grace": 0.001} | limits)),
            ReviewOptions(hold="review"),
            {"ct": MODEL, "other": MODEL},
            database=self.listener.database,
            queue=self.queue,
            vault=self.listener.vault,
            audit=Audit(folder, AuditOptions(), Clock()),
            command=(sys.executable, str(folder / "child.py"), str(self.act)),
        )

    def run(self, act: str, state: str) -> dict:
        """Queue a job, let the workers do it, and wait for its state."""
        job_id = self.put(act)
        self.workers.start()
        wait_until(lambda: self.job(job_id)["state"] == state, 20)
        return self.job(job_id)

    def put(self, act: str, *, rule: str = "ct") -> int:
        self.act.write_text(act)
        (row,) = self.listener.rows(series)
        with self.listener.database.write() as connection:
            given = job_input(connection, row["series_uid"])
            job = NewJob(
                study_uid=row["study_uid"],
                series_uid=row["series_uid"],
                rule=rule,
                model=act,
                input=given.digest,
                instances=len(given.paths),
            )
            job_id = self.queue.put(connection, job)
        assert job_id is not None
        return job_id

    def send(self, *numbers: int) -> None:
        association = self.listener.associate()
        for number in numbers:
            assert association.send_c_store(ct_slice(number)).Status == 0
        association.release()

    def settle(self) -> None:
        with self.listener.database.write() as connection:
            connection.execute(update(studies).values(state="settled"))

    def job(self, job_id: int) -> dict:
        with self.listener.database.read() as connection:
            return dict(connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one())

    def close(self) -> None:
        self.workers.stop(10)
        self.listener.stop()


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path)
    yield made
    made.close()


def test_what_the_process_made_lies_in_the_vault(site: Site):
    site.run("pass", "done")
    rows = site.listener.rows(results)
    assert {row["kind"]: row["path"] for row in rows} == {
        "record": "jobs/1/1/measurements.json",
        "nifti": "jobs/1/1/segmentation.nii.gz",
    }
    assert site.listener.vault.read("jobs/1/1/segmentation.nii.gz") == b"mask of 3"
    wait_until(lambda: not list((site.listener.folder / "scratch").rglob("job-*")))


def test_a_verdict_that_asks_for_a_look_is_held(site: Site):
    assert site.run("review", "held")["verdict"] == "review"


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("die", "the worker process was ended by SIGKILL"),
        ("leave", "the worker process ended with exit code 7"),
        ("hang", "took longer than 0.8 s, the limit jobs.max_time"),
        ("eat", "needed more than 200 MB, the limit jobs.max_ram, and held "),
        ("creep", "needed more than 200 MB, the limit jobs.max_ram, and held 2"),
        pytest.param("blink", "needed more than 200 MB, the limit jobs.max_ram, and held ", marks=walled),
        pytest.param("abort", "needed more than 200 MB, the limit jobs.max_ram, and held ", marks=walled),
        ("lie", "the worker process gave no answer that can be read"),
    ],
)
def test_a_job_that_ends_its_process_is_given_up_and_the_next_runs(site: Site, act: str, reason: str):
    job = site.run(act, "given_up")
    assert job["reason"].startswith(f"given up after 2 tries: {reason}")
    assert site.job(1)["attempts"] == 2
    site.run("pass", "done")


def test_a_job_waits_while_the_disk_is_full_and_leaves_nothing_of_its_tries(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    vault, tries, removed = site.listener.vault, [], []
    write, remove = vault.write, vault.remove

    def fill(name: str, content: bytes) -> None:
        tries.append(name)
        if name.endswith(".nii.gz") and len(tries) <= 2 * 4:
            raise StorageError(f"cannot write {name} of the node: {os.strerror(errno.ENOSPC)}")
        write(name, content)

    def note(name: str) -> None:
        removed.append(name)
        remove(name)

    monkeypatch.setattr(vault, "write", fill)
    monkeypatch.setattr(vault, "remove", note)
    job = site.run("pass", "done")
    assert (job["attempts"], job["reason"]) == (1, "")
    assert removed == ["jobs/1/1/measurements.json"] * 4
    wait_until(lambda: site.workers.outcomes == {"queued": 4, "done": 1})


def test_a_process_that_finds_the_disk_full_costs_the_job_no_try(site: Site):
    job_id = site.put("full")
    site.workers.start()
    wait_until(lambda: site.workers.outcomes["queued"] > 2, 20)
    site.act.write_text("pass")
    wait_until(lambda: site.job(job_id)["state"] == "done", 20)
    assert site.job(job_id)["attempts"] == 1


def test_refused_input_is_not_tried_again(site: Site):
    job = site.run("refuse", "failed")
    assert (job["reason"], job["attempts"]) == ("slices are missing", 1)


def test_a_reason_names_the_instance_and_not_its_copy(site: Site):
    job = site.run("name", "failed")
    assert job["reason"] == "instance 2 of the series: HighBit is 11; the series: one is odd"


def test_slices_are_named_as_instances_of_the_series(site: Site):
    job = site.run("slices", "failed")
    assert job["reason"] == "a gap between slices 1 and 2 of 3 (instance 1 and instance 2)"


def test_a_series_that_makes_two_images_says_so(site: Site):
    job = site.run("split", "done")
    assert job["reason"] == "The instances do not make one image, but 2: each has a result of its own."
    assert sorted(row["path"] for row in site.listener.rows(results) if row["kind"] == "nifti") == [
        "jobs/1/1/1/segmentation.nii.gz",
        "jobs/1/1/2/segmentation.nii.gz",
    ]


@pytest.mark.parametrize(
    ("keyword", "text", "state"),
    [
        ("PatientName", "Roe^Richard", "failed"),
        ("PatientBirthDate", "19500101", "failed"),
        ("PatientSex", "M", "failed"),
        ("PatientName", "DOE^JANE^^", "done"),
        ("PatientName", "", "done"),
    ],
)
def test_one_number_of_two_patients_is_refused(site: Site, keyword: str, text: str, state: str):
    association = site.listener.associate()
    for number in (3, 4):
        one = ct_slice(number)
        one.PatientBirthDate, one.PatientSex = "19700101", "F"
        if number == 4:
            setattr(one, keyword, text)
        assert association.send_c_store(one).Status == 0
    association.release()
    job = site.run("pass", state)
    assert job["reason"] == (
        f"the instances are of two patients: they differ in {keyword}" if state == "failed" else ""
    )


def test_a_result_that_is_not_of_its_source_is_refused_and_nothing_of_it_is_kept(site: Site):
    job = site.run("stray", "failed")
    assert job["reason"] == (
        "its result was refused: segmentation.dcm is of a SOP class that the export dicom_seg does not have"
    )
    assert job["attempts"] == 1
    assert site.listener.rows(results) == []
    assert not list((site.listener.folder / "jobs").rglob("*"))


def test_a_cancelled_job_ends_its_process(tmp_path: Path):
    site = Site(tmp_path, max_time="1min")
    site.act.write_text("hang")
    canceller = threading.Timer(0.8, lambda: site.queue.cancel(1))
    canceller.start()
    site.run("hang", "cancelled")
    wait_until(lambda: site.workers.outcomes["taken_away"] == 1)
    site.close()


def test_a_stop_puts_the_job_back_untried(tmp_path: Path):
    site = Site(tmp_path, max_time="1min")
    site.run("hang", "running")
    site.workers.stop(10)
    assert (site.job(1)["state"], site.job(1)["attempts"]) == ("queued", 0)
    assert site.workers.outcomes == {"put_back": 1}
    site.close()


def test_a_stop_lets_a_job_end_that_can(tmp_path: Path):
    site = Site(tmp_path, max_time="1min", stop_grace="10s")
    site.run("wait", "running")
    waiting = site.put("wait", rule="other")
    wait_until(lambda: (tmp_path / "begun").exists())
    site.workers.claim_no_more()
    threading.Timer(0.5, (tmp_path / "go_on").touch).start()
    begin = time.monotonic()
    site.workers.stop(10)
    assert time.monotonic() - begin < 5
    assert site.workers.outcomes == {"done": 1}
    assert site.job(1)["state"] == "done"
    assert (site.job(waiting)["state"], site.job(waiting)["attempts"]) == ("queued", 0)
    site.close()


def test_a_slice_that_comes_before_the_job_runs_leaves_it_to_the_next(site: Site):
    site.put("pass")
    site.settle()
    site.send(3)
    site.workers.start()
    wait_until(lambda: site.job(1)["state"] == "superseded")
    assert "its series has changed" in site.job(1)["reason"]
    assert site.listener.rows(results) == []
    assert site.run("note", "done")["instances"] == 4
    assert site.listener.vault.read("jobs/2/1/segmentation.nii.gz") == b"mask of 4"
    assert site.job(1)["superseded_by"] == 2


def test_a_series_that_lost_an_instance_is_looked_at_again(site: Site):
    site.put("pass")
    site.settle()
    with site.listener.database.write() as connection:
        connection.execute(delete(instances).where(instances.c.id == 2))
    site.workers.start()
    wait_until(lambda: site.job(1)["state"] == "superseded")
    assert [row["state"] for row in site.listener.rows(studies)] == ["receiving"]


def test_a_slice_that_comes_while_the_job_runs_is_not_in_it(tmp_path: Path):
    site = Site(tmp_path, max_time="1min")
    site.run("wait", "running")
    wait_until(lambda: (tmp_path / "begun").exists())
    site.send(3)
    (tmp_path / "go_on").touch()
    wait_until(lambda: site.job(1)["state"] == "done")
    assert site.listener.vault.read("jobs/1/1/segmentation.nii.gz") == b"mask of 3"
    site.close()


def test_a_process_serves_many_requests_and_ends_with_its_supervisor(tmp_path: Path):
    (tmp_path / "child.py").write_text(
        "import json,os,sys\nfor line in sys.stdin: print(json.dumps({'pid': os.getpid()}), flush=True)"
    )
    child = Child(
        tmp_path / "home",
        Limits(max_bytes=10**9, max_seconds=5),
        command=(sys.executable, str(tmp_path / "child.py")),
    )
    first, second = (child.ask({}, go_on=lambda: True)["pid"] for _ in range(2))
    assert first == second
    child.end()
    assert not Path(f"/proc/{first}").exists()


def test_a_node_with_a_thousand_connections_hears_its_workers(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f"1,200 open files are more than the limit of {hard} here allows")
    (tmp_path / "child.py").write_text("import sys\nfor line in sys.stdin: print(line.strip(), flush=True)")
    child = Child(
        tmp_path,
        Limits(max_bytes=10**9, max_seconds=50),
        command=(sys.executable, str(tmp_path / "child.py")),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
        for _ in range(1200):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert child.ask({"job": 1}, go_on=lambda: True) == {"job": 1}
        child.end()


def test_secrets_of_the_environment_stay_with_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PACS_PASSWORD", "hidden")
    (tmp_path / "child.py").write_text(
        "import json,os,sys\nfor line in sys.stdin: print(json.dumps(dict(os.environ)), flush=True)"
    )
    child = Child(
        tmp_path, Limits(max_bytes=10**9, max_seconds=5), command=(sys.executable, str(tmp_path / "child.py"))
    )
    assert "PACS_PASSWORD" not in child.ask({}, go_on=lambda: True)
    child.end()


def test_a_request_that_was_broken_off_leaves_no_answer_for_the_next(tmp_path: Path):
    (tmp_path / "child.py").write_text(
        "import sys,time\nfor line in sys.stdin: time.sleep(0.5); print(line.strip(), flush=True)"
    )
    child = Child(
        tmp_path,
        Limits(max_bytes=10**9, max_seconds=50),
        command=(sys.executable, str(tmp_path / "child.py")),
    )

    def fail() -> bool:
        raise StorageError("the database is away")

    with pytest.raises(StorageError):
        child.ask({"job": 1}, go_on=fail)
    assert child.ask({"job": 2}, go_on=lambda: True) == {"job": 2}
    child.end()


def test_a_database_that_is_away_for_a_while_costs_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = Site(tmp_path, max_time="1min")
    site.act.write_text("wait")
    away = threading.Event()
    still_mine, failed_try = site.queue.still_mine, site.queue.failed_try

    def unless_away(call):
        def called(*given):
            if away.is_set():
                raise StorageError("the database is away")
            return call(*given)

        return called

    monkeypatch.setattr(site.queue, "still_mine", unless_away(still_mine))
    monkeypatch.setattr(site.queue, "failed_try", unless_away(failed_try))
    site.run("wait", "running")
    wait_until(lambda: (tmp_path / "begun").exists())
    away.set()
    time.sleep(0.5)
    site.act.write_text("leave")
    (tmp_path / "go_on").touch()
    wait_until(lambda: site.job(1)["state"] == "done")
    site.put("leave")
    wait_until(lambda: site.job(2)["state"] == "running")
    time.sleep(1.0)
    assert site.job(2)["state"] == "running"
    away.clear()
    wait_until(lambda: site.job(2)["state"] == "given_up", 10)
    site.close()


def test_waiting_ends_when_it_is_told_to(tmp_path: Path):
    (tmp_path / "child.py").write_text("import time; time.sleep(60)")
    child = Child(
        tmp_path,
        Limits(max_bytes=10**9, max_seconds=50),
        command=(sys.executable, str(tmp_path / "child.py")),
    )
    with pytest.raises(Stopped):
        child.ask({}, go_on=lambda: False)
    (tmp_path / "child.py").write_text("raise SystemExit(3)")
    with pytest.raises(ChildDied, match=r"exit code 3|before it began"):
        child.ask({}, go_on=lambda: True)
