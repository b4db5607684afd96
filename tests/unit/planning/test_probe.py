"""A function in a process of its own: its result, its memory, its death."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import ConfigError, EnvironmentFailure
from medseg.memory import PeakMemory, free_memory_bytes, peak_memory_bytes, return_free_memory
from medseg.planning.probe import in_child

sys.path.insert(0, str(Path(__file__).parent))
import probe_jobs


def child(job, argument, **options):
    return in_child(job, argument, what="the probe", advice="set a smaller budget.ram", **options)


def test_the_result_and_the_memory_are_those_of_the_child():
    ballast = np.ones(30_000_000)
    peak, process = child(probe_jobs.own_peak, None)
    assert process != os.getpid()
    assert peak < peak_memory_bytes() - 100 * 10**6, "what the parent has does not count"
    assert ballast[0] == 1


@pytest.mark.parametrize(
    ("job", "error", "text"),
    [
        (probe_jobs.refused, ConfigError, "^no such thing$"),
        (
            probe_jobs.broken,
            EnvironmentFailure,
            "the probe failed: ZeroDivisionError: by nothing; set a smaller",
        ),
        (
            probe_jobs.killed,
            EnvironmentFailure,
            "ended by SIGKILL, which the system does when memory runs out",
        ),
    ],
)
def test_its_end_is_one_sentence(job, error, text):
    with pytest.raises(error, match=text):
        child(job, "no such thing")


def test_one_that_does_not_end_is_ended():
    begin = time.monotonic()
    with pytest.raises(EnvironmentFailure, match=r"the probe had not ended after 1\.0 s; set"):
        child(probe_jobs.slow, 60.0, limit_s=1)
    assert time.monotonic() - begin < 20


def test_who_waits_is_told():
    calls = []
    assert child(probe_jobs.slow, 0.6, waiting=lambda: calls.append(1)) == 0.6
    assert calls


def test_peaks_of_children_are_added():
    before = peak_memory_bytes()
    with PeakMemory() as peak:
        child(probe_jobs.slow, 0.5)
        assert peak.total_bytes > before + 5 * 10**6
    assert peak_memory_bytes(2**22 + 1) == 0
    assert (free_memory_bytes() or 1) > 0
    return_free_memory()
