"""The audit log keeps its newest files, also when the clock of the machine is set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.node.audit import Audit
from medseg.node.privacy_options import AuditOptions
from tests.unit.node.turned_clock import TurnedClock


@pytest.mark.parametrize("seconds", [1.0, 0.0, -3600.0, -365 * 86400.0])
def test_the_newest_files_are_kept(tmp_path: Path, seconds: float):
    clock = TurnedClock()
    audit = Audit(tmp_path, AuditOptions(file_limit=1, keep_files=3), clock)
    for number in range(10):
        if number == 6:
            clock.jump(seconds)
        audit.record("start", number=number)
    kept = [*sorted(tmp_path.glob("audit-*.jsonl")), tmp_path / "audit.jsonl"]
    assert [json.loads(path.read_text())["number"] for path in kept] == [6, 7, 8, 9]
