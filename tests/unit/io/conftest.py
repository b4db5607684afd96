"""Lets the tests of the readers import the modules that make their files."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# The CT series that the exporters' tests write.
sys.path.insert(1, str(Path(__file__).parents[1] / "export"))
