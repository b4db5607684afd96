"""An Orthanc's feed of changes that lies, or has instances that cannot be had."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
pytest.importorskip("httpx", reason="needs medseg[pacs]")

from medseg.errors import PacsRejectedError
from medseg.node import source_options
from medseg.node.sources.marks import Marks
from medseg.node.sources.orthanc import OrthancSource
from medseg.node.tables import instances
from tests.unit.node.listening import Listener, ct_slice
from tests.unit.node.test_sources import as_file
from tests.unit.node.turned_clock import TurnedClock
from tests.unit.pacs.archives import http_archive


def identifier(number: int) -> str:
    return "-".join(f"{number:08x}" for _ in range(5))


class Feed:
    """Changes of some instances; `statuses` are what the file of an instance is answered with."""

    def __init__(self, count: int) -> None:
        self.changes = [
            {"ChangeType": "NewInstance", "ID": identifier(n), "Seq": n} for n in range(1, count + 1)
        ]
        self.statuses: dict[int, int] = {}
        self.asked: list[str] = []
        self.page: Callable[[int], object] = self.honest

    def honest(self, since: int) -> object:
        page = self.changes[since : since + 100]
        last = page[-1]["Seq"] if page else len(self.changes)
        return {"Changes": page, "Last": last, "Done": last == len(self.changes)}

    def answer(self, body: bytes, path: str) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append(path)
        if found := re.search(r"/changes\?since=(\d+)", path):
            return 200, json.dumps(self.page(int(found[1]))).encode(), {}
        number = int(path.split("/")[-2][:8], 16)
        status = self.statuses.get(number, 200)
        return status, as_file(number) if status == 200 else b"", {}


class Site:
    def __init__(self, folder: Path) -> None:
        self.node, self.clock, self.url = Listener(folder), TurnedClock(), ""

    def source(self) -> OrthancSource:
        return OrthancSource(
            source_options.OrthancSource(name="source", url=self.url),
            intake=self.node.intake,
            marks=Marks(self.node.database, self.clock, "source"),
            clock=self.clock,
            file_limit=1 << 20,
        )

    def held(self) -> set[str]:
        return {row["sop_instance_uid"] for row in self.node.rows(instances)}

    def reasons(self) -> list[str]:
        return [line.get("reason", "") for line in self.node.audit_lines()]


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path)
    yield made
    made.node.stop()


@pytest.fixture
def feed(site: Site):
    made = Feed(4)
    with http_archive(made.answer) as server:
        site.url = server.options().url.removesuffix("/dicom-web")
        yield made


def uids(*numbers: int) -> set[str]:
    return {str(ct_slice(number).SOPInstanceUID) for number in numbers}


@pytest.mark.parametrize("status", [500, 403, 429])
def test_an_instance_that_cannot_be_had_holds_no_other_up(site: Site, feed: Feed, status: int):
    feed.statuses[2] = status
    with pytest.raises(PacsRejectedError, match=f"answers {status} for an instance"):
        site.source().look()
    assert site.held() == uids(1, 3, 4)
    assert site.source().look() == 0
    feed.statuses.clear()
    assert site.source().look() == 1
    assert site.held() == uids(1, 2, 3, 4)
    asked = len(feed.asked)
    assert site.source().look() == 0
    assert feed.asked[asked:] == ["/changes?since=4&limit=100"]


def test_what_cannot_be_had_for_a_day_is_given_up_and_told(site: Site, feed: Feed):
    feed.statuses[2] = 500
    source = site.source()
    with pytest.raises(PacsRejectedError):
        source.look()
    site.clock.turn(25 * 3600)
    assert source.look() == 0
    assert sum("asked for no more" in reason for reason in site.reasons()) == 1
    feed.statuses.clear()
    assert source.look() == 0
    assert site.held() == uids(1, 3, 4)


def test_where_nothing_can_be_had_the_feed_waits(site: Site, feed: Feed):
    feed.changes = Feed(40).changes
    feed.statuses = dict.fromkeys(range(1, 41), 500)
    source = site.source()
    for _ in range(3):
        with pytest.raises(PacsRejectedError, match="answers 500"):
            source.look()
    site.clock.turn(3600)
    feed.statuses.clear()
    assert source.look() == 40
    assert site.held() == uids(*range(1, 41))


@pytest.mark.parametrize(
    "change",
    [
        {},
        [],
        None,
        7,
        {"Seq": "x"},
        {"Seq": None},
        {"Seq": 1.5},
        {"Seq": True},
        {"Seq": -1},
        {"Seq": 0},
        {"Seq": 10**30},
    ],
    ids=repr,
)
def test_a_change_without_its_place_is_said(site: Site, feed: Feed, change):
    if isinstance(change, dict) and change:
        change = {"ChangeType": "NewInstance", "ID": identifier(9)} | change
    feed.page = lambda since: {"Changes": [change], "Last": 9, "Done": True}
    with pytest.raises(PacsRejectedError, match="does not count upwards"):
        site.source().look()
    assert site.held() == set()


@pytest.mark.parametrize("last", [None, "x", -1, 1.5, True, [3], 10**30])
def test_a_feed_without_an_end_is_said(site: Site, feed: Feed, last):
    feed.page = lambda since: {"Changes": [], "Last": last, "Done": False}
    with pytest.raises(PacsRejectedError, match="does not say where it ends"):
        site.source().look()


def test_a_feed_that_runs_in_circles_ends_a_look(site: Site, feed: Feed):
    change = feed.changes[0]
    feed.page = lambda since: {"Changes": [change], "Last": 1 if since == 0 else 0, "Done": False}
    with pytest.raises(PacsRejectedError, match="does not count upwards"):
        site.source().look()


@pytest.mark.parametrize("wrong", ["../1", "x" * 44, "", None, 5, identifier(1) + "/.."])
def test_an_instance_without_a_proper_name_is_passed_over(site: Site, feed: Feed, wrong):
    feed.changes[1]["ID"] = wrong
    assert site.source().look() == 3
    assert len(feed.asked) == 4
