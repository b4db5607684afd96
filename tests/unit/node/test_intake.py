"""The intake without a network: hostile data sets, failing disks, a database that refuses, identifiers taken out."""

from __future__ import annotations

import os
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom.dsutils import encode
from sqlalchemy import select

from medseg.database import Database
from medseg.errors import StorageError
from medseg.io import dicom_file
from medseg.io.limits import ReadLimits
from medseg.node import instance_header, instance_rows
from medseg.node.arrival import Arrival, Peer
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.instance_header import number_digest
from medseg.node.intake import Intake
from medseg.node.options import StorageOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.retention import Retention
from medseg.node.tables import instances, metadata, series, study_numbers
from medseg.node.vault import Vault
from tests.unit.node.listening import ct_slice

PEER = Peer(route="stow", name="tester")


class Site:
    """An intake with its disk and database."""

    def __init__(self, folder: Path, *, key: bytes | None = None, **options) -> None:
        self.folder, self.vault = folder, Vault(folder, key)
        self.database = Database.in_file(folder / "node.db", metadata)
        self.audit = Audit(folder, AuditOptions(), Clock())
        self.options = StorageOptions(**{"reserve": 1, **options})
        self.intake = Intake(
            self.options,
            database=self.database,
            vault=self.vault,
            audit=self.audit,
            clock=Clock(),
            secret=b"s" * 32,
        )
        self.intake.start()

    def stop(self) -> None:
        self.intake.stop()
        self.database.close()

    def rows(self, table=instances):
        with self.database.read() as connection:
            return connection.execute(select(table)).mappings().all()

    def files(self) -> list[Path]:
        return [path for path in (self.folder / "instances").rglob("*") if path.is_file()]

    def retention(self) -> Retention:
        parts = {"database": self.database, "vault": self.vault, "audit": self.audit, "clock": Clock()}
        return Retention(self.options, **parts)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = Site(tmp_path)
    yield opened
    opened.stop()


def arrival(data_set: Dataset | bytes, *, syntax: str = ExplicitVRLittleEndian, **command: str) -> Arrival:
    body = data_set if isinstance(data_set, bytes) else encode(data_set, False, True)
    assert body is not None
    return Arrival(data_set=body, transfer_syntax_uid=syntax, peer=PEER, **command)


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize("field", ["sop_class_uid", "sop_instance_uid", "study_uid"])
def test_what_is_not_what_the_command_says_is_not_stored(site: Site, field: str):
    receipt = site.intake.accept(arrival(ct_slice(), **{field: "1.2.3"}))
    assert receipt.verdict == "mismatch"
    assert site.rows() == []
    assert site.files() == []


def test_a_data_set_cut_anywhere_is_refused(site: Site):
    body, elements = encode(ct_slice(), False, True), list(ct_slice())
    # Cut between two elements it is a data set as good as any.
    ends = {len(encode(Dataset({one.tag: one for one in elements[:n]}), False, True)) for n in range(1, 99)}
    for keep in {*range(0, len(body) - 2 * 64 * 64, 2), len(body) - 2} - ends:
        assert site.intake.accept(arrival(body[:keep])).verdict == "unreadable", keep
    assert site.files() == []


@pytest.mark.parametrize("pixels", [True, False])
@pytest.mark.parametrize(
    ("implicit", "little", "syntax"),
    [
        (True, True, ExplicitVRLittleEndian),
        (False, True, ImplicitVRLittleEndian),
        (False, False, ExplicitVRLittleEndian),
        (False, True, ExplicitVRBigEndian),
        (True, True, ExplicitVRBigEndian),
        (True, False, ExplicitVRBigEndian),
        (False, True, DeflatedExplicitVRLittleEndian),
        (False, True, RLELossless),
        (False, True, "1.2.3.4"),
    ],
)
def test_another_encoding_than_the_transfer_syntax_says_is_refused(
    site: Site, implicit: bool, little: bool, syntax: str, pixels: bool
):
    one = ct_slice()
    if not pixels:
        del one.PixelData, one.Rows, one.Columns
    body = encode(one, implicit, little)
    # The same data set without pixels is a good one of this syntax.
    expected = "stored" if syntax == RLELossless and not pixels else "unreadable"
    receipt = site.intake.accept(arrival(body, syntax=syntax))
    assert receipt.verdict == expected
    if implicit and little and syntax == ExplicitVRLittleEndian:
        said = "element (0008,0016) has implicit VR, its transfer syntax is one of explicit VR"
        assert receipt.reason == f"the data set: {said}"


