"""`medseg predict` on a Ray cluster of two nodes on this machine, one of which is killed in the middle.

    python benchmarks/cohort_cluster.py [--cases 40]

Prints what happens as it happens, and at the end what a plain run of the same cases says: every case once in the
table, none lost, the same masks. Needs the extra `cluster`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
MODEL = "chest-xray-lungs"
BEGIN = time.monotonic()


def say(text: str) -> None:
    """A line with the seconds since the start."""
    print(f"{time.monotonic() - BEGIN:7.1f} s  {text}", flush=True)


def start(studies: Path, output: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, a process of its own."""
    line = ["predict", str(studies), "--model", MODEL, "--output", str(output), *arguments]
    say("$ medseg " + " ".join(line))
    command = [sys.executable, "-m", "medseg", *line]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    threading.Thread(target=_repeat, args=(process,), daemon=True).start()
    return process


def _repeat(process: subprocess.Popen[str]) -> None:
    for line in process.stderr or ():
        say(f"    {line.rstrip()}")


def finished(output: Path) -> int:
    """Cases whose record is there."""
    return len(list(output.glob("*/measurements.json")))


def wait_for(count: int, output: Path, process: subprocess.Popen[str]) -> None:
    """Until so many cases are finished."""
    while finished(output) < count and process.poll() is None:
        time.sleep(0.1)
    say(f"{finished(output)} cases are finished")


def facts(output: Path) -> dict[str, Any]:
    """What a run left: its cases in order, the hash of each mask."""
    cases = json.loads((output / "predictions.json").read_text())["cases"]
    with (output / "measurements.csv").open(newline="") as stream:
        rows = [row["case_id"] for row in csv.DictReader(stream)]
    masks = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.glob("*/segmentation.nii.gz")
    }
    return {"cases": [case["case_id"] for case in cases], "rows": rows, "masks": masks}


def compare(found: dict[str, Any], plain: dict[str, Any]) -> bool:
    """Print how a run on the cluster differs from one that was not; whether it does not."""
    twice = [name for name, count in Counter(found["cases"]).items() if count > 1]
    lost = sorted(set(plain["cases"]) - set(found["cases"]))
    same = sum(found["masks"].get(name) == digest for name, digest in plain["masks"].items())
    say(f"cases {len(found['cases'])} of {len(plain['cases'])}, lost {lost or 0}, twice {twice or 0}")
    say(f"masks equal to those of the plain run: {same} of {len(plain['masks'])}")
    say(f"table in the order of the plain run: {found['rows'] == plain['rows']}")
    return not twice and not lost and same == len(plain["masks"]) and found["rows"] == plain["rows"]


def main() -> int:
    """Run it; 0 where the cluster lost nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=40)
    cases = parser.parse_args().cases
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
    }
    from ray.cluster_utils import Cluster

    from medseg.data.phantoms import write_chest_studies

    with tempfile.TemporaryDirectory() as folder:
        studies, output = Path(folder) / "studies", Path(folder) / "cluster"
        write_chest_studies(Path(folder), cases=cases)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
        nodes = [cluster.add_node(num_cpus=1, **NODE) for _ in range(2)]
        say(f"a Ray cluster at {cluster.address}: a head without processors and two nodes with one each")
        process = start(studies, output, "--cluster", cluster.address)
        wait_for(cases // 4, output, process)
        cluster.remove_node(nodes[0], allow_graceful=False)
        say("one node was killed (SIGKILL)")
        code = process.wait()
        say(f"exit code {code}")
        cluster.shutdown()
        plain = start(studies, Path(folder) / "plain")
        say(f"exit code {plain.wait()}")
        same = compare(facts(output), facts(Path(folder) / "plain"))
        half = len(list(output.rglob("*medseg-part*")))
        say(f"half-written files {half}")
    return 0 if same and code == 0 and not half else 1


if __name__ == "__main__":
    sys.exit(main())
