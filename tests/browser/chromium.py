"""Chromium, driven by Selenium: each page is watched for console messages and for requests of any kind."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--hide-scrollbars",
    "--window-size=1240,1300",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_CONTROLS = "a[href], button, input, select, textarea, summary, canvas[tabindex], [role=region][tabindex='0']"


def start_chromium(profile: Path, *flags: str) -> Any:
    """A browser of its own; skips where it, its driver or Selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium with its driver here (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))


@dataclass(kw_only=True)
class Page:
    """An open page.

    Parameters
    ----------
    driver : selenium.webdriver.Chrome
    path : Path
    saved : Path
        Folder where the browser puts the files that the page saves.
    """

    driver: Any
    path: Path
    saved: Path
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.saved.mkdir()
        self.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(self.saved)}
        )
        self.driver.get("about:blank")
        self.watched()
        self.problems.clear()
        self.requests.clear()
        self.driver.get(self.path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """Value of a script's `return`."""
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str) -> Any:
        """The element that a selector finds."""
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        """Click as a person would, after scrolling there."""
        element = self.one(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def wait(self, condition: Callable[[], Any], *, seconds: float = 90.0) -> Any:
        """First true value of a condition."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.1)
        pytest.fail(f"nothing happened within {seconds:.0f} s; console: {self.watched().problems}")

    def picture(self, selector: str) -> NDArray[np.uint8]:
        """(H, W, 3) pixels of an element as they are on the screen."""
        element = self.one(selector)
        self.run("arguments[0].scrollIntoView({block: 'end'})", element)
        png = element.screenshot_as_png
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def file(self, name: str) -> str:
        """Text of a file that the page saved."""
        path = self.saved / name
        self.wait(path.exists, seconds=20)
        return path.read_text(encoding="utf-8")

    def watched(self) -> Page:
        """Read the browser's logs: what the console says, and every address that was asked for."""
        self.problems += [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
        return self

    def assert_quiet(self) -> None:
        """No console message, and no request but for the page itself and what it holds."""
        self.watched()
        assert self.problems == []
        outside = [url for url in self.requests if not url.startswith("data:")]
        # A save is a request of the page to itself; it never leaves the browser.
        assert [url for url in outside if not url.startswith("blob:")] == [self.path.as_uri()]

    def reached_by_tab(self) -> set[int]:
        """Numbers of the controls that the Tab key comes to, in the order of `controls`."""
        # Where the Tab key starts from: an element that is gone again.
        self.run(
            "const e = document.createElement('i'); e.tabIndex = -1; document.body.prepend(e); e.focus(); e.remove()"
        )
        number = (
            f"return [...document.querySelectorAll({json.dumps(_CONTROLS)})].indexOf(document.activeElement)"
        )
        body, reached = self.one("body"), set[int]()
        for _ in range(400):
            (body if not reached else self.driver.switch_to.active_element).send_keys("\ue004")
            found = self.run(number)
            if found in reached or (found < 0 and reached):
                break
            reached.add(found)
        return reached - {-1}

    def controls(self) -> Mapping[int, str]:
        """Number -> name of every control that is shown; of a group of radio buttons, the chosen or first."""
        rows = self.run(
            """
            const all = [...document.querySelectorAll(arguments[0])];
            const group = (e) => all.filter((o) => o.type === "radio" && o.name === e.name);
            const entry = (e) => group(e).find((o) => o.checked) ?? group(e)[0];
            return all.map((e, k) => [k, e.id || e.textContent.trim().slice(0, 30) || e.outerHTML.slice(0, 60),
              e.checkVisibility({ visibilityProperty: true }) && !e.disabled
              && (e.type !== "radio" || entry(e) === e)]).filter((row) => row[2]);
            """,
            _CONTROLS,
        )
        return {int(number): str(name) for number, name, _ in rows}