@pytest.mark.parametrize(
    ("tag", "was", "becomes"),
    [
        ("28001000", b"US\x02\0", b"UL\x02\0"),
        ("28001000", b"US\x02\0", b"FL\x02\0"),
        ("08006000", b"CS\x02\0", b"XX\x02\0"),
        ("08006000", b"CS\x02\0", b"\x02\0\0\0"),
        ("e07f1000", b"OW\0\0\x00\x20\0\0", b"\x00\x20\0\0\0\0\0\0"),
    ],
    ids=["bytes of UL", "bytes of FL", "no such VR", "one implicit element", "implicit pixels"],
)
def test_an_element_that_is_not_encoded_as_the_others_is_refused(
    site: Site, tag: str, was: bytes, becomes: bytes
):
    body, head = encode(ct_slice(), False, True), bytes.fromhex(tag)
    assert head + was in body
    assert site.intake.accept(arrival(body.replace(head + was, head + becomes))).verdict == "unreadable"


def test_an_element_that_is_there_twice_is_refused(site: Site):
    body, patient = encode(ct_slice(), False, True), b"\x10\0\x20\0LO\x02\0P1"
    twice = body.replace(patient, patient.replace(b"P1", b"P2") + patient)
    assert site.intake.accept(arrival(twice)).verdict == "unreadable"


def test_an_image_without_its_pixels_is_refused(site: Site):
    one = ct_slice()
    del one.PixelData
    assert site.intake.accept(arrival(one)).verdict == "unreadable"
    one.PixelDataProviderURL = "http://127.0.0.1/pixels"
    assert site.intake.accept(arrival(one)).verdict == "stored"


@pytest.mark.parametrize("tail", [b"\0" * 7, b"\x7fELF" + bytes(60), b"PK\3\4" + b"x" * 100, b"<script>"])
def test_nothing_travels_behind_the_data_set(site: Site, tail: bytes):
    assert site.intake.accept(arrival(encode(ct_slice(), False, True) + tail)).verdict == "unreadable"
    assert site.files() == []


def test_elements_behind_the_pixels_are_kept(site: Site):
    one = ct_slice()
    one.add_new(0xFFFCFFFC, "OB", bytes(20))
    body = encode(one, False, True)
    assert site.intake.accept(arrival(body)).verdict == "stored"
    assert site.vault.read(site.rows()[0]["path"]).endswith(body)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 450), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_stored_or_refused_but_never_break_the_intake(site: Site, changes):
    body = bytearray(encode(ct_slice(), False, True))
    for place, value in changes:
        body[place] = value
    receipt = site.intake.accept(arrival(bytes(body)))
    assert receipt.verdict != "no_space"
    assert len(site.files()) == len(site.rows())


def test_a_deflated_bomb_is_refused_at_the_limit(tmp_path: Path):
    site = Site(tmp_path)
    site.intake._limits = ReadLimits(max_file_mb=1, max_inflated_mb=2)
    one = ct_slice()
    one.PixelData = bytes(16 << 20)
    bomb = deflated(encode(one, False, True))
    tracemalloc.start()
    receipt = site.intake.accept(arrival(bomb, syntax=DeflatedExplicitVRLittleEndian))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert receipt.verdict == "unreadable"
    assert "inflated" in receipt.reason
    assert peak < 8 << 20
    site.stop()


@pytest.mark.parametrize("open_ended", [True, False], ids=["open-ended", "with lengths"])
def test_deep_nesting_is_refused_or_kept_as_it_came(site: Site, open_ended: bool):
    depth, inner = 5000, b""
    for _ in range(depth):
        size = 0xFFFFFFFF if open_ended else len(inner) + 8
        item = 0xFFFFFFFF if open_ended else len(inner)
        ends = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" if open_ended else b""
        head = b"\x08\0\x40\x11SQ\0\0" + size.to_bytes(4, "little")
        inner = head + b"\xfe\xff\x00\xe0" + item.to_bytes(4, "little") + inner + ends
    body = encode(ct_slice(), False, True)
    cut = body.index(b"\x10\0\x10\0PN")
    assert site.intake.accept(arrival(body[:cut] + inner + body[cut:])).verdict in ("unreadable", "stored")
    assert site.intake.accept(arrival(ct_slice(2))).verdict == "stored"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "deflated"])
