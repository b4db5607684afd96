"""Checking all cases: each fault found once, named, graded; the rest goes on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from medseg.data.checks import CheckReport, check_cases
from medseg.data.manifest import Case
from medseg.data.options import CheckOptions, DataOptions, HoldoutSplit, ManifestSplit, PhantomSource
from medseg.errors import GeometryError, ImageReadError, Interrupted
from medseg.labels import Label, LabelScheme, LabelTable
from medseg.volume import Source, Volume

TABLE = LabelTable(
    labels=(
        Label(name="right", value=1, colour="#000000", side="right", pair="left"),
        Label(name="left", value=2, colour="#ffffff", side="left", pair="right"),
    ),
    schemes={"one": LabelScheme(name="one", values={1: ("right", "left")})},
)
ALL_TRAIN = HoldoutSplit(training=1, validation=0, test=0)


def options(**fields) -> DataOptions:
    return DataOptions(source=PhantomSource(), **{"split": ALL_TRAIN, "gray": True, **fields})


class Disk:
    """Files that hold a name; the readers look up what the name stands for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volumes: dict[str, Volume | Exception] = {}
        self.masks: dict[str, np.ndarray | Exception] = {}
        self.cases: list[Case] = []

    def add(self, name: str, *, volume=None, mask=None, **fields) -> Case:
        image, label = self.folder / f"{name}.img", self.folder / f"{name}.msk"
        image.write_text(name)
        self.volumes[image.name] = film(seed=len(self.volumes)) if volume is None else volume
        if mask is not None:
            label.write_text(name)
            self.masks[label.name] = np.asarray(mask) if not isinstance(mask, Exception) else mask
        made = {
            "case_id": name,
            "patient_id": f"p-{name}",
            "images": (image,),
            "label": label if mask is not None else None,
        }
        self.cases.append(Case(**{**made, **fields}))
        return self.cases[-1]

    def read_image(self, paths: Sequence[Path]) -> Volume:
        return self._answer(self.volumes[paths[0].name])

    def read_label(self, path: Path, like: Volume) -> np.ndarray:
        return self._answer(self.masks[path.name])

    @staticmethod
    def _answer(value):
        if isinstance(value, Exception):
            raise value
        return value

    def check(self, data: DataOptions | None = None, **more) -> CheckReport:
        return check_cases(
            self.cases,
            table=TABLE,
            read_image=self.read_image,
            read_label=self.read_label,
            options=data or options(),
            **more,
        )


def film(*, seed: int = 0, shape=(1, 6, 4), modality="CR", spacing=(0.2, 0.2)) -> Volume:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Volume(
        array=array,
        spacing_mm=spacing,
        spacing_origin="pixel_spacing" if spacing else "unknown",
        patient_orientation=("L", "F") if len(shape) == 3 else None,
        modality=modality,
        source=Source(paths=(), format="dicom"),
        notes=("a note",),
    )


def mask(values=(1, 2)) -> np.ndarray:
    made = np.zeros((1, 6, 4), dtype=np.uint8)
    made[0, 1, 1:3] = values
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def found(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(problem.case_id, problem.level, problem.kind) for problem in report.problems]


def test_clean_cases_give_facts_and_no_problem(disk: Disk):
    case = disk.add("a", mask=mask())
    disk.cases[0] = Case(**{name: getattr(case, name) for name in case.__slots__ if name != "sha256"},
                         sha256=hashlib.sha256(b"a").hexdigest())  # fmt: skip
    report = disk.check()
    assert found(report) == []
    facts = report.facts["a"]
    assert (facts.shape, facts.channels, facts.spacing_mm, facts.modality) == ((6, 4), 1, (0.2, 0.2), "CR")
    assert facts.voxels == {"right": 1, "left": 1}
    assert facts.image_sha256 == (hashlib.sha256(b"a").hexdigest(),)
    assert facts.label_sha256 == hashlib.sha256(b"a").hexdigest()
    assert len(facts.pixel_sha256) == 64
    assert facts.notes == ("a note",)


def test_open_unions_of_a_scheme_are_counted_by_name(disk: Disk):
    disk.add("a", mask=mask((1, 1)), scheme="one")
    assert disk.check().facts["a"].voxels == {"right|left": 2}


