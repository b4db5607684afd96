"""Fixtures that every test may use."""

from __future__ import annotations

import gc
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


#: Files that take longest, first: of several test processes (pytest -n) none is left with one of them in the end.
LONGEST = (
    "integration/test_pipelines.py",
    "integration/test_training_kill.py",
    "integration/test_chest_xray.py",
    "integration/test_search.py",
    "integration/test_cohort_processes.py",
    "integration/test_notebooks.py",
    "integration/test_torchrun.py",
    "integration/test_folds.py",
    "integration/test_ddp.py",
    "contract/test_networks.py",
    "integration/test_cohort_memory.py",
    "integration/test_calibration.py",
    "integration/test_validator_battery.py",
    "integration/test_cohort_cluster.py",
    "unit/inference/test_engine_settle.py",
    "unit/training/test_trainer.py",
    "unit/pipeline/test_folds.py",
    "unit/pipeline/test_plan.py",
    "unit/data/test_loader.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    place = {str(PROJECT / "tests" / name): number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several test processes a core of its own: threads beyond it only wait for each other.

    They take files in the order above; xdist would sort them by number of tests.
    """
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight: 600 000 objects, 0.3 s each time it looks."""
    gc.collect()
    gc.freeze()


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
