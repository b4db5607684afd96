"""The log: one line of JSON for each message, nothing of what other packages say."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from medseg.node.json_log import JsonLines, TextLines

TOKEN = "DOE^JANE"
WORKER = f"""
import logging, sys, warnings
from medseg.node import worker
def segment(request):
    print("Invalid value")
    warnings.warn("Invalid value {TOKEN}")
    logging.getLogger("pydicom").warning("Invalid value {TOKEN}")
    return []
worker.segment = segment
worker.main()
"""


def record(logger: str, message: str, *, error: bool = False) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError(TOKEN)
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord(logger, logging.ERROR, __file__, 1, message, None, info)


def test_a_line_is_one_table():
    line = JsonLines().format(record("medseg.node.service", "a\nb\x1b[2J\u2028c"))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == "a\nb\x1b[2J\u2028c"


@pytest.mark.parametrize("form", [JsonLines(), TextLines()])
def test_other_packages_and_errors_name_nobody(form):
    assert TOKEN not in form.format(record("pydicom", f"Invalid value {TOKEN}"))
    assert TOKEN not in form.format(record("medsegment", f"Invalid value {TOKEN}"))
    told = form.format(record("medseg.node", "failed", error=True))
    assert TOKEN not in told
    assert "ValueError at test_json_log.py:" in told


def test_text_is_one_line_without_escapes():
    line = TextLines().format(record("medseg.node", "".join(map(chr, range(0x100)))))
    assert line.isprintable()
    assert line.isascii()


def test_what_packages_say_in_the_worker_process_names_nobody():
    """Its standard error is that of the node."""
    process = subprocess.run(
        [sys.executable, "-c", WORKER], input="{}\n", capture_output=True, text=True, check=True
    )
    assert json.loads(process.stdout) == {"cases": []}
    assert TOKEN not in process.stderr
