"""Makes the helper modules of this folder importable, also in the processes that tests start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def search_in(tmp_path):
    """`formula.search_in` with folders named by a word."""
    pytest.importorskip("optuna", reason="searches need the extra search")
    from formula import search_in

    return lambda name="run", **changes: search_in(tmp_path / name, **changes)
