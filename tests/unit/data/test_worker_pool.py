"""Worker processes that work, die, hang and fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pool_jobs
import pytest

from medseg.data.worker_pool import Task, WorkerPool, free_memory_text
from medseg.errors import GeometryError, WorkerError


def tasks(*payloads: object) -> list[Task]:
    return [
        Task(index=index, case_id=f"case-{index}", payload=payload) for index, payload in enumerate(payloads)
    ]


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    threads = threading.active_count()
    pool = WorkerPool(pool_jobs.act, workers=2, timeout_s=0.8)
    yield pool
    pids = pool.process_ids
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert threading.active_count() == threads


def test_results_come_in_order_whatever_the_workers_take(pool):
    found = list(pool.run(tasks(0.2, 0.0, 0.05, 0.0, 0.0, 0.1), ahead=4))
    assert [index for index, *_ in found] == list(range(6))
    assert {pid for _, pid, _ in found} <= set(pool.process_ids)


def test_work_goes_on_while_nobody_takes_results_but_not_further_than_asked(pool):
    results = pool.run(tasks(*[0.0] * 20), ahead=3)
    next(results)
    time.sleep(0.5)
    begin = time.monotonic()
    assert [next(results)[0] for _ in range(3)] == [1, 2, 3]
    assert time.monotonic() - begin < 0.3
    assert len(pool._results) <= 3


def test_a_run_that_is_left_does_not_leak_into_the_next(pool):
    left = pool.run(tasks(*[0.05] * 10), ahead=8)
    next(left)
    left.close()
    found = list(pool.run(tasks(0.01, 0.02, 0.03), ahead=3))
    assert [(index, payload) for index, _, payload in found] == [(0, 0.01), (1, 0.02), (2, 0.03)]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            "kill",
            r"was ended by SIGKILL while it prepared case case-3, as the system does when .* GB of memory free",
        ),
        ("exit", "was ended with exit code 7 while it prepared case case-3"),
        ("stop", "not answered for 0.8 s while it prepared case case-3; the process is stopped"),
        ("loop", "not answered for 0.8 s while it prepared case case-3; the process is (asleep|computing)"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_named_with_its_case(pool, payload, text):
    pool.start()
    begin = time.monotonic()
    with pytest.raises(WorkerError, match=text):
        list(pool.run(tasks(0.0, 0.0, 0.0, payload, 0.0, 0.0), ahead=3))
    assert time.monotonic() - begin < 8


def test_what_failed_can_be_asked_for(pool):
    with pytest.raises(WorkerError):
        list(pool.run(tasks(0.0, "exit"), ahead=2))
    assert pool.failed_task is not None
    assert pool.failed_task.case_id == "case-1"
    assert pool.cause.startswith("loader worker ")
    assert "compute.workers" not in pool.cause


def test_a_worker_without_memory_or_disk_says_so_and_the_pool_goes_on(pool):
    memory = r"case case-1 could not be made: memory ran out \(.* GB of memory free\)"
    for payload, text in (
        ("full", "case case-1 could not be made: no space is left on the disk"),
        ("memory", memory),
        ("torch_memory", memory),
        ("pickle_memory", memory),
    ):
        with pytest.raises(WorkerError, match=text):
            list(pool.run(tasks(0.0, payload), ahead=2))
        assert pool.failed_task is None
    assert len(list(pool.run(tasks(0.0, 0.0), ahead=2))) == 2


def test_arrays_of_any_size_arrive_whole_and_writable(pool):
    sizes = (0, 1, 300_000, 1_000_000)
    results = list(pool.run(tasks(*[("array", size) for size in sizes]), ahead=4))
    for size, (_, _, (array, turned)) in zip(sizes, results, strict=True):
        np.testing.assert_array_equal(array, np.arange(size)[None])
        np.testing.assert_array_equal(turned, np.arange(size)[None, ::-1].T)
        array += 1


def test_a_worker_that_is_killed_while_it_sends_is_named():
    pool = WorkerPool(pool_jobs.act, workers=2)
    results = pool.run(tasks(*[("array", 1_000_000)] * 200), ahead=3)
    try:
        next(results)
        os.kill(pool.process_ids[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match="worker 1 was ended by SIGKILL"):
            list(results)
    finally:
        pool.close()


def test_processes_that_cannot_be_started_are_told(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    pool = WorkerPool(pool_jobs.act, workers=1)
    with pytest.raises(WorkerError, match=r"no loader process can be started .Resource temporarily unavail"):
        list(pool.run(tasks(0.0), ahead=1))
    assert pool.process_ids == ()


def test_an_error_of_the_job_names_the_case_and_the_pool_goes_on(pool):
    with pytest.raises(WorkerError, match=r"(?s)sample of case case-1 .*Traceback.*no such intensity"):
        list(pool.run(tasks(0.0, "fail"), ahead=2))
    with pytest.raises(GeometryError, match=r"^the grid is bent$"):
        list(pool.run(tasks("refuse"), ahead=2))
    assert len(list(pool.run(tasks(0.0, 0.0), ahead=2))) == 2


def test_a_worker_that_dies_between_two_results_is_named_at_the_next(pool):
    results = pool.run(tasks(*[0.0] * 10), ahead=2)
    next(results)
    os.kill(pool.process_ids[1], signal.SIGKILL)
    time.sleep(0.3)
    with pytest.raises(WorkerError, match="worker 2 was ended by SIGKILL"):
        list(results)


def test_ctrl_c_and_slurm_signals_are_left_to_the_training_process(pool):
    results = pool.run(tasks(*[0.0] * 6), ahead=2)
    next(results)
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in pool.process_ids:
            os.kill(pid, number)
    time.sleep(0.2)
    assert len(list(results)) == 5


def test_a_program_that_was_stopped_and_goes_on_raises_no_false_alarm(pool):
    # Short beside the limit of an answer, which a busy machine must not reach.
    results = pool.run(tasks(*[0.1] * 24), ahead=2)
    next(results)
    helper = f"kill -STOP {' '.join(map(str, (os.getpid(), *pool.process_ids)))}; sleep 2; "
    helper += f"kill -CONT {' '.join(map(str, (os.getpid(), *pool.process_ids)))}"
    with subprocess.Popen(["sh", "-c", helper], start_new_session=True):
        assert len(list(results)) == 23


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, pathlib\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "import pool_jobs\n"
        "from medseg.data.worker_pool import Task, WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(pool_jobs.act, workers=1)\n"
        "    tasks = [Task(index=i, case_id='', payload=p) for i, p in enumerate([0.0, 'loop'])]\n"
        "    results = pool.run(tasks, ahead=2)\n"
        "    print(next(results)[1], flush=True)\n"
        "    next(results)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlives its parent")


def test_a_job_that_cannot_be_sent_is_refused():
    pool = WorkerPool(lambda task: task, workers=1)
    with pytest.raises(WorkerError, match="cannot be sent to a loader process"):
        list(pool.run(tasks(0.0), ahead=1))


def test_free_memory_is_told():
    assert free_memory_text().endswith(" GB of memory free")
