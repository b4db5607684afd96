"""`medseg predict --cluster` on a local Ray cluster of two nodes, one of which is killed in the middle."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray_nodes
import small_cohorts as small

pytestmark = [
    pytest.mark.slow,
    # Three processes import torch on whatever cores the machine has left.
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray (extra cluster) is not installed"
    ),
]

COUNT = 10
ENVIRONMENT = os.environ | {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The machine may be short of memory for reasons that are not ours.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
}


class Nodes:
    """The program `ray_nodes`."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, ray_nodes.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self.address = self._line(lambda line: ":" in line)

    def _line(self, wanted):
        for line in self.process.stdout:
            if wanted(line.strip()):
                return line.strip()
        raise AssertionError("the cluster did not start")

    def tell(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self._line(lambda line: line == "done")


@pytest.fixture
def nodes():
    found = Nodes()
    yield found
    found.process.communicate("end\n", timeout=60)


def command(cohort, bundle, output, *arguments):
    return [
        *(sys.executable, "-m", "medseg", "predict", str(cohort), "--model", str(bundle.folder)),
        *("--output", str(output), "--format", "nifti", "--accept-unlike", *arguments),
    ]


def wait_until(condition, process, within_s=600.0):
    end = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def finished(output: Path) -> list[str]:
    return sorted(path.parent.name for path in output.glob("*/measurements.json"))


def test_every_case_once_while_a_node_is_killed_and_another_joins(nodes, tmp_path):
    bundle = small.write_small_bundle(tmp_path / "bundle")
    cohort = small.write_cohort(tmp_path / "in", COUNT)
    for number in range(COUNT):
        # Long enough that the node is killed while it has a case.
        small.write_nifti(cohort / f"v{number:02d}.nii", small.small_image(number, (90, 80, 40)))
    subprocess.run(command(cohort, bundle, tmp_path / "plain"), check=True, capture_output=True)
    nodes.tell("add")
    nodes.tell("add")
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(cohort, bundle, output, "--cluster", nodes.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        wait_until(lambda: len(finished(output)) >= 2, process)
        nodes.tell("kill")
        nodes.tell("add")
        _, said = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "is gone" in said
    assert "the case is tried once more" in said
    expected = small.digests(tmp_path / "plain")
    assert small.listed(output) == sorted(expected)
    assert small.digests(output) == expected
    assert small.leftovers(output) == []
    table = (output / "measurements.csv").read_text()
    assert table == (tmp_path / "plain" / "measurements.csv").read_text()


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path):
    bundle = small.write_small_bundle(tmp_path / "bundle")
    cohort = small.write_cohort(tmp_path / "in", 1)
    done = subprocess.run(
        command(cohort, bundle, tmp_path / "out", "--cluster", "127.0.0.1:1"),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "--cluster 127.0.0.1:1: no Ray cluster answers there" in done.stderr
    assert "Traceback" not in done.stderr