def test_more_items_than_any_image_has_are_refused_before_they_are_parsed(
    site: Site, monkeypatch: pytest.MonkeyPatch, packed: bool
):
    monkeypatch.setattr(instance_header, "_MAX_ITEMS", 100)
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0"
    items = (b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + ends) * 101
    body = encode(ct_slice(), False, True)
    cut = body.index(b"\x10\0\x10\0PN")
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    body = body[:cut] + sequence + body[cut:]
    syntax = DeflatedExplicitVRLittleEndian if packed else ExplicitVRLittleEndian
    receipt = site.intake.accept(arrival(deflated(body) if packed else body, syntax=syntax))
    assert receipt.verdict == "unreadable"
    assert "101 items" in receipt.reason


def _with_elements(number: int, count: int) -> bytes:
    """A slice with one item of so many elements."""
    elements = b"".join(b"\x11\0" + at.to_bytes(2, "little") + b"CS\0\0" for at in range(count))
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + elements + b"\xfe\xff\x0d\xe0\0\0\0\0"
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    body = encode(ct_slice(number), False, True)
    assert body is not None
    cut = body.index(b"\x10\0\x10\0PN")
    return body[:cut] + sequence + body[cut:]


def test_elements_are_counted_however_deep_they_lie(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dicom_file, "_MAX_READS", 1000)
    assert site.intake.accept(arrival(_with_elements(1, 500))).verdict == "stored"
    receipt = site.intake.accept(arrival(_with_elements(2, 1000)))
    assert (receipt.verdict, "more elements" in receipt.reason) == ("unreadable", True)
    behind = encode(ct_slice(3), False, True) + b"".join(
        b"\xfc\xff" + at.to_bytes(2, "little") + b"CS\0\0" for at in range(1000)
    )
    receipt = site.intake.accept(arrival(behind))
    assert (receipt.verdict, "more elements" in receipt.reason) == ("unreadable", True)


def test_who_sends_very_many_elements_keeps_nobody_else_waiting(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dicom_file, "_MANY_READS", 400)
    verdicts: list[str] = []
    many = threading.Thread(
        target=lambda: verdicts.append(site.intake.accept(arrival(_with_elements(1, 500))).verdict)
    )
    with dicom_file._one_of_many_reads:
        # Another such data set is being read.
        many.start()
        for number in range(2, 10):
            assert site.intake.accept(arrival(ct_slice(number))).verdict == "stored"
        assert (many.is_alive(), verdicts) == (True, [])
    many.join()
    assert verdicts == ["stored"]


@pytest.mark.parametrize("group", [0, 2, 4, 6])
def test_elements_of_commands_and_file_heads_are_no_data_set(site: Site, group: int):
    # A Transfer Syntax UID there would be read in place of the one in the head of the stored file.
    element = bytes((group, 0, 0x10, 0)) + b"UI\x14\x00" + b"1.2.840.10008.1.2.2\0"
    receipt = site.intake.accept(arrival(element + encode(ct_slice(), False, True)))
    assert receipt.verdict == "unreadable"
    assert "group below 0008" in receipt.reason


@pytest.mark.parametrize("key", [None, b"k" * 32], ids=["plain", "encrypted"])
def test_a_preamble_is_empty_and_nothing_follows_the_data_set(tmp_path: Path, key: bytes | None):
    site = Site(tmp_path, key=key)
    body = encode(ct_slice(), False, True)
    assert site.intake.accept(arrival(body)).verdict == "stored"
    content = site.vault.read(site.rows()[0]["path"])
    assert content[:132] == bytes(128) + b"DICM"
    assert content.endswith(body)
    assert (b"Doe^Jane" in site.files()[0].read_bytes()) is (key is None)
    site.stop()


def failing(number: int, real):
    calls = []

    def call(*given, **options):
        calls.append(1)
        if len(calls) == number:
            raise OSError(28, os.strerror(28))
        return real(*given, **options)

    return call


@pytest.mark.parametrize("name", ["fsync", "open"])
def test_a_failing_call_refuses_one_instance_and_the_next_try_stores_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
):
    number, verdicts = 0, []
    while "stored" not in verdicts:
        number += 1
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(number, getattr(os, name)))
            verdicts.append(site.intake.accept(arrival(ct_slice())).verdict)
        # What was not acknowledged leaves nothing behind.
        assert len(site.files()) == len(site.rows()) == (verdicts[-1] == "stored")
    assert len(verdicts) > 1
    assert set(verdicts[:-1]) == {"no_space"}


