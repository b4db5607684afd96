"""The end of a node's process."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

SCRIPT = """
import threading, time
from medseg.cli_serve import _leave
threading.Thread(target=time.sleep, args=(60,)).start()
print("said", flush=False)
_leave({code})
"""


@pytest.mark.parametrize("code", [0, 130])
def test_threads_of_other_packages_do_not_keep_the_process(code: int):
    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(code=code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert time.monotonic() - begun < 30
    assert (ended.returncode, ended.stdout) == (code, "said\n")
    assert ended.stderr == ("error: stopped; go on with the same command\n" if code else "")
