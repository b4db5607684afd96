"""`medseg predict --parallel`: workers killed, stopped, interrupted; every case once, nothing half-written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import small_cohorts as small
from deadly_cases import DeadlySettings

from medseg.pipeline.cohort_crew import Crew
from medseg.pipeline.cohort_inputs import find_cases
from medseg.pipeline.cohort_processes import LocalProcesses

pytestmark = pytest.mark.slow

COUNT = 10


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small.write_small_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small.write_cohort(tmp_path_factory.mktemp("cohort") / "in", COUNT)


def command(cohort, bundle, output, *arguments):
    return [
        *(sys.executable, "-m", "medseg", "predict", str(cohort), "--model", str(bundle.folder)),
        *("--output", str(output), "--format", "nifti", "--accept-unlike", "--threads", "1", *arguments),
    ]


def start(*arguments):
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def expected(cohort, bundle, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "out"
    subprocess.run(command(cohort, bundle, output), check=True, capture_output=True)
    return small.digests(output)


def children(process_id):
    found = []
    for task in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def workers(process_id):
    """Children that are workers: started by spawn, not the tracker of resources."""
    found = []
    for child in children(process_id):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def gone(process_ids, within_s):
    end = time.monotonic() + within_s
    while time.monotonic() < end and any(
        Path(f"/proc/{p}/cmdline").exists() and alive(p) for p in process_ids
    ):
        time.sleep(0.1)
    return not any(alive(p) for p in process_ids)


def alive(process_id):
    with suppress(OSError):
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition, process, within_s=120.0):
    end = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def far_enough(output, least, process):
    """Whether so many cases are done and a worker is there, or it is too late for that."""
    done = len(list(output.glob("v*/measurements.json")))
    return process.poll() is not None or (done >= least and bool(workers(process.pid)))


def test_workers_killed_at_random_lose_no_case(cohort, bundle, expected, tmp_path, record_property):
    seed = random.randrange(1000)
    record_property("seed", seed)
    chance, output = random.Random(seed), tmp_path / "out"
    process, killed = start(cohort, bundle, output, "--parallel", "2"), 0
    for least in sorted(chance.sample(range(COUNT - 2), 3)):
        wait_until(lambda least=least: far_enough(output, least, process), process)
        time.sleep(chance.uniform(0.0, 0.1))
        for victim in workers(process.pid)[:1]:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed += 1
    _, said = process.communicate(timeout=300)
    again = subprocess.run(
        command(cohort, bundle, output, "--parallel", "2"), capture_output=True, text=True, check=False
    )
    assert killed, "no worker was there to be killed"
    # A case may have been killed twice; it is then named, and done by the same command.
    assert process.returncode == 0 or "given up after 2 tries" in said or "no worker can be started" in said
    assert again.returncode == 0, again.stderr
    assert small.listed(output) == sorted(expected)
    assert small.digests(output) == expected
    assert small.leftovers(output) == []


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_case_that_takes_its_worker_with_it_is_named_and_the_others_are_done(tmp_path, bundle, how):
    names = (f"{how}", "plain-a", f"{how}-once", "plain-b")
    for number, name in enumerate(names):
        small.write_nifti(tmp_path / "in" / f"{name}.nii", small.small_image(number))
    settings = DeadlySettings(model=str(bundle.folder), output=tmp_path / "out", kinds=("nifti",))
    (tmp_path / "out").mkdir()
    cases = find_cases([tmp_path / "in"], output=tmp_path / "out", bundle=bundle).cases
    said = []
    site = LocalProcesses(settings=settings, count=2, stalled_s=8.0)
    found = {o.case_id: o.error for o in Crew(site=site, note=said.append).outcomes(cases)}
    word = (
        "SIGKILL, as the system does when memory runs out"
        if how == "killed"
        else "it had done nothing for 8.0 s"
    )
    assert found[how].startswith("given up after 2 tries: worker ")
    assert word in found[how]
    assert found[f"{how}-once"] == "seen in try 2"
    assert found["plain-a"] == found["plain-b"] == "seen in try 1"
    assert len(said) == 2
    tries = sorted(path.name.partition(".")[0] for path in (tmp_path / "marks").iterdir())
    assert tries == sorted([how] * 2 + [f"{how}-once"] * 2 + ["plain-a", "plain-b"])


def test_ctrl_c_ends_all_within_seconds_and_the_next_run_goes_on(cohort, bundle, expected, tmp_path):
    output = tmp_path / "out"
    process = start(cohort, bundle, output, "--parallel", "2")
    wait_until(lambda: len(list(output.glob("v*/measurements.json"))) >= 2, process)
    there = workers(process.pid)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert time.monotonic() - begin < 5
    assert "the same command goes on with the others" in said
    assert gone(there, 2.0)
    kept = {path.parent.name: path.stat().st_mtime_ns for path in output.glob("v*/measurements.json")}
    assert 2 <= len(kept) < COUNT
    assert not (output / "predictions.json").exists()
    done = subprocess.run(
        command(cohort, bundle, output, "--parallel", "2"), capture_output=True, check=False
    )
    assert done.returncode == 0
    for name, written in kept.items():
        assert (output / name / "measurements.json").stat().st_mtime_ns == written, "not done again"
    assert small.digests(output) == expected
    assert small.listed(output) == sorted(expected)


def test_workers_end_with_a_parent_that_was_killed(cohort, bundle, expected, tmp_path):
    output = tmp_path / "out"
    process = start(cohort, bundle, output, "--parallel", "2")
    wait_until(lambda: list(output.glob("v*/measurements.json")), process)
    there = workers(process.pid)
    process.kill()
    process.communicate()
    assert gone(there, 5.0)
    for path in output.glob("v*/measurements.json"):
        assert json.loads(path.read_text())["verdict"], "what has its name is whole"
    done = subprocess.run(command(cohort, bundle, output), capture_output=True, check=False)
    assert done.returncode == 0
    assert small.digests(output) == expected
    assert small.leftovers(output) == []


def test_a_second_command_on_the_folder_is_told_who_has_it(cohort, bundle, tmp_path):
    output = tmp_path / "out"
    process = start(cohort, bundle, output)
    wait_until(lambda: (output / ".lock").exists() and (output / ".lock").read_text(), process)
    second = subprocess.run(command(cohort, bundle, output), capture_output=True, text=True, check=False)
    process.communicate()
    assert second.returncode == 4
    assert f"is in use by process {process.pid} on " in second.stderr
    assert process.returncode == 0
