"""Several nodes on one PostgreSQL: no job is done twice, and a dead node's work is taken over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs medseg[postgresql]")
from postgresql_server import postgresql

from medseg.database import Database
from medseg.errors import ConfigError
from medseg.node.home import check_version
from medseg.node.life import DEAD_AFTER_S, Life
from medseg.node.tables import about, metadata
from medseg.node.work_items import WorkItems
from medseg.pacs.workitem import WorkRequest
from tests.unit.node.listening import STUDY, ct_slice
from tests.unit.node.test_job_queue import Site, finished
from tests.unit.node.test_ups import Site as UpsSite
from tests.unit.node.test_ups import as_file
from tests.unit.node.turned_clock import TurnedClock
from tests.unit.node.ups_server import UpsServer, ups_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as data:
        yield f"postgresql://postgres@/postgres?host={data}"


class SharedSite(Site):
    """The same database on a server, with a connection pool of its own for each node."""

    def __init__(self, url: str) -> None:
        self.clock = TurnedClock()
        self.database = Database(url, metadata)
        with self.database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())


@pytest.fixture
def site(server: str) -> Iterator[SharedSite]:
    made = SharedSite(server)
    yield made
    made.database.close()


def test_a_node_with_files_starts_again_and_not_beside_a_new_database(site: SharedSite, tmp_path: Path):
    check_version(site.database, tmp_path)
    place = tmp_path / "instances" / "ab" / "kept.dcm"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"acknowledged")
    check_version(site.database, tmp_path)
    with site.database.write() as connection:
        connection.execute(about.delete())
    for _ in range(2):
        with pytest.raises(ConfigError, match="does not know in instances"):
            check_version(site.database, tmp_path)


def test_two_nodes_never_get_the_same_job(site: SharedSite, server: str):
    ids = {site.put(site.queue(), given=str(number), series=str(number)) for number in range(40)}
    got: list[int] = []

    def work(name: str) -> None:
        own = SharedSite.__new__(SharedSite)
        own.clock, own.database = site.clock, Database(server, metadata)
        queue = own.queue(name)
        while (job := queue.claim()) is not None:
            got.append(job.id)
            assert queue.finish(job, finished(files=()))
        own.database.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(ids)
    assert set(site.states()) == {"done"}


def test_the_same_job_queued_by_two_nodes_is_one(site: SharedSite):
    barrier, ids = threading.Barrier(4), []

    def put(name: str) -> None:
        barrier.wait()
        ids.append(site.put(site.queue(name)))

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(job_id is not None for job_id in ids) == 1
    assert site.states() == ["queued"]


def test_a_dead_nodes_job_is_done_by_the_other(site: SharedSite):
    here, there = (Life(site.database, site.clock, name) for name in ("here", "there"))
    here.begin()
    there.begin()
    site.put(site.queue(there.node_id))
    theirs = site.queue(there.node_id).claim()
    assert theirs is not None
    here.dead()
    site.clock.turn(DEAD_AFTER_S)
    assert here.dead() == [there.node_id]
    mine = site.queue(here.node_id)
    assert mine.take_over(here.dead()) == 1
    job = mine.claim()
    assert job is not None
    assert not site.queue(there.node_id).finish(theirs, finished())
    assert mine.finish(job, finished())
    assert len(site.sent()) == 1


def test_an_item_of_a_work_list_is_one_nodes_and_goes_through(site: SharedSite, server: str, tmp_path: Path):
    manager = UpsServer()
    for number in range(3):
        one = ct_slice(number)
        manager.files[(STUDY, str(one.SeriesInstanceUID), str(one.SOPInstanceUID))] = as_file(one)
    uid = manager.add("2.25.7", study=STUDY)
    with ups_server(manager) as url:
        performer = UpsSite(tmp_path, url, database=Database(server, metadata))
        request = WorkRequest(codes=(), priority="", inputs=())
        barrier, got = threading.Barrier(4), []

        def add(name: str) -> None:
            barrier.wait()
            items = WorkItems(site.database, site.clock, name)
            got.append(items.add("list", "2.25.8", rule="x", request=request, transaction_uid="1"))

        threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(item is not None for item in got) == 1
        for _ in range(3):
            performer.round()
            performer.restart()
        assert manager.state(uid) == "COMPLETED"
        performer.close()
