"""Several nodes on one PostgreSQL: no job is done twice, and a dead node's work is taken over."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs medseg[postgresql]")
from medseg.database import Database
from medseg.node.life import DEAD_AFTER_S, Life
from medseg.node.tables import metadata
from tests.unit.node.test_job_queue import Site, finished
from tests.unit.node.turned_clock import TurnedClock

pytestmark = pytest.mark.slow


def _programs() -> Path | None:
    """Where Debian puts initdb and pg_ctl; they are not on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    programs = _programs()
    if programs is None or (os.geteuid() == 0 and shutil.which("runuser") is None):
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    # Not below pytest's folder, where nobody else may pass: PostgreSQL refuses to run as root.
    home = Path(tempfile.mkdtemp(prefix="medseg-postgresql-"))
    home.chmod(0o755)
    data = home / "data"
    data.mkdir()
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(data, "postgres")
    run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*become, programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres"], **run)
    options = f"-c listen_addresses='' -c unix_socket_directories='{data}'"
    control = [*become, programs / "pg_ctl", "-D", data, "-w", "-l", data / "log"]
    subprocess.run([*control, "-o", options, "start"], **run)
    try:
        yield f"postgresql://postgres@/postgres?host={data}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)
        shutil.rmtree(home)


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
