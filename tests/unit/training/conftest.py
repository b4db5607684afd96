"""Makes the helper modules of this folder importable, also in the processes that tests start."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _ctrl_c():
    """A job in the background of a shell ignores SIGINT, and its tests of Ctrl-C with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
