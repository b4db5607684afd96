"""The command `medseg bench`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.bench.inference import Job


def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="start, train, predict, all of these; latency; io, inference, metrics or node (minutes, beside "
            "their peers)."
        ),
    ] = "all",
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Runs of each; the median is printed. 5, with inference 3.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="With io: also 104 segments on 512 x 512 x 800 voxels.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="With inference and node: smaller sizes.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="With inference: network, volume, resampling, labels, case or start; with node: rate, memory, kills, "
            "flood, full or queued; repeatable."
        ),
    ] = None,
    nnunet_python: Annotated[
        Path | None, typer.Option(help="With inference: Python of an environment that has nnunetv2.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="With inference: threads of each tool.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")] = False,
) -> None:
    """Time this machine: the program's start, training, prediction; DICOM, inference and metrics beside their peers."""
    if what == "io":
        from medseg.bench.io import measure_io
        from medseg.bench.io_table import to_lines, to_rows

        figures = measure_io(repeats=repeats or 5, full=full)
        print(json.dumps(to_rows(figures), indent=2) if as_json else "\n".join(to_lines(figures)))
        return
    if what == "latency":
        from medseg.bench import latency

        found = latency.measure_latency(repeats=repeats or 5)
        print(json.dumps(found, indent=2) if as_json else "\n".join(latency.to_lines(found)))
        return
    if what == "metrics":
        from medseg.bench import metrics

        tools = metrics.measure_metrics(repeats=repeats or 5)
        print(json.dumps(metrics.to_rows(tools), indent=2) if as_json else "\n".join(metrics.to_lines(tools)))
        return
    if what == "inference":
        _bench_inference(
            repeats or 3, quick=quick, only=only or [], python=nnunet_python, threads=threads, as_json=as_json
        )
        return
    if what == "node":
        from medseg.bench import node

        counts = node.QUICK if quick else node.Counts()
        rows = list(node.measure_node(only or [], repeats=repeats or 3, counts=counts))
    else:
        from medseg.bench.program import bench as run_bench

        rows = run_bench(what, repeats=repeats or 5)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        spread = f"({row['low']:.3f} to {row['high']:.3f}, n={row['count']})"
        print(f"{row['name']:<44} {row['median']:>9.3f} {row['unit']:<9} {spread}")


def _bench_inference(
    repeats: int, *, quick: bool, only: list[str], python: Path | None, threads: int | None, as_json: bool
) -> None:
    from medseg.bench.inference import QUICK, InferenceBench, Sizes
    from medseg.bench.inference_sections import measure_inference
    from medseg.bench.inference_table import head, job_lines, to_json, tool_lines

    found = InferenceBench(
        sizes=QUICK if quick else Sizes(),
        repeats=repeats,
        threads=threads or len(os.sched_getaffinity(0)),
        nnunet_python=python,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    jobs: list[Job] = []
    with _ended_by_signals():
        try:
            if not as_json:
                print(head(found), flush=True)
            for job in measure_inference(found, only):
                jobs.append(job)
                if not as_json:
                    print("\n".join(job_lines(job)), flush=True)
        finally:
            # Of a run that is stopped or fails, what was measured before.
            if as_json:
                print(json.dumps(to_json(jobs), indent=2))
            if found.begun:
                lines = ["", "not finished:", *tool_lines(found.begun)]
                print("\n".join(lines), file=sys.stderr if as_json else sys.stdout, flush=True)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that it can tell what it has."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