def test_a_commit_that_fails_is_no_acknowledgement(site: Site, monkeypatch: pytest.MonkeyPatch):
    from contextlib import contextmanager

    @contextmanager
    def full():
        raise StorageError("cannot write to the database: database or disk is full")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(site.database, "write", full)
        receipt = site.intake.accept(arrival(ct_slice()))
    assert (receipt.verdict, receipt.acknowledged) == ("no_space", False)
    assert site.files() == []
    assert site.intake.accept(arrival(ct_slice())).verdict == "stored"


def test_a_row_that_is_refused_leaves_its_neighbours_alone(site: Site, monkeypatch: pytest.MonkeyPatch):
    poison, real = ct_slice(0).SOPInstanceUID, instance_rows._add
    held = threading.Event()

    def add(counted, connection, rows):
        held.wait(5)
        if any(row.facts.sop_instance_uid == poison for row in rows):
            raise ValueError("a value that the database does not take")
        return real(counted, connection, rows)

    monkeypatch.setattr(instance_rows, "_add", add)
    verdicts: dict[int, str] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: verdicts.update({n: site.intake.accept(arrival(ct_slice(n))).verdict})
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    held.set()
    for thread in threads:
        thread.join()
    assert verdicts == {0: "no_space"} | dict.fromkeys(range(1, 6), "stored")
    assert len(site.rows()) == 5


def test_the_same_uid_with_other_bytes_in_parallel_keeps_one_whole(site: Site):
    def variant(n: int) -> Dataset:
        one = ct_slice()
        one.PixelData = bytes([n]) * len(one.PixelData)
        return one

    verdicts: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n: verdicts.append(site.intake.accept(arrival(variant(n % 4))).verdict)
        )
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdicts) == ["conflict"] * 9 + ["duplicate"] * 2 + ["stored"]
    (row,), (path,) = site.rows(), site.files()
    assert site.vault.place(row["path"]) == path
    assert [one["instances"] for one in site.rows(series)] == [1]


def test_an_instance_that_comes_again_while_it_is_removed_keeps_its_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    site.intake.accept(arrival(ct_slice()))
    remove, again = site.vault.remove, []

    def remove_late(name: str) -> None:
        if not again:
            again.append("")
            again.append(site.intake.accept(arrival(ct_slice())).verdict)
        remove(name)

    monkeypatch.setattr(site.vault, "remove", remove_late)
    site.retention().purge_instances(ct_slice().StudyInstanceUID)
    assert again == ["", "stored"]
    (row,) = site.rows()
    assert site.vault.read(row["path"])


def test_numbers_that_a_study_is_searched_by_are_kept_as_keyed_digests_alone(site: Site):
    numbered = ct_slice(0)
    numbered.AccessionNumber, numbered.PatientID = " 0815 ", "4711"
    assert site.intake.accept(arrival(numbered)).verdict == "stored"
    assert site.intake.accept(arrival(ct_slice(1))).verdict == "stored"
    digests = {row["digest"] for row in site.rows(study_numbers)}
    assert {number_digest("0815", b"s" * 32), number_digest("4711", b"s" * 32)} <= digests
    assert not digests & {number_digest("0815", b"t" * 32), number_digest("", b"s" * 32)}
    (study,) = {row["study_uid"] for row in site.rows(study_numbers)}
    site.retention().purge_instances(study)
    assert site.rows(study_numbers) == []


def test_an_unexpected_error_is_an_answer_not_an_acknowledgement(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def breaks(_arrival: Arrival) -> None:
        raise RuntimeError("Doe^Jane")

    monkeypatch.setattr(site.intake, "_accept", breaks)
    assert site.intake.accept(arrival(ct_slice())).verdict == "no_space"
    assert "unexpected RuntimeError" in caplog.text
    assert "Doe" not in caplog.text


def test_the_quota_counts_what_is_held_and_is_free_again_when_it_is_removed(tmp_path: Path):
    site = Site(tmp_path, quota=20_000)
    verdicts = [site.intake.accept(arrival(ct_slice(n))).verdict for n in range(3)]
    assert verdicts == ["stored", "stored", "no_space"]
    site.retention().purge_instances(ct_slice().StudyInstanceUID)
    site.intake._space._looked_at = float("-inf")
    assert site.intake.accept(arrival(ct_slice(3))).verdict == "stored"
    site.stop()
