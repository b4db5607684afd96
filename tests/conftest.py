"""Fixtures that every test may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("medseg", deadline=None)
settings.load_profile("medseg")

PROJECT = Path(__file__).resolve().parent.parent
# The geometry battery is used from unit and integration tests, and by processes that they start.
sys.path.insert(0, str(PROJECT / "tests" / "battery"))


def pytest_configure() -> None:
    """Give each of several test processes (pytest -n) a core of its own: threads beyond it only wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def _shared() -> Path:
    return Path(os.environ.get("MEDSEG_SHARED", PROJECT.parent / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the development data, which the project does not ship."""
    folder = _shared() / "data"
    if not folder.is_dir():
        pytest.skip("the development data (folder shared beside the project, or MEDSEG_SHARED) are not here")
    return folder


@pytest.fixture(scope="session")
def shared_tools() -> Path:
    """Folder of the validators, which the project does not ship."""
    folder = _shared() / "tools"
    if not folder.is_dir():
        pytest.skip("the validators (folder shared beside the project, or MEDSEG_SHARED) are not here")
    return folder


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the working copy."""
    return PROJECT
