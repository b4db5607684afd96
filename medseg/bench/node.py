"""`medseg bench node`: what a served node takes in, beside Orthanc, under load, kills, floods and a full disk."""

from __future__ import annotations

import itertools
import os
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bench import node_site as site
from medseg.bench.program import Row
from medseg.errors import ConfigError, EnvironmentFailure

SECTIONS = ("rate", "memory", "kills", "flood", "full", "queued")
_FILLER = 500 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much is done: senders and slices of each, edge of a slice, kills, connections, queued jobs."""

    senders: int = 20
    slices: int = 100
    size: int = 512
    kills: int = 50
    connections: int = 5000
    queued: int = 1000
    thousand: int = 1000


QUICK = Counts(slices=25, kills=5, connections=1000, thousand=500)


def measure_node(only: Sequence[str], *, repeats: int, counts: Counts) -> Iterator[Row]:
    """Rows of the sections; those of `only`, or all.

    Raises
    ------
    ConfigError
        There is no such section.
    EnvironmentFailure
        dcmtk or Orthanc is missing, or a server does not start.
    """
    parts: dict[str, Callable[[Path, int, Counts], Iterator[Row]]] = {
        "rate": _rate,
        "memory": _memory,
        "kills": _kills,
        "flood": _flood,
        "full": _full,
        "queued": _queued,
    }
    if unknown := [name for name in only if name not in parts]:
        raise ConfigError(f"no section {unknown[0]!r}; there are: {', '.join(SECTIONS)}")
    for name in only or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="medseg-bench-") as folder:
            yield from parts[name](Path(folder), repeats, counts)


def _row(name: str, unit: str, values: Sequence[float]) -> Row:
    low, high = min(values), max(values)
    return {
        "name": name,
        "unit": unit,
        "median": statistics.median(values),
        "low": low,
        "high": high,
        "count": len(values),
    }


def _folders(
    folder: Path, counts: Counts, *, seed: int, size: int = 0, one_study: bool = False
) -> list[Path]:
    made = [folder / f"sender{number}" for number in range(counts.senders)]
    for number, place in enumerate(made):
        study = f"1.2.826.0.1.3680043.8.498.{seed}.{0 if one_study else number}"
        site.write_slices(
            place, count=counts.slices, size=size or counts.size, study=study, seed=1000 * seed + number
        )
    return made


def _rate(folder: Path, repeats: int, counts: Counts) -> Iterator[Row]:
    """Instances per second of both, in turns, each time into empty ones; echoes meanwhile."""
    for one_study in (False, True):
        place = folder / ("one" if one_study else "own")
        senders = _folders(place, counts, seed=1 + one_study, one_study=one_study)
        rates: dict[str, list[float]] = {"medseg": [], "Orthanc": []}
        echoes: dict[str, list[float]] = {"medseg": [], "Orthanc": []}
        for repeat in range(repeats):
            for start in (site.serve, site.serve_orthanc):
                server = start(folder / f"{start.__name__}-{one_study}-{repeat}")
                try:
                    with _Echoes(server.port) as timed:
                        sent = site.send_all(senders, server.port)
                    _expect(server, sent, counts.senders * counts.slices)
                finally:
                    server.stop()
                rates[server.name].append(len(sent.acknowledged) / sent.seconds)
                echoes[server.name] += timed.seconds
        what = "one study" if one_study else "own studies"
        for name, values in rates.items():
            yield _row(f"{name}, {counts.senders} senders, {what}", "inst/s", values)
        ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
        yield _row(f"medseg / Orthanc, {what}", "x", ratios)
        for name, values in echoes.items():
            yield _row(f"{name}, C-ECHO under that load, p99", "s", [_percentile(values, 0.99)])


def _expect(server: site.Server, sent: site.Sent, count: int) -> None:
    found = site.stored(server)
    if not len(sent.acknowledged) == found == count:
        raise EnvironmentFailure(
            f"{server.name}: {count} sent, {len(sent.acknowledged)} acknowledged, {found} stored; "
            f"other answers: {sorted(set(sent.refused))}"
        )


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class _Echoes:
    """Associates and echoes all the time, in a thread; how long each took."""

    def __init__(self, port: int) -> None:
        self._port, self._stop = port, threading.Event()
        self.seconds: list[float] = []

    def __enter__(self) -> _Echoes:
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        from pynetdicom import AE

        entity = AE(ae_title="ECHO")
        entity.add_requested_context("1.2.840.10008.1.1")
        while not self._stop.wait(0.05):
            begun = time.monotonic()
            association = entity.associate("127.0.0.1", self._port, ae_title="MEDSEG")
            good = association.is_established and association.send_c_echo().get("Status") == 0
            self.seconds.append(time.monotonic() - begun if good else float("inf"))
            if association.is_established:
                association.release()


def _memory(folder: Path, repeats: int, counts: Counts) -> Iterator[Row]:
    """Resident memory after each thousand of instances; the first thousand warms up."""
    server, held = site.serve(folder / "site"), []
    try:
        for turn in range(4):
            few = Counts(senders=10, slices=counts.thousand // 10)
            place = folder / f"turn{turn}"
            site.send_all(_folders(place, few, seed=10 + turn, size=128), server.port)
            if site.stored(server) != counts.thousand * (turn + 1):
                raise EnvironmentFailure(f"{site.stored(server)} stored of {counts.thousand * (turn + 1)}")
            held.append(server.memory() / 1e6)
    finally:
        server.stop()
    steps = [(later - before) * 1000 / counts.thousand for before, later in itertools.pairwise(held)]
    yield _row("memory gained per 1,000 instances", "MB", steps)
    yield _row("memory of the node", "MB", held)


_LONGEST_ROUND_S = 30.0
_JOB_S = 20.0
"""As long as a job may take on a busy machine: the volume is read, and the model for films refuses it."""
_AT_ONCE = {"stable_after": "1s", "wait_for_gaps": "0s"}
_EVERY_CT = {"name": "ct", "match": {"modality": ["CT"]}, "model": "chest-xray-lungs"}


def kill_under_load(
    folder: Path, kills: int, *, seed: int, senders: int = 4, slices: int = 60
) -> dict[str, int]:
    """Kill a node that takes instances in and runs jobs on them, again and again; then let it end its work.

    Returns
    -------
    dict
        Acknowledged, stored, `lost` (acknowledged without a row), `broken` (a row without a whole file), `orphans`
        (a file without a row); series, jobs that ended, `open` (series without an ended job), `twice` (jobs beyond
        the first of a series).
    """
    from pydicom import dcmread

    moments = random.Random(seed)
    acknowledged: set[str] = set()
    few = Counts(senders=senders, slices=slices)
    node, settings = folder / "site" / "node", {"rules": [_EVERY_CT], "studies": _AT_ONCE}
    for turn in range(kills):
        places = _folders(folder / f"turn{turn}", few, seed=100 + turn, size=128)
        server = site.serve(folder / "site", **settings)
        running = [site.start_sender(place, server.port) for place in places]
        begun = time.monotonic()
        # By count, not by time: a busy machine would be killed before it has stored anything.
        wanted = len(site.stored_rows(node)) + moments.randrange(1, senders * slices // 2)
        while len(site.stored_rows(node)) < wanted and time.monotonic() < begun + _LONGEST_ROUND_S:
            time.sleep(0.02)
        server.kill()
        acknowledged |= site.ended(running, begun).acknowledged
    jobs = _jobs_ended(folder / "site", settings)
    rows = site.stored_rows(node)
    whole = {uid for uid, path in rows.items() if len(dcmread(node / path).PixelData) == 2 * 128 * 128}
    files = sum(path.is_file() for path in (node / "instances").rglob("*"))
    return {
        "acknowledged": len(acknowledged),
        "stored": len(rows),
        "lost": len(acknowledged - rows.keys()),
        "broken": len(rows.keys() - whole),
        "orphans": files - len(rows),
    } | jobs


def _jobs_ended(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Start the node once more and wait until every series has its job, or none has ended for a while."""
    server, node = site.serve(folder, **settings), folder / "node"
    try:
        series, seen, since = site.series_uids(node), 0, time.monotonic()
        while (ended := site.ended_jobs(node)).keys() < series and time.monotonic() < since + _JOB_S:
            if len(ended) > seen:
                seen, since = len(ended), time.monotonic()
            time.sleep(0.5)
    finally:
        server.stop()
    return {
        "series": len(series),
        "jobs ended": sum(ended.values()),
        "open": len(series - ended.keys()),
        "twice": sum(ended.values()) - len(ended),
    }


