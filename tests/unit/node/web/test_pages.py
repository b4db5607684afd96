"""What pages, API and probes say: rows, filters, escaping, bounds, metrics, headers."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from medseg.errors import StorageError
from medseg.node.disk_space import SpaceState
from medseg.node.stow import StowAnswer
from medseg.node.tables import conflicts, deliveries, jobs, work_items
from medseg.node.web.guard import SMALL_BODY
from medseg.privacy import pseudonym
from tests.unit.node.web.node_site import ACCESSION, HOSTILE, PATIENT_ID, REPORT, STUDY

PAGES = ("/", "/jobs/2", "/jobs/3", "/studies", "/deliveries", "/system")
SAMPLE = re.compile(r'medseg_[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[0-9.e+-]+')


@pytest.mark.parametrize("path", PAGES)
def test_hostile_text_is_escaped(site, path):
    text = site.get(path, role="admin").text
    assert "<script>document" not in text
    assert "<img" not in text
    if path in ("/", "/jobs/3", "/studies"):
        assert "&lt;script&gt;document" in text


@pytest.mark.parametrize(
    "path", [*PAGES, "/health", "/login", "/nothing", "/reports/1", "/results/2", "/api/jobs"]
)
def test_every_reply_has_the_headers(site, path):
    headers = site.get(path, role="admin").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers
    assert "strict-transport-security" not in headers


def test_over_tls_browsers_are_told_to_stay_there(make_site):
    assert "strict-transport-security" in make_site(behind_proxy=True).get("/health").headers


def test_the_page_runs_no_script_but_its_own_file(site):
    answer = site.get("/", role="admin")
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", answer.text, re.DOTALL)
    assert scripts == [""]
    assert not re.search(r"<[^>]*\s(on[a-z]+|style)=", answer.text)
    sources = re.findall(r'(?:src|href)="([^"#]*)"', answer.text)
    assert all(source.startswith(("/", "data:,")) for source in sources)
    for source in sources:
        if source.startswith("/assets/"):
            assert site.get(source).status_code == 200


def test_a_report_is_shown_in_a_sandbox_and_files_are_saved(site):
    shown = site.get("/reports/1", role="viewer")
    assert shown.content == REPORT
    assert shown.headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in shown.headers["content-security-policy"]
    assert site.get("/reports/2", role="viewer").status_code == 404
    saved = site.get("/results/2", role="operator")
    assert saved.content == b"SEG"
    assert saved.headers["content-disposition"] == 'attachment; filename="job-1-segmentation.dcm"'
    assert '"event": "download", "account": "operator"' in site.audit()


def test_a_result_that_was_cut_is_not_shown(site):
    site.view._vault.place("jobs/1/report.html").write_bytes(REPORT[:-1])
    assert site.get("/reports/1", role="viewer").status_code == 503


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [3, 2, 1]),
        ("state=held", [2]),
        ("state=failed,given_up", [3]),
        ("rule=chest", [1]),
        ("verdict=review", [2]),
        ("state=held&rule=chest", []),
        ("q=2", [2]),
        (f"q={pseudonym(STUDY)}", [3, 2, 1]),
        ("q=p-abcdef01", [3, 2, 1]),
        ("q=P-00000000", []),
        (f"q={STUDY}", [3, 2, 1]),
        (f"q={STUDY}.9", [3, 2, 1]),
        ("q=1.2.3", []),
        (f"q=+{ACCESSION}+", [3, 2, 1]),
        (f"q={PATIENT_ID}", [3, 2, 1]),
        (f"q={ACCESSION[:-1]}", []),
        ("q=%27+OR+1%3D1+--", []),
        ("state=%27;DROP+TABLE+jobs", []),
        ("limit=2", [3, 2]),
        ("limit=2&offset=2", [1]),
        ("q=999999999999999999", []),
    ],
)
def test_filters_find_what_they_say(site, query, found):
    answer = site.get(f"/api/jobs?{query}", role="operator").json()
    assert [row["id"] for row in answer["rows"]] == found
    links = re.findall(r'id="job-(\d+)"', site.get(f"/?{query}", role="operator").text)
    assert [int(number) for number in links] == found


def test_uids_are_for_operators(site):
    viewed = site.get(f"/api/jobs?q={STUDY}", role="viewer").json()
    assert viewed["rows"] == []
    assert "operators" in viewed["note"]
    for path in (*PAGES, "/api/jobs", "/api/jobs/1", "/api/studies", "/api/deliveries", "/metrics"):
        assert STUDY not in site.get(path, role="viewer").text, path
    assert STUDY in site.get("/jobs/1", role="operator").text


@pytest.mark.parametrize("text", [ACCESSION, PATIENT_ID, pseudonym(STUDY), STUDY])
def test_studies_are_found_by_accession_and_patient_number(site, text):
    assert len(site.get(f"/api/studies?q={text}", role="operator").json()["rows"]) == 1
    assert site.get("/api/studies?q=other", role="operator").json()["rows"] == []
    viewed = site.get(f"/api/studies?q={text}", role="viewer").json()
    assert len(viewed["rows"]) == (text == pseudonym(STUDY))
    assert ("operators" in viewed.get("note", "")) == (text != pseudonym(STUDY))


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "offset=-1", "offset=100001", "q=" + "x" * 200]
)
def test_no_request_asks_for_everything(site, query):
    for path in ("/", "/studies", "/api/jobs", "/api/studies"):
        answer = site.get(f"{path}?{query}", role="admin")
        assert answer.status_code == 400
        assert "x" * 50 not in answer.text


def test_work_items_stand_on_the_system_page_where_there_is_a_list(site):
    assert "Work items" not in site.get("/system", role="viewer").text
    row = {"source": "list", "transaction_uid": "1.2", "owner": "n", "rule": "ct", "request": "{}"}
    row |= {"created_at": site.clock.now() - 60}
    ended = {"state": "canceled", "reason": HOSTILE, "ended_at": site.clock.now()}
    at_work = {"state": "asked", "jobs": "[[2, true], [3, false]]", "told": "80 waits for a person"}
    with site.database.write() as connection:
        connection.execute(work_items.insert(), row | at_work | {"workitem_uid": "1.2.7.1"})
        connection.execute(work_items.insert(), row | ended | {"workitem_uid": "1.2.7.2"})
    viewed = site.get("/system", role="viewer").text
    assert re.findall(r'href="(/jobs/\d)"', viewed) == ["/jobs/2", "/jobs/3"]
    assert viewed.index("80 %, waits for a person") < viewed.index("&lt;script&gt;document")
    assert "<script>document" not in viewed
    assert (pseudonym("1.2.7.1") in viewed, "1.2.7.1" in viewed) == (True, False)
    assert "1.2.7.1" in site.get("/system", role="operator").text
    first, last = site.get("/api/work-items", role="operator").json()["rows"]
    assert (first["workitem_uid"], first["jobs"], last["state"]) == ("1.2.7.1", [2, 3], "canceled")
    assert "workitem_uid" not in site.get("/api/work-items", role="viewer").json()["rows"][0]


def test_a_work_list_without_items_says_so(site):
    site.view.worklists = ("list",)
    assert "None was claimed yet from list." in site.get("/system", role="viewer").text


def test_pages_lead_to_older_rows_and_keep_the_filter(site):
    row = {
        "study_uid": STUDY,
        "series_uid": "1.2.9",
        "rule": "ct",
        "model": "m",
        "instances": 1,
        "state": "done",
    }
    with site.database.write() as connection:
        for number in range(60):
            connection.execute(jobs.insert(), row | {"input": str(number), "created_at": 0.0})
    first = site.get("/?rule=ct", role="viewer").text
    assert len(re.findall(r'id="job-\d+"', first)) == 50
    older = re.search(r'id="older" href="([^"]+)"', first)[1].replace("&amp;", "&")
    second = site.get("/" + older, role="viewer").text
    assert len(re.findall(r'id="job-\d+"', second)) == 11
    assert 'id="newer" href="?rule=ct&amp;limit=50&amp;offset=0"' in second


def test_a_job_says_that_an_instance_came_again_with_other_content(site):
    said = "an instance of its series came again with other content, and the first was kept"
    assert said not in site.get("/jobs/1", role="viewer").text
    with site.database.write() as connection:
        row = {"sop_instance_uid": f"{STUDY}.9", "series_uid": f"{STUDY}.1"}
        connection.execute(conflicts.insert(), row)
    assert said in site.get("/jobs/1", role="viewer").text
    assert [row["reason"] for row in site.get("/api/jobs", role="viewer").json()["rows"]][2] == said


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        ("queued", {"cancel"}),
        ("running", {"cancel"}),
        ("done", {"hold", "repeat"}),
        ("held", {"release", "repeat", "cancel"}),
        ("failed", {"retry", "repeat"}),
        ("given_up", {"retry", "repeat"}),
        ("cancelled", {"retry", "repeat"}),
        ("superseded", {"repeat"}),
    ],
)
def test_a_job_offers_what_its_state_allows(site, state, offered):
    with site.database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.id == 1).values(state=state, started_at=1.0))
        connection.execute(deliveries.update().values(job_id=1, state="waiting"))
    site.log_in("operator")
    assert set(re.findall(r'action="/jobs/1/([a-z]+)"', site.get("/jobs/1").text)) == offered


def test_the_list_says_what_a_held_job_was_flagged_for(site):
    assert "<td>a flag of it</td>" in site.get("/?state=held", role="viewer").text


def test_what_was_sent_is_not_offered_to_be_held(site):
    with site.database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.id == 1).values(state="done"))
        connection.execute(deliveries.update().values(job_id=1, state="sent"))
    site.log_in("operator")
    assert "/jobs/1/repeat" in site.get("/jobs/1").text
    for path in ("/jobs/1", "/"):
        assert "/jobs/1/hold" not in site.get(path).text


def test_an_action_that_comes_too_late_says_so(site):
    site.called.answer = False
    assert site.post("/api/jobs/1/hold", role="operator").json() == {"done": False}
    assert '"outcome": "not possible"' in site.audit()
    for path in ("/api/jobs/1/destroy", "/api/jobs/0/hold", "/api/deliveries/1/release"):
        assert site.post(path, role="operator").status_code == 404
    assert site.post(f"/api/jobs/{10**30}/hold", role="operator").status_code in (400, 404)


@pytest.mark.parametrize(("path", "limit"), [("/login", SMALL_BODY), ("/dicom-web/studies", SMALL_BODY * 2)])
def test_bodies_are_taken_up_to_their_limit(make_site, path, limit):
    async def store(kind, chunks, peer, study_uid):
        return StowAnswer(status=200, body=str(sum([len(chunk) async for chunk in chunks])).encode())

    def sent(size):
        async def chunks():
            for _ in range(size // 1024):
                yield b"y" * 1024

        told = site.post(path, content=b"y" * size, headers=kind, role="admin").status_code
        return told, site.post(path, content=chunks(), headers=kind, role="admin").status_code

    site = make_site(body_limit=SMALL_BODY * 2, store=store)
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert sent(limit + 1024) == (413, 413)
    assert 413 not in sent(limit)


def test_health_and_readiness(site):
    assert site.get("/health").json() == {"status": "alive"}
    assert site.get("/ready").json() == {"status": "ready", "reasons": []}
    full = "1 GB free on the disk, storage.reserve is 2 GB"
    site.live = replace(site.live, space=SpaceState(free=10**9, held=0, full=full), problems=("it stops",))
    answer = site.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["it stops", full]


def test_without_a_database_it_lives_but_is_not_ready(site, monkeypatch):
    def broken():
        raise StorageError("cannot read the database sqlite:////secret/place: disk I/O error")

    monkeypatch.setattr(site.view._database, "read", broken)
    assert site.get("/health").status_code == 200
    assert site.get("/ready").json()["reasons"] == ["the database does not answer"]
    answer = site.get("/", role="viewer")
    assert answer.status_code == 503
    assert "secret" not in answer.text


def test_metrics_are_prometheus_text(site):
    answer = site.get("/metrics", role="viewer")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert all(line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line) for line in lines)
    kinds = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(set(kinds)) == len(kinds)
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['medseg_jobs{state="held"}'] == "1"
    assert values['medseg_jobs{state="queued"}'] == "0"
    assert values['medseg_deliveries{destination="pacs",state="waiting"}'] == "1"
    assert values["medseg_stored_bytes"] == "1000"
    assert values['medseg_instances_total{verdict="stored"}'] == "0"
    assert float(values["medseg_disk_free_bytes"]) == 10**10
    assert HOSTILE not in answer.text


def test_the_queue_age_is_that_of_the_oldest_job_that_is_due(site):
    with site.database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.id == 1).values(state="queued"))
        later = {"state": "queued", "created_at": 0.0, "not_before": site.clock.now() + 60}
        connection.execute(jobs.update().where(jobs.c.id == 2).values(later))
    assert "medseg_queue_age_seconds 300\n" in site.get("/metrics", role="viewer").text


def test_who_was_turned_away_is_shown(site):
    site.post("/login", data={"name": "admin", "token": "wrong"})
    lines = [
        {
            "time": "2026-01-01T00:00:00",
            "event": "association",
            "outcome": "refused",
            "name": HOSTILE,
            "reason": "r",
        },
        {"time": "2026-01-01T00:00:01", "event": "association", "outcome": "released", "name": "FINE"},
        ["no table"],
    ]
    with site.audit_file.open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in lines) + "half a li")
    text = site.get("/system", role="viewer").text
    assert "log in refused" in text
    assert "&lt;script&gt;" in text
    assert "FINE" not in text