def test_each_fault_is_found_and_sets_only_its_case_aside(disk: Disk):
    disk.add("good", mask=mask())
    disk.add("sum", mask=mask(), sha256="0" * 64)
    disk.add("broken", volume=ImageReadError("truncated"), mask=mask())
    disk.add("ct", volume=film(seed=91, modality="CT"), mask=mask())
    disk.add("rgb", volume=film(seed=92, shape=(3, 6, 4)), mask=mask())
    disk.add("grid", mask=GeometryError("grids differ"))
    disk.add("value", mask=mask((1, 9)))
    disk.add("scheme", mask=mask(), scheme="unknown")
    disk.add("nomask")
    disk.add("empty", mask=mask((0, 0)))
    disk.add("spacing", volume=film(seed=93, spacing=None), mask=mask())
    disk.add("cube", volume=film(seed=94, shape=(1, 6, 4, 3), spacing=None), mask=None)
    gone = disk.add("gone", mask=mask())
    gone.images[0].unlink()
    report = disk.check(options(modality=("CR", "DX")))
    assert found(report) == [
        ("sum", "error", "checksum"),
        ("broken", "error", "unreadable"),
        ("ct", "error", "modality"),
        ("rgb", "error", "colour"),
        ("grid", "error", "grid"),
        ("value", "error", "label_value"),
        ("scheme", "error", "label_value"),
        ("nomask", "note", "missing_label"),
        ("empty", "note", "empty_label"),
        ("spacing", "note", "unknown_spacing"),
        ("cube", "note", "missing_label"),
        ("cube", "note", "unknown_spacing"),
        ("cube", "error", "mixed_shapes"),
        ("gone", "error", "missing_file"),
    ]
    texts = {problem.case_id: problem.text for problem in report.problems}
    assert "modality CT; data.modality allows CR, DX" in texts["ct"]
    assert "{9: 1}" in texts["value"]
    assert "'unknown'; label_schemes of the settings: one" in texts["scheme"]
    assert report.unusable == {"sum", "broken", "ct", "rgb", "grid", "value", "scheme", "cube", "gone"}
    assert not report.leaks


def test_levels_are_the_users(disk: Disk):
    disk.add("nomask", volume=film(spacing=None))
    disk.add("empty", mask=mask((0, 0)))
    strict = CheckOptions(missing_label="error", empty_label="error", unknown_spacing="error")
    report = disk.check(options(checks=strict))
    assert {problem.level for problem in report.problems} == {"error"}
    assert len(report.problems) == 3


@pytest.mark.parametrize(
    ("modality", "allowed", "refused"),
    [
        ("", ("CR",), True),
        ("", ("CR", ""), False),
        ("CT", ("CR", ""), True),
        ("CT", (), False),
        ("", (), False),
    ],
)
def test_files_that_do_not_say_their_modality_are_named_by_an_empty_word(
    disk: Disk, modality, allowed, refused
):
    disk.add("a", volume=film(modality=modality), mask=mask())
    assert bool(disk.check(options(modality=allowed)).errors) is refused


def test_colour_is_fine_where_it_is_expected_or_made_gray(disk: Disk):
    disk.add("a", volume=film(shape=(3, 6, 4)), mask=mask())
    assert [p.kind for p in disk.check().problems] == ["colour"]
    assert found(disk.check(gray_only=False)) == []
    assert found(disk.check(options(gray=False))) == []
    disk.add("b", mask=mask())
    disk.add("c", mask=mask())
    assert found(disk.check(gray_only=False)) == []
    assert found(disk.check(options(gray=False))) == [("a", "error", "mixed_shapes")]


def test_duplicates_are_notes_within_and_leaks_across_splits(disk: Disk):
    same = film(seed=5)
    disk.add("a", volume=same, mask=mask(), split="train")
    disk.add("b", volume=same, mask=mask(), split="train")
    disk.add("c", volume=same, mask=mask(), split="test")
    disk.add("d", mask=mask(), split="test")
    report = disk.check(options(split=ManifestSplit()))
    assert found(report) == [("b", "note", "duplicate"), ("c", "error", "duplicate")]
    assert [p.text for p in report.leaks] == ["the same pixels are in several splits: a (train), c (test)"]
    assert not disk.check(splits=dict.fromkeys("abcd", "train")).leaks


def test_patient_in_two_splits_is_a_leak(disk: Disk):
    disk.add("a", mask=mask(), split="train", patient_id="p")
    disk.add("b", mask=mask(), split="test", patient_id="p")
    disk.add("c", mask=mask(), split="test")
    disk.add("d", mask=mask())
    report = disk.check(options(split=ManifestSplit()))
    assert found(report) == [("b", "error", "patient_in_two_splits"), ("d", "error", "split")]
    assert "a (train), b (test)" in report.leaks[0].text


def test_a_split_that_cannot_be_made_is_a_problem_of_the_set(disk: Disk):
    disk.add("a", mask=mask())
    report = disk.check(options(split=HoldoutSplit()))
    assert [(p.case_id, p.kind) for p in report.problems] == [("", "split")]
    assert "patients" in report.errors[0].text


def test_threads_change_nothing_and_progress_counts(disk: Disk):
    for number in range(12):
        disk.add(f"c{number}", mask=mask((1, number)))
    calls: list[tuple[int, int]] = []
    one = disk.check(progress=lambda done, total: calls.append((done, total)))
    many = disk.check(workers=4)
    assert one == many
    assert calls == [(n, 12) for n in range(1, 13)]
    assert threading.active_count() < 5


def test_a_stop_by_the_user_is_not_a_finding(disk: Disk):
    disk.add("a", volume=Interrupted("stopped"))
    with pytest.raises(Interrupted):
        disk.check()