def _kills(folder: Path, repeats: int, counts: Counts) -> Iterator[Row]:
    found = kill_under_load(folder, counts.kills, seed=7)
    for what, count in found.items():
        yield _row(f"{counts.kills} x kill -9 under load: {what}", "", [count])


def _flood(folder: Path, repeats: int, counts: Counts) -> Iterator[Row]:
    """Threads, sockets and memory before and after connections that send a little and vanish."""
    server = site.serve(folder / "site")
    try:
        _connect_and_vanish(server.port, counts.connections // 5)
        time.sleep(2)
        before = (server.threads(), server.sockets(), server.memory() / 1e6)
        _connect_and_vanish(server.port, counts.connections)
        time.sleep(2)
        after = (server.threads(), server.sockets(), server.memory() / 1e6)
    finally:
        server.stop()
    for name, unit, was, now in zip(
        ("threads", "sockets", "memory"), ("", "", "MB"), before, after, strict=True
    ):
        yield _row(f"{name} gained by {counts.connections} connect/abort", unit, [now - was])


def _connect_and_vanish(port: int, count: int) -> None:
    for number in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
            peer.sendall((b"", b"\1\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\7\0\0\0\0\4\0\0\0\0")[number % 4])


def _full(folder: Path, repeats: int, counts: Counts) -> Iterator[Row]:
    """The reserve is reached by a large file of somebody else, which is then removed."""
    import shutil

    few = Counts(senders=1, slices=20, size=counts.size)
    first, second = (_folders(folder / name, few, seed=seed) for name, seed in (("a", 60), ("b", 61)))
    reserve = shutil.disk_usage(folder).free - _FILLER // 2
    server = site.serve(folder / "site", storage={"reserve": reserve})
    filler = folder / "filler"
    try:
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, _FILLER)
        time.sleep(1.5)
        refused = site.send_all(first, server.port)
        filler.unlink()
        time.sleep(1.5)
        taken = site.send_all(second, server.port)
    finally:
        server.stop()
    yield _row("disk below the reserve: acknowledged", "instances", [len(refused.acknowledged)])
    yield _row("disk below the reserve: refused out of resources", "instances", [len(refused.refused)])
    yield _row("after there is space again: acknowledged of 20", "instances", [len(taken.acknowledged)])


