"""Markdown table of several stress tests side by side: mean of the first metric at the highest severity, and mean fall.

python benchmarks/robustness_table.py STRUCTURE NAME=RUN/stress/stress.json ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def cell(record: dict[str, Any], test: str | None, structure: str) -> str:
    """Mean with its interval at the highest severity and the mean fall; of no test, the mean of the clean images."""
    metric = record["metrics"][0]
    if test is None:
        found = record["clean"]["structures"][structure][metric]
        fall = ""
    else:
        entry = next(t for t in record["tests"] if t["name"] == test)
        found = entry["severities"][-1]["structures"][structure][metric]
        fall = f", fall {entry['effect'][structure][metric]:.3f}"
    low, high = found["interval"] or (float("nan"), float("nan"))
    return f"{found['mean']:.3f} ({low:.3f} to {high:.3f}){fall}"


def main() -> None:
    """Print the table, the test that does the most harm to the first model first."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    structure = sys.argv[1]
    records = {}
    for argument in sys.argv[2:]:
        name, _, path = argument.partition("=")
        records[name] = json.loads(Path(path).read_text(encoding="utf-8"))
    first = next(iter(records.values()))
    tests: list[str | None] = [None, *(t["name"] for t in first["tests"])]
    print("| test |" + "".join(f" {name} |" for name in records))
    print("|---|" + "---|" * len(records))
    for test in tests:
        print(
            f"| {test or 'unchanged'} |" + "".join(f" {cell(r, test, structure)} |" for r in records.values())
        )


if __name__ == "__main__":
    main()
