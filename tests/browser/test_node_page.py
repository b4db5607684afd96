"""The page of a node in a real browser: log-in, queue, hostile names, actions, auto-refresh, dark and narrow."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from medseg.database import Database
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.disk_space import SpaceState
from medseg.node.listen_options import HttpListenOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.tables import jobs, metadata
from medseg.node.vault import Vault
from medseg.node.view import Live

pytestmark = [pytest.mark.slow, pytest.mark.browser]
SHOTS = os.environ.get("MEDSEG_SCREENSHOTS")
TOKENS_ASKED = "Failed to load resource: the server responded with a status of 401"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A listening page over a few rows; its address, database and what it was asked to do."""
    pytest.importorskip("fastapi")
    from medseg.node.web.app import create_app
    from medseg.node.web.server import HttpServer
    from tests.unit.node.web.node_site import TOKENS, Called, fill, make_accounts, make_view

    folder, clock, called = tmp_path_factory.mktemp("node"), Clock(), Called()
    database = Database.in_file(folder / "node.sqlite", metadata)
    fill(database, Vault(folder), clock.now())
    audit = Audit(folder, AuditOptions(), clock)
    audit.record("association", outcome="refused", reason="the caller is not in `callers`", name="<b>SPY</b>")
    live = Live(
        started_at=clock.now() - 7200,
        space=SpaceState(free=52 * 10**9, held=0),
        verdicts={"stored": 412, "duplicate": 3},
        listeners={"DICOM": "MEDSEG at 0.0.0.0:11112 over TLS", "HTTP": "https://0.0.0.0:8080"},
    )
    view = make_view(folder, database, clock, called, lambda: live)
    options = HttpListenOptions(port=_free_port())
    accounts = make_accounts(tuple(TOKENS))
    app = create_app(view, options, database=database, accounts=accounts, audit=audit, secret=b"s" * 32)
    server = HttpServer(app, options)
    server.start()
    yield f"http://127.0.0.1:{server.port}", database, called
    server.stop(5.0)
    database.close()


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Browser:
    """The shared browser on the page of a node."""

    def __init__(self, driver, base) -> None:
        self.driver, self.base = driver, base
        driver.delete_all_cookies()
        self.logs()

    def go(self, path: str) -> None:
        self.driver.get(self.base + path)

    def one(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def text(self) -> str:
        # Asked in one step: rows may be replaced between finding and reading them.
        return str(self.run("return document.querySelector('main')?.innerText ?? ''"))

    def run(self, script: str):
        return self.driver.execute_script(script)

    def log_in(self, name: str, token: str) -> None:
        self.go("/login?next=/")
        self.one("#name").send_keys(name)
        self.one("#token").send_keys(token + "\ue007")
        self.wait(lambda: "Jobs" in self.driver.title)

    def wait(self, condition, seconds: float = 30.0):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, self.text()
            time.sleep(0.1)
        return value

    def shot(self, name: str) -> None:
        if SHOTS:
            self.driver.save_screenshot(str(Path(SHOTS) / f"{name}.png"))

    def logs(self) -> tuple[list[str], list[str]]:
        """What the console said, and which addresses were asked for, since the last call."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return said, asked

    def assert_quiet(self, *, allowed: str = "") -> None:
        """No console message but those with `allowed`, no request to elsewhere."""
        said, asked = self.logs()
        assert [text for text in said if not allowed or allowed not in text] == []
        assert [url for url in asked if not url.startswith((self.base + "/", "data:", "chrome"))] == []


@pytest.fixture
def browser(chromium, node):
    return Browser(chromium, node[0])


def test_log_in_is_refused_and_then_accepted(browser):
    browser.go("/?state=held")
    assert browser.driver.current_url.endswith("/login?next=%2F%3Fstate%3Dheld")
    browser.shot("login")
    browser.one("#name").send_keys("operator")
    browser.one("#token").send_keys("not-this-one\ue007")
    browser.wait(lambda: "do not belong together" in browser.text())
    browser.shot("login-refused")
    browser.assert_quiet(allowed=TOKENS_ASKED)
    browser.one("#token").send_keys("operator-token-0123456789\ue007")
    browser.wait(lambda: "Jobs" in browser.text())
    assert browser.driver.current_url.endswith("/?state=held")
    assert browser.run("return document.cookie") == ""
    browser.one("#log-out").click()
    # Another page opened at once would cut the request to log out off.
    browser.wait(lambda: "/login" in browser.driver.current_url)
    browser.go("/")
    assert "/login" in browser.driver.current_url
    browser.assert_quiet()


def test_hostile_names_are_text_on_every_page(browser):
    browser.log_in("operator", "operator-token-0123456789")
    for path in ("/", "/jobs/3", "/studies", "/deliveries", "/system"):
        browser.go(path)
        browser.shot(path.strip("/").replace("/", "-") or "jobs")
        assert browser.run("return document.querySelectorAll('main img, main script, main b b').length") == 0
        assert "owned" not in browser.driver.title
        assert path == "/deliveries" or "<script>" in browser.text() or "<b>SPY</b>" in browser.text()
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), path
    browser.assert_quiet()


def test_a_person_releases_a_job_with_the_keyboard(browser, node):
    browser.log_in("operator", "operator-token-0123456789")
    browser.go("/jobs/2")
    browser.shot("job")
    browser.run("document.getElementById('jobs-2-release').focus()")
    browser.driver.switch_to.active_element.send_keys("\ue007")
    browser.wait(lambda: "Done." in browser.text())
    assert node[2].calls[-1] == ("release", 2)
    browser.one("#jobs-2-cancel").click()
    browser.driver.switch_to.alert.dismiss()
    assert node[2].calls[-1] == ("release", 2)
    browser.assert_quiet()


def test_rows_come_up_to_date_while_filter_and_focus_stay(browser, node):
    browser.log_in("viewer", "viewer-token-0123456789")
    browser.go("/?rule=head")
    assert browser.run("return document.querySelectorAll('form[action^=\"/jobs\"]').length") == 0
    browser.one("#job-3").send_keys("")
    browser.run("document.getElementById('job-3').focus()")
    browser.one("input[name=q]").send_keys("")
    browser.run("document.getElementById('job-3').focus()")
    with node[1].write() as connection:
        connection.execute(jobs.update().where(jobs.c.id == 3).values(reason="changed meanwhile"))
    browser.wait(lambda: "changed meanwhile" in browser.text())
    assert browser.run("return document.activeElement.id") == "job-3"
    assert browser.run("return document.querySelector('select[name=rule]').value") == "head"
    assert browser.driver.current_url.endswith("/?rule=head")
    browser.assert_quiet()


def test_the_report_has_no_rights_on_this_site(browser):
    browser.log_in("viewer", "viewer-token-0123456789")
    browser.go("/reports/1")
    assert browser.driver.title == "report"
    assert browser.run("return origin") == "null"


def test_dark_and_narrow(browser):
    browser.log_in("operator", "operator-token-0123456789")
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        browser.go("/")
        browser.shot("narrow-dark")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.go("/jobs/2")
        browser.shot("job-dark")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
