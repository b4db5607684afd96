"""A browser for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chromium import SOFTWARE_GL, Page, start_chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with software WebGL2, shared by the tests."""
    driver = start_chromium(tmp_path_factory.mktemp("profile"), *SOFTWARE_GL)
    yield driver
    driver.quit()


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Callable[..., Page]:
    """Opens the text of a page from a file."""

    def opened(html: str, *, driver: Any = None, name: str = "report.html") -> Page:
        path = tmp_path / name
        path.write_text(html, encoding="utf-8")
        return Page(driver=driver or chromium, path=path, saved=tmp_path / "saved")

    return opened
