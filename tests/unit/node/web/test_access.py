"""Who gets in: roles, sessions, forms, throttling, hosts and origins."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import pytest
from sqlalchemy import select

from medseg.errors import ConfigError
from medseg.node.listen_options import HttpListenOptions
from medseg.node.stow import StowAnswer
from medseg.node.tables import ended_sessions
from medseg.node.web.accounts import read_accounts
from medseg.node.web.guard import Guard
from tests.unit.node.web.node_site import TOKENS

PAGES = ("/", "/jobs/1", "/studies", "/deliveries", "/system", "/reports/1")
OPERATIONS = (("GET", "/results/2"), ("POST", "/api/jobs/2/release"), ("POST", "/api/deliveries/1/retry"))


@pytest.mark.parametrize("path", [*PAGES, "/results/1"])
def test_a_stranger_is_sent_to_the_log_in(site, path):
    answer = site.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=")
    assert "node of tests" not in answer.text


@pytest.mark.parametrize("path", ["/api/jobs", "/api/status", "/metrics"])
def test_a_program_without_token_is_asked_for_one(site, path):
    answer = site.get(path)
    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/nothing"])
def test_what_is_not_there_says_so_and_no_more(site, path):
    answer = site.get(path)
    assert answer.status_code == 404
    assert "paths" not in answer.text


@pytest.mark.parametrize(
    ("role", "views", "acts"),
    [("viewer", 200, 403), ("sender", 403, 403), ("operator", 200, 200), ("admin", 200, 200)],
)
def test_each_role_may_do_its_part(site, role, views, acts):
    for path in (*PAGES, "/api/jobs", "/metrics"):
        assert site.get(path, role=role).status_code == views, path
    for method, path in OPERATIONS:
        assert site.ask(method, path, role=role).status_code == acts, path


@pytest.mark.parametrize(
    ("role", "status"), [("viewer", 403), ("operator", 403), ("sender", 200), ("admin", 200)]
)
def test_senders_alone_deliver(make_site, role, status):
    heard = []

    async def store(kind, chunks, peer, study_uid):
        heard.append((kind, b"".join([chunk async for chunk in chunks]), peer.name))
        return StowAnswer(status=200, body=b"{}")

    site = make_site(store=store)
    answer = site.post(
        "/dicom-web/studies", role=role, content=b"abc", headers={"content-type": "multipart/related"}
    )
    assert answer.status_code == status
    assert heard == ([("multipart/related", b"abc", role)] if status == 200 else [])


def test_basic_authentication_wants_the_name_of_the_token(site):
    def ask(name):
        pair = base64.b64encode(f"{name}:viewer-token-0123456789".encode()).decode()
        return site.get("/api/jobs", headers={"authorization": f"Basic {pair}"}).status_code

    assert ask("viewer") == 200
    assert ask("admin") == 401


@pytest.mark.parametrize(
    "header", ["Bearer", "Basic !!", "Basic YWJj", "Digest x", "Bearer " + "x" * 2000, "Bearer \xff"]
)
def test_a_malformed_authorization_is_none(site, header):
    answer = site.get("/api/jobs", headers={b"authorization": header.encode("latin-1")})
    assert answer.status_code == 401


def test_a_log_in_lasts_until_the_log_out(site):
    answer = site.log_in("operator")
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert site.get("/").status_code == 200
    kept = dict(site.cookies)
    assert site.post("/logout", data={"form_token": site.form_token()}).status_code == 303
    site.cookies.clear()
    site.cookies.update(kept)
    assert site.get("/").status_code == 303


def test_a_log_out_holds_after_a_restart_and_at_other_nodes_and_a_log_in_too(site):
    other = site.new_app()
    cookies = []
    for _ in range(2):
        site.log_in("operator")
        cookies.append(dict(site.cookies))
    assert site.post("/logout", data={"form_token": site.form_token()}).status_code == 303
    for app in (site.app, other, site.new_app()):
        site.app = app
        for kept, status in zip(cookies, (200, 303), strict=True):
            site.cookies = httpx.Cookies(kept)
            assert site.get("/").status_code == status


def test_ended_sessions_are_remembered_longer_than_they_last(site):
    def log_in_and_out() -> int:
        site.log_in("operator")
        site.post("/logout", data={"form_token": site.form_token()})
        with site.database.read() as connection:
            return len(connection.execute(select(ended_sessions)).all())

    assert log_in_and_out() == 1
    site.clock.seconds += 29 * 86400
    assert log_in_and_out() == 2
    site.clock.seconds += 2 * 86400
    assert log_in_and_out() == 2


def test_over_tls_the_cookie_is_for_this_host_and_tls_alone(make_site):
    cookie = make_site(behind_proxy=True).log_in("viewer").headers["set-cookie"]
    assert cookie.startswith("__Host-medseg=")
    assert "Secure" in cookie
    assert "Path=/" in cookie


def test_a_session_ends_by_itself_and_cannot_be_forged(site):
    site.log_in("viewer")
    name, value = next(iter(site.cookies.items()))
    encoded, _, signature = value.partition(".")
    forged = base64.urlsafe_b64encode(
        base64.urlsafe_b64decode(encoded).replace(b"viewer|", b"admin|")
    ).decode()
    for wrong in (f"{forged}.{signature}", f"{encoded}.{signature[:-1]}0x", "x", ".", f"{encoded}."):
        assert site.get("/", headers={"cookie": f"{name}={wrong}"}).status_code == 303
    assert site.get("/").status_code == 200
    site.clock.seconds += 8 * 3600 + 1
    assert site.get("/").status_code == 303


def test_an_action_needs_the_token_of_its_session(site):
    site.log_in("operator")
    for data in ({}, {"form_token": "x"}):
        assert site.post("/jobs/2/release", data=data).status_code == 403
    assert site.called.calls == []
    answer = site.post("/jobs/2/release", data={"form_token": site.form_token(), "back": "/?state=held"})
    assert answer.headers["location"] == "/?state=held&said=ok"
    assert site.called.calls == [("release", 2)]
    assert '"event": "job_release", "account": "operator", "outcome": "done"' in site.audit()


def test_the_form_of_another_session_is_refused(site):
    site.log_in("operator")
    token = site.form_token()
    site.cookies.clear()
    site.log_in("operator")
    assert site.post("/jobs/2/release", data={"form_token": token}).status_code == 403


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "javascript:x",
        "/a\nb",
        "http://[",
        "//\u24d4\u2100",
    ],
)
def test_nothing_leads_elsewhere(site, back):
    site.log_in("operator")
    answer = site.post("/jobs/2/hold", data={"form_token": site.form_token(), "back": back})
    assert answer.headers["location"] == "/?said=ok"
    site.cookies.clear()
    data = {"name": "viewer", "token": "viewer-token-0123456789", "next": back}
    assert site.post("/login", data=data).headers["location"] == "/"
    site.cookies.clear()
    assert site.get("/login", params={"next": back}).status_code == 200


def test_wrong_log_ins_are_slowed_down_by_address(site):
    def wrong():
        return site.post("/login", data={"name": "admin", "token": "wrong"}).status_code

    assert [wrong() for _ in range(6)] == [401] * 5 + [429]
    assert site.get("/api/jobs", role="admin").status_code == 429
    site.address = "10.0.0.2"
    assert site.get("/api/jobs", role="admin").status_code == 200
    site.address = "10.0.0.1"
    site.clock.seconds += 3
    assert site.get("/api/jobs", role="admin").status_code == 200
    assert [wrong() for _ in range(2)] == [401, 401]
    assert '"outcome": "throttled"' in site.audit()
    assert "wrong" not in site.audit()


@pytest.mark.parametrize(
    "addresses",
    [
        [f"192.0.2.7:{port}" for port in range(40000, 40008)],
        [f"[2001:db8::7]:{port}" for port in range(40000, 40008)],
        [f"<b>{number}</b>" for number in range(8)],
    ],
    ids=["ports", "ports of IPv6", "no addresses"],
)
def test_a_proxy_that_tells_more_than_the_address_does_not_reset_the_count(site, addresses):
    heard = []
    for site.address in addresses:
        heard.append(site.get("/api/jobs", headers={"authorization": "Bearer wrong"}).status_code)
    assert heard == [401] * 5 + [429] * 3
    site.address = "192.0.2.8:40000"
    assert site.get("/api/jobs", role="viewer").status_code == 200


def test_the_wait_grows_with_each_failure(site):
    for _ in range(5):
        site.post("/login", data={"name": "admin", "token": "wrong"})
    waits = []
    for _ in range(4):
        waits.append(
            int(site.post("/login", data={"name": "admin", "token": "wrong"}).headers["retry-after"])
        )
        site.clock.seconds += waits[-1]
        site.post("/login", data={"name": "admin", "token": "wrong"})
    assert waits == [3, 5, 9, 17]


def test_another_host_name_is_refused(site):
    assert site.get("/health", base="http://evil.example").status_code == 421
    assert site.get("/health", base="http://127.0.0.1:8080").status_code == 200
    assert site.get("/health", base="http://[::1]:8080").status_code == 200
    assert site.get("/health", headers={"host": "localhost@evil.example"}).status_code == 421
    assert site.turned_away == ["This node is not known by that name; see http.hosts."] * 2


def test_a_host_name_of_the_settings_is_known(make_site):
    assert make_site(hosts=("pacs.example",)).get("/health", base="http://PACS.example").status_code == 200


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "same-site"}]
)
def test_another_sites_form_is_refused(make_site, headers):
    site = make_site(roles=())
    assert site.post("/api/jobs/2/release", headers=headers).status_code == 403
    assert site.post("/api/jobs/2/release", headers={"origin": "http://localhost"}).status_code == 200
    assert site.called.calls == [("release", 2)]
    assert site.turned_away == ["The request comes from another site."]


def test_on_loopback_without_accounts_the_page_is_open_but_its_forms_are_not(make_site):
    site = make_site(roles=())
    assert site.get("/").status_code == 200
    assert site.get("/login").headers["location"] == "/"
    assert site.post("/jobs/2/release").status_code == 403
    assert site.post("/jobs/2/release", data={"form_token": site.form_token()}).status_code == 303


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "expected http.accounts"),
        ({"host": "::"}, "expected http.accounts"),
        ({"behind_proxy": True}, "expected http.accounts"),
        ({"host": "10.1.2.3", "accounts": True}, "tokens would cross it in the clear"),
    ],
)
def test_it_does_not_open_to_the_network_without_accounts_and_tls(options, words, monkeypatch):
    monkeypatch.setenv("TOKEN", "0123456789abcdef")
    if options.pop("accounts", False):
        options["accounts"] = [{"name": "a", "role": "admin", "token": {"env": "TOKEN"}}]
    with pytest.raises(ConfigError, match=words):
        read_accounts(HttpListenOptions(**options))


def test_short_and_doubled_tokens_are_refused(monkeypatch):
    monkeypatch.setenv("TOKEN", "short")
    one = {"name": "a", "role": "admin", "token": {"env": "TOKEN"}}
    with pytest.raises(ConfigError, match=r"http.accounts\[0\].token: 5 characters, expected 16 or more"):
        read_accounts(HttpListenOptions(accounts=[one]))
    monkeypatch.setenv("TOKEN", "0123456789abcdef")
    with pytest.raises(ConfigError, match="same token"):
        read_accounts(HttpListenOptions(accounts=[one, one | {"name": "b"}]))
    with pytest.raises(ConfigError, match="'a' is used twice"):
        read_accounts(HttpListenOptions(accounts=[one, one]))


def test_a_request_with_two_lengths_is_refused(site):
    lengths = {"content-length": "4", "transfer-encoding": "chunked"}
    answer = site.post("/api/jobs/2/hold", content=b"abcd", headers=lengths, role="operator")
    assert answer.status_code == 400
    assert answer.headers["connection"] == "close"
    assert site.turned_away == ["The request has two lengths."]


def test_a_packed_study_is_refused_by_its_reason(make_site):
    async def store(*_):
        return StowAnswer(status=200, body=b"{}")

    site = make_site(store=store)
    packed = site.post("/dicom-web/studies", headers={"content-encoding": "gzip"}, role="sender")
    assert packed.status_code == 415
    assert "Content-Encoding" in packed.json()["error"]


def test_a_sender_that_hangs_up_is_told_to_the_audit_log(make_site, caplog):
    async def store(kind, chunks, peer, study_uid):
        return StowAnswer(status=200, body=b"".join([chunk async for chunk in chunks]))

    site = make_site(store=store)
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKENS['sender']}".encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/dicom-web/studies",
        "headers": headers,
        "query_string": b"",
    }
    messages = iter([{"type": "http.request", "body": b"--", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    async def send(_message):
        pass

    asyncio.run(site.app(scope | {"client": ("10.0.0.9", 1)}, receive, send))
    (line,) = [json.loads(line) for line in site.audit().splitlines()]
    assert (line["event"], line["outcome"], line["address"]) == ("http", "lost", "10.0.0.9")
    assert not caplog.records


def test_forms_that_never_come_keep_nobody_else_out():
    async def reads(scope, receive, send):
        while scope["method"] == "POST" and (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        guard, waiting = Guard(reads), []

        async def ask(method: str, address: str, *, ends: bool = True) -> int:
            heard: list[int] = []

            async def receive():
                if not ends:
                    await asyncio.sleep(30)
                return {"type": "http.request", "body": b"x", "more_body": not ends}

            async def send(message):
                heard.append(message.get("status", 0))

            scope = {"type": "http", "method": method, "path": "/login", "headers": [(b"host", b"localhost")]}
            await guard(scope | {"client": (address, 1)}, receive, send)
            return heard[0]

        waiting = [asyncio.create_task(ask("POST", "10.0.0.1", ends=False)) for _ in range(100)]
        async with asyncio.timeout(20):
            while sum(task.done() for task in waiting) < 96:
                await asyncio.sleep(0.01)
        refused = [task.result() for task in waiting if task.done()]
        assert refused == [503] * 96
        assert await ask("POST", "10.0.0.1") == 503
        assert await ask("POST", "10.0.0.2") == 200
        assert await ask("GET", "10.0.0.1") == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await ask("POST", "10.0.0.1") == 200

    asyncio.run(main())