def _queued(folder: Path, repeats: int, counts: Counts) -> Iterator[Row]:
    """Time per acknowledgement with many jobs in the queue, against an empty one, in turns."""
    few = Counts(senders=4, slices=50, size=counts.size)
    times: dict[int, list[float]] = {0: [], counts.queued: []}
    for repeat in range(repeats):
        for jobs in times:
            server = site.serve(folder / f"site-{repeat}-{jobs}")
            try:
                _queue(server.folder / "node" / "node.db", jobs)
                places = _folders(folder / f"{repeat}-{jobs}", few, seed=80 + repeat)
                sent = site.send_all(places, server.port)
            finally:
                server.stop()
            times[jobs].append(sent.seconds / len(sent.acknowledged) * few.senders)
    for jobs, values in times.items():
        yield _row(f"one C-STORE of 4 senders, {jobs} jobs queued", "s", values)
    ratios = [more / none for none, more in zip(*times.values(), strict=True)]
    yield _row("with the queue / without", "x", ratios)


def _queue(path: Path, jobs: int) -> None:
    """Jobs that are not due yet, so that only their number counts, not what they would do."""
    import sqlite3
    from contextlib import closing

    columns = (
        "study_uid, series_uid, rule, model, input, repeat, instances, state, attempts, owner, not_before"
    )
    names = f"{columns}, priority, created_at, reason, verdict, flags, folder"
    now = time.time()
    rows = [
        ("1.2", f"1.2.{n}", "chest", "m", "i", 0, 1, "queued", 0, "", now + 600, 0, now, "", "", "[]", "")
        for n in range(jobs)
    ]
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.executemany(f"INSERT INTO jobs ({names}) VALUES ({', '.join('?' * 17)})", rows)
