"""When a study is complete, which series a rule takes, and what late slices do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import select

from medseg.io.dicom_header import DicomHeader
from medseg.node.arrival import Arrival, Peer
from medseg.node.audit import Audit
from medseg.node.completeness import SliceGeometry, slice_geometry
from medseg.node.intake import Intake
from medseg.node.job_queue import JobQueue
from medseg.node.options import StorageOptions, StudyOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.rule_options import MatchOptions, RuleOptions
from medseg.node.rules import Candidate, choose
from medseg.node.scheduler import Scheduler
from medseg.node.tables import jobs, metadata, studies
from medseg.node.vault import Vault
from tests.unit.node.listening import Database, ct_slice, encoded
from tests.unit.node.turned_clock import TurnedClock

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def header(position, orientation=AXIAL) -> DicomHeader:
    data_set = Dataset()
    data_set.ImagePositionPatient, data_set.ImageOrientationPatient = list(position), list(orientation)
    return DicomHeader.of(data_set, Path("slice"))


def stack(heights, orientation=AXIAL) -> list[DicomHeader]:
    return [header((3.0, -7.0, height), orientation) for height in heights]


def test_a_missing_slice_is_told_with_its_place():
    found = slice_geometry(stack([2.0 * k for k in range(13) if k != 6]))
    assert found.gap == "12 of 13 slices by geometry; missing near z = 12 mm"
    assert found.spacing_mm == pytest.approx(2.0)


@pytest.mark.parametrize(
    "headers",
    [
        stack([2.5 * k for k in range(9)]),
        stack([2.5 * k for k in range(9)] * 2),
        stack([0.0, 2.5]),
        stack([5.0]),
        [*stack([0.0, 2.0, 8.0]), header((0, 0, 4), (0, 1, 0, 0, 0, -1))],
        [DicomHeader.of(Dataset(), Path("film"))] * 4,
    ],
)
def test_whole_or_untellable_series_show_no_gap(headers):
    assert slice_geometry(headers).gap == ""


def test_frames_count_as_slices():
    enhanced = Dataset()
    enhanced.NumberOfFrames = 40
    assert slice_geometry([DicomHeader.of(enhanced, Path("enhanced"))]).slices == 40


THIN = Candidate(
    series_uid="1.1",
    modality="CT",
    body_part="CHEST",
    description="Lung 1.0 B70",
    protocol="Thorax",
    number=3,
    called_by="CT1",
    mixed="",
    geometry=SliceGeometry(slices=300, spacing_mm=1.0),
)
THICK = replace(THIN, series_uid="1.2", number=2, geometry=SliceGeometry(slices=60, spacing_mm=5.0))
SCOUT = replace(THIN, series_uid="1.3", number=1, description="Topogram", geometry=SliceGeometry(slices=1))


def rule(**match) -> RuleOptions:
    return RuleOptions(name="lungs", model="x", match=MatchOptions(**match))


def test_the_best_of_several_is_taken_and_the_rest_are_told_why_not():
    found = choose(rule(modality=("CT",), not_description=("*topogram*",)), [SCOUT, THICK, THIN])
    assert found.chosen == (THIN,)
    assert {one.series_uid: reason for one, reason in found.left} == {
        "1.3": "its series description is excluded",
        "1.2": "series 3 has 300 slices, this one 60",
    }


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        ({"modality": ("MR",)}, "its modality is not one of MR"),
        ({"body_part": ("HEAD", "NECK")}, "its body part is not one of HEAD, NECK"),
        ({"body_part": ("HEAD", "")}, "its body part is not one of HEAD, none"),
        ({"protocol": ("abdo*",)}, "its protocol is not one of abdo*"),
        ({"calling_ae_title": ("MR?",)}, "its calling AE title is not one of MR?"),
        ({"min_slices": 301}, "300 slices, the rule asks for 301"),
        ({"max_slices": 10}, "300 slices, the rule takes 10 at most"),
        ({"max_spacing_mm": 0.8}, "a step of 1 mm between slices, the rule takes 0.8 mm at most"),
    ],
)
def test_why_a_series_is_left(match, reason: str):
    assert [text for _, text in choose(rule(**match), [THIN]).left] == [reason]


def test_an_empty_pattern_is_a_series_that_does_not_say():
    silent = replace(THIN, body_part="")
    for patterns, taken in ((("CHEST", ""), (silent,)), (("CHEST",), ())):
        assert choose(rule(body_part=patterns), [silent]).chosen == taken


def test_a_series_is_taken_where_one_of_its_films_has_the_view():
    both, side = (replace(THIN, views=frozenset(views)) for views in (("PA", "LL"), ("LL",)))
    assert choose(rule(view=("PA", "AP")), [both]).chosen == (both,)
    assert choose(rule(view=("PA", "AP")), [side]).left == ((side, "its view is not one of PA, AP"),)


def test_mixed_series_are_never_taken():
    mixed = replace(THIN, mixed="instances of two patients in one study")
    assert choose(rule(), [mixed]).left == ((mixed, "instances of two patients in one study"),)


class Site:
    """Intake and scheduler on one clock."""

    def __init__(self, folder: Path, *, key: bytes | None = None, view: tuple[str, ...] = ()) -> None:
        self.clock = TurnedClock()
        self.database = Database.in_file(folder / "node.db", metadata)
        self.vault = Vault(folder, key)
        audit = Audit(folder, AuditOptions(), self.clock)
        self.intake = Intake(
            StorageOptions(reserve=1),
            database=self.database,
            vault=self.vault,
            audit=audit,
            clock=self.clock,
            secret=b"s",
        )
        self.queue = JobQueue(
            self.database, self.clock, "here", deliver=lambda *_: None, attempts=3, first_wait_s=1.0
        )
        self.scheduler = Scheduler(
            [RuleOptions(name="ct", model="x", match=MatchOptions(modality=("CT",), view=view))],
            {"ct": "digest"},
            StudyOptions(stable_after=60.0, wait_for_gaps=600.0),
            database=self.database,
            vault=self.vault,
            queue=self.queue,
            audit=audit,
            clock=self.clock,
        )
        self.intake.start()

    def take(self, *numbers: int, view: str = "") -> None:
        for number in numbers:
            one = ct_slice(number)
            one.ViewPosition = view
            one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 2.0 * number], list(AXIAL)
            arrival = Arrival(
                data_set=encoded(one),
                transfer_syntax_uid=one.file_meta.TransferSyntaxUID,
                peer=Peer(route="dimse", name="CT1"),
            )
            assert self.intake.accept(arrival).verdict == "stored"

    def after(self, seconds: float) -> int:
        self.clock.turn(seconds)
        return self.scheduler.tick()

    def row(self, table):
        with self.database.read() as connection:
            return connection.execute(select(table)).mappings().all()

    def close(self) -> None:
        self.intake.stop()
        self.database.close()


@pytest.fixture(params=[None, b"k" * 32], ids=["plain", "encrypted"])
def site(tmp_path: Path, request: pytest.FixtureRequest):
    if request.param is not None:
        pytest.importorskip("cryptography", reason="needs medseg[pacs]")
    made = Site(tmp_path, key=request.param)
    yield made
    made.close()


def test_a_study_at_rest_becomes_a_job_and_late_slices_another(site: Site):
    site.take(0, 1, 2, 3)
    assert site.after(0) == 0
    assert site.after(59) == 0
    site.take(4)
    assert site.after(59) == 0
    assert site.after(60) == 1
    assert site.after(600) == 0
    site.take(5)
    assert site.after(1) == 0
    assert site.after(60) == 1
    assert [(row["state"], row["instances"]) for row in site.row(jobs)] == [("superseded", 5), ("queued", 6)]


def test_a_gap_is_waited_for_and_then_said(site: Site):
    site.take(0, 1, 2, 4, 5)
    site.after(0)
    assert site.after(61) == 0
    assert site.row(studies)[0]["note"] == "waits for more: 5 of 6 slices by geometry; missing near z = 6 mm"
    assert site.after(500) == 0
    assert site.after(100) == 1
    assert site.row(studies)[0]["note"] == "5 of 6 slices by geometry; missing near z = 6 mm"


def test_a_gap_that_is_filled_in_time_is_forgotten(site: Site):
    site.take(0, 1, 2, 4, 5)
    site.after(0)
    site.after(61)
    site.take(3)
    site.after(1)
    assert site.after(60) == 1
    assert [row["instances"] for row in site.row(jobs)] == [6]
    assert site.row(studies)[0]["note"] == ""


def test_a_clock_that_jumps_settles_nothing_early(site: Site):
    site.take(0, 1, 2)
    site.after(0)
    site.clock.jump(365 * 86400.0)
    assert site.after(1) == 0
    site.clock.jump(-2 * 365 * 86400.0)
    assert site.after(59) == 1


def test_the_view_of_a_series_is_that_of_its_images(tmp_path: Path):
    pytest.importorskip("cryptography", reason="needs medseg[pacs]")
    site = Site(tmp_path, view=("PA",))
    site.take(0, view="LL")
    site.after(0)
    assert site.after(61) == 0
    assert site.row(studies)[0]["note"] == "ct leaves series (CT): its view is not one of PA"
    site.take(1, view="PA")
    site.after(1)
    assert site.after(61) == 1
    site.close()


def test_series_that_no_rule_wants_are_told_why(site: Site):
    one = ct_slice(0, study=generate_uid())
    one.SeriesInstanceUID, one.Modality = generate_uid(), "SR"
    site.intake.accept(
        Arrival(
            data_set=encoded(one),
            transfer_syntax_uid=one.file_meta.TransferSyntaxUID,
            peer=Peer(route="stow"),
        )
    )
    site.after(0)
    assert site.after(61) == 0
    assert site.row(studies)[0]["note"] == "ct leaves series (SR): its modality is not one of CT"
