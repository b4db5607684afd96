"""Jobs: each ends once, whoever dies, and what a person may do about them."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, update

from medseg.database import Database
from medseg.node.job_queue import Finished, Job, JobQueue, NewJob, ResultFile
from medseg.node.life import DEAD_AFTER_S, Life
from medseg.node.tables import deliveries, jobs, metadata
from tests.unit.node.turned_clock import TurnedClock

SEG = ResultFile(
    kind="dicom_seg",
    path="jobs/1/segmentation.dcm",
    size=1,
    sha256="0",
    sop_class_uid="1.2",
    sop_instance_uid="1.2.3",
)


class Site:
    """A database with a queue for each of some nodes."""

    def __init__(self, folder: Path) -> None:
        self.clock = TurnedClock()
        self.database = Database.in_file(folder / "node.db", metadata)

    def queue(self, node: str = "here", *, attempts: int = 3) -> JobQueue:
        return JobQueue(
            self.database, self.clock, node, deliver=self.deliver, attempts=attempts, first_wait_s=10.0
        )

    def deliver(self, connection, job_id, rule, files) -> None:
        for file in files:
            row = {
                "destination": "archive",
                "sop_class_uid": file.sop_class_uid,
                "sop_instance_uid": file.sop_instance_uid,
                "path": file.path,
                "job_id": job_id,
                "state": "waiting",
                "created_at": 0.0,
            }
            connection.execute(self.database.insert(deliveries).values(row).on_conflict_do_nothing())

    def put(self, queue: JobQueue, *, given: str = "a", series: str = "1.2", priority: int = 0) -> int | None:
        job = NewJob(
            study_uid="1",
            series_uid=series,
            rule="chest",
            model="m",
            input=given,
            instances=1,
            priority=priority,
        )
        with self.database.write() as connection:
            return queue.put(connection, job)

    def states(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(select(jobs.c.state).order_by(jobs.c.id)).scalars())

    def job(self, job_id: int):
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one()

    def sent(self) -> list[tuple[str, str]]:
        with self.database.read() as connection:
            query = select(deliveries.c.sop_instance_uid, deliveries.c.state)
            return [tuple(row) for row in connection.execute(query)]


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path)
    yield made
    made.database.close()


def finished(*, held: bool = False, files=(SEG,)) -> Finished:
    return Finished(folder="jobs/1", files=files, verdict="pass", held=held)


def claimed(queue: JobQueue) -> Job:
    job = queue.claim()
    assert job is not None
    return job


def test_the_same_input_is_queued_once_and_never_again(site: Site):
    queue = site.queue()
    assert site.put(queue) == 1
    assert site.put(queue) is None
    assert queue.finish(claimed(queue), finished())
    assert site.put(queue) is None
    assert site.states() == ["done"]


def test_a_finished_job_is_delivered_in_the_same_breath(site: Site):
    queue = site.queue()
    site.put(queue)
    assert queue.finish(claimed(queue), finished())
    assert site.sent() == [("1.2.3", "waiting")]


def test_a_held_job_is_sent_when_a_person_says_so(site: Site):
    queue = site.queue()
    site.put(queue)
    queue.finish(claimed(queue), finished(held=True))
    assert site.states() == ["held"]
    assert site.sent() == []
    assert queue.release(1)
    assert not queue.release(1)
    assert site.sent() == [("1.2.3", "waiting")]
    assert queue.hold(1)
    assert site.sent() == []
    assert site.states() == ["held"]


def test_higher_priority_goes_first_then_who_came_first(site: Site):
    queue = site.queue()
    for given, priority in (("a", 0), ("b", 5), ("c", 5)):
        site.put(queue, given=given, series=given, priority=priority)
    assert [claimed(queue).id for _ in range(3)] == [2, 3, 1]
    assert queue.claim() is None


def test_a_try_that_fails_waits_longer_each_time_and_is_given_up(site: Site):
    queue = site.queue()
    site.put(queue)
    for wait in (10.0, 20.0):
        assert queue.failed_try(claimed(queue), "it died") == "queued"
        assert queue.claim() is None
        site.clock.turn(wait - 0.1)
        assert queue.claim() is None
        site.clock.turn(0.2)
    assert queue.failed_try(claimed(queue), "it died") == "given_up"
    assert site.job(1)["reason"] == "given up after 3 tries: it died"
    assert queue.retry(1)
    assert claimed(queue).attempts == 1


def test_jobs_behind_one_that_fails_run(site: Site):
    queue = site.queue()
    site.put(queue, given="a", series="a")
    site.put(queue, given="b", series="b")
    queue.failed_try(claimed(queue), "it died")
    assert claimed(queue).id == 2


def test_a_clock_set_back_holds_no_job_up(site: Site):
    queue = site.queue()
    site.put(queue)
    queue.failed_try(claimed(queue), "it died")
    site.clock.jump(-365 * 86400.0)
    site.clock.restart()
    assert claimed(queue).attempts == 2


@pytest.mark.parametrize("seconds", [-365 * 86400.0, -1800.0, 1800.0, 365 * 86400.0])
def test_a_clock_that_is_set_changes_no_wait(site: Site, seconds: float):
    queue = site.queue()
    site.put(queue)
    queue.failed_try(claimed(queue), "it died")
    site.clock.jump(seconds)
    assert queue.claim() is None
    site.clock.turn(10.0)
    assert claimed(queue).attempts == 2


def test_late_slices_supersede_and_what_waits_of_the_old_is_not_sent(site: Site):
    queue = site.queue()
    site.put(queue, given="12 slices")
    queue.finish(claimed(queue), finished())
    assert site.put(queue, given="13 slices") == 2
    assert site.states() == ["superseded", "queued"]
    assert site.job(1)["superseded_by"] == 2
    assert site.job(2)["reason"] == "takes the place of job 1"
    assert site.sent() == [("1.2.3", "cancelled")]


def test_a_superseding_job_says_that_the_old_result_is_out_already(site: Site):
    queue = site.queue()
    site.put(queue, given="12 slices")
    queue.finish(claimed(queue), finished())
    with site.database.write() as connection:
        connection.execute(update(deliveries).values(state="sent"))
    assert not queue.hold(1)
    site.put(queue, given="13 slices")
    assert not queue.hold(1)
    said = "takes the place of job 1, whose results were sent already"
    assert site.job(2)["reason"] == said
    assert site.sent() == [("1.2.3", "sent")]
    # However it ends.
    queue.failed_try(claimed(queue), "it died")
    assert site.job(2)["reason"] == f"{said}. try 1 of 3: it died"
    site.clock.turn(10.0)
    queue.finish(claimed(queue), finished(held=True))
    assert site.job(2)["reason"] == said


def test_a_superseding_job_that_is_refused_says_so_too(site: Site):
    queue = site.queue()
    site.put(queue, given="12 slices")
    queue.finish(claimed(queue), finished())
    site.put(queue, given="13 slices")
    queue.refuse(claimed(queue), "a gap")
    assert site.job(2)["reason"] == "takes the place of job 1. a gap"


def test_what_is_superseded_or_cancelled_while_it_runs_writes_nothing(site: Site):
    queue = site.queue()
    site.put(queue, given="12 slices")
    running = claimed(queue)
    site.put(queue, given="13 slices")
    assert not queue.still_mine(running)
    assert not queue.finish(running, finished())
    second = claimed(queue)
    assert queue.cancel(2)
    assert not queue.finish(second, finished())
    assert site.states() == ["superseded", "cancelled"]
    assert site.sent() == []


def test_a_full_disk_costs_a_job_no_try(site: Site):
    queue = site.queue(attempts=1)
    site.put(queue)
    for _ in range(3):
        assert queue.wait_for_room(claimed(queue), "it is full") == "queued"
        assert site.job(1)["reason"] == "waits for room on the disk: it is full"
        assert queue.claim() is None
        site.clock.turn(10.0)
    assert queue.finish(claimed(queue), finished())
    assert site.job(1)["attempts"] == 1


def test_what_is_put_back_has_lost_no_try(site: Site):
    queue = site.queue(attempts=1)
    site.put(queue)
    queue.put_back(claimed(queue))
    again = claimed(queue)
    assert again.attempts == 1
    assert queue.finish(again, finished())


def test_a_repeat_is_a_job_of_its_own(site: Site):
    queue = site.queue()
    site.put(queue)
    assert queue.repeat(1) is None
    queue.finish(claimed(queue), finished())
    assert queue.repeat(1) == 2
    queue.finish(claimed(queue), finished())
    assert queue.repeat(1) == 3
    assert site.states() == ["done", "done", "queued"]


def test_a_dead_nodes_job_is_taken_over_and_its_late_answer_is_not_taken(site: Site):
    here, there = site.queue("here"), site.queue("there")
    site.put(there)
    theirs = claimed(there)
    assert here.take_over(["there"]) == 1
    mine = claimed(here)
    assert mine.attempts == 2
    assert not there.finish(theirs, finished())
    assert here.finish(mine, finished())
    assert len(site.sent()) == 1


def test_a_job_that_ends_its_node_each_time_is_given_up(site: Site):
    site.put(site.queue())
    for node in ("a", "b", "c"):
        claimed(site.queue(node))
        site.queue("next").take_over([node])
    assert site.states() == ["given_up"]
    assert "the node ended while it ran" in site.job(1)["reason"]


def test_many_claim_at_once_and_none_gets_anothers(site: Site):
    for number in range(30):
        site.put(site.queue(), given=str(number), series=str(number))
    got: list[int] = []

    def claim(name: str) -> None:
        queue = site.queue(name)
        while (job := queue.claim()) is not None:
            got.append(job.id)

    threads = [threading.Thread(target=claim, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 31))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_dies_each_job_ends_once(site: Site, seed: int):
    chance = random.Random(seed)
    nodes = {name: site.queue(name, attempts=50) for name in ("a", "b")}
    running: dict[str, Job] = {}
    ended: list[int] = []
    for number in range(8):
        site.put(nodes["a"], given=str(number), series=str(number))
    for _ in range(400):
        name = chance.choice(list(nodes))
        site.clock.turn(chance.choice([1.0, 1000.0]))
        act = chance.random()
        if name not in running and (job := nodes[name].claim()) is not None:
            running[name] = job
        elif name in running and act < 0.4:
            job = running.pop(name)
            if nodes[name].finish(job, finished(files=())):
                ended.append(job.id)
        elif name in running and act < 0.6:
            nodes[name].failed_try(running.pop(name), "it died")
        elif name in running and act < 0.8:
            # It dies; the other takes over. A ghost of it may still answer.
            other = next(one for one in nodes if one != name)
            ghost = running.pop(name)
            nodes[other].take_over([name])
            if chance.random() < 0.5:
                assert not nodes[name].finish(ghost, finished(files=()))
    while (job := nodes["a"].claim()) is not None or running:
        for name, left in list(running.items()):
            ended += [left.id] * nodes[name].finish(left, finished(files=()))
            del running[name]
        if job is not None:
            ended += [job.id] * nodes["a"].finish(job, finished(files=()))
        site.clock.turn(4000.0)
    assert sorted(ended) == list(range(1, 9))
    assert set(site.states()) == {"done"}


def test_a_node_is_dead_when_its_beat_stands_still_by_the_others_clock(site: Site):
    here, there = (Life(site.database, site.clock, name) for name in ("here", "there"))
    here.begin()
    there.begin()
    assert here.dead() == []
    site.clock.jump(10 * DEAD_AFTER_S)
    assert here.dead() == []
    site.clock.turn(DEAD_AFTER_S - 1)
    there.beat()
    assert here.dead() == []
    site.clock.turn(DEAD_AFTER_S - 1)
    assert here.dead() == []
    site.clock.turn(1.0)
    assert here.dead() == [there.node_id]
    there.end()
    assert here.dead() == [there.node_id]


def asked(site: Site, queue: JobQueue, given: str = "a") -> tuple[int, bool]:
    job = NewJob(study_uid="1", series_uid="1.2", rule="chest", model="m", input=given, instances=1)
    with site.database.write() as connection:
        return queue.ask(connection, job)


def test_what_is_asked_for_is_done_once_and_again_after_a_failure(site: Site):
    queue = site.queue()
    assert asked(site, queue) == (1, True)
    assert asked(site, queue) == (1, False)
    job = claimed(queue)
    assert asked(site, queue) == (1, False)
    queue.refuse(job, "slices are missing")
    assert asked(site, queue) == (1, True)
    assert (site.job(1)["state"], site.job(1)["reason"]) == ("queued", "")
    queue.finish(claimed(queue), finished())
    assert asked(site, queue) == (1, False)
    assert site.states() == ["done"]


def test_what_was_superseded_is_done_anew_when_it_is_asked_for(site: Site):
    queue = site.queue()
    asked(site, queue)
    assert asked(site, queue, "a and b") == (2, True)
    assert asked(site, queue) == (3, True)
    assert site.states() == ["superseded", "queued", "queued"]
    assert site.job(3)["repeat"] == 1
