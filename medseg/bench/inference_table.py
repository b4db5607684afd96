"""The figures of `medseg bench inference` as a table, with ratios and whether each target is reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from medseg.bench.inference import InferenceBench, Job, Measured

FORWARD_3D, FORWARD_2D, LIMIT_SHARE = 1.2, 1.4, 0.75
VOLUME, CASE, START_S = 0.5, 0.4, 5.0
RESAMPLING, RESAMPLING_DIFFERENCE = 8.0, 1e-5
LABELS, LABELS_MEMORY, LABELS_EQUAL = 8.0, 0.25, 0.99999
DICE_DIFFERENCE = 0.001
SAME_WINDOWS, FASTEST = "medseg, overlap 0.5, logits", "medseg, windows fitted, engine auto"
AS_NNUNET = "medseg, sums as nnU-Net"
MONAI, NNUNET = "MONAI, overlap 0.5", "nnU-Net, step 0.5"
"""Of the section volume: with windows and averages of MONAI and of nnU-Net, as fast as it gets, and these two."""


def to_json(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Every job with its tools as plain JSON values."""
    return [
        {
            "section": job.section,
            "name": job.name,
            "facts": job.facts,
            "tools": [tool.to_json() for tool in job.tools],
            "targets": [line.strip() for line in _targets(job)],
        }
        for job in jobs
    ]


def to_lines(bench: InferenceBench, jobs: Sequence[Job]) -> Iterator[str]:
    """The table to print."""
    yield head(bench)
    for job in jobs:
        yield from job_lines(job)


def head(bench: InferenceBench) -> str:
    """What holds for all figures."""
    return (
        f"{bench.threads} threads; medians of {bench.repeats}, each in a process of its own; imports not counted but "
        "where the whole program is; MB are 10^6 bytes"
    )


def job_lines(job: Job) -> Iterator[str]:
    """The tools of a job and its targets."""
    yield ""
    yield f"{job.section}: {job.name}"
    yield from tool_lines(job.tools)
    yield from _targets(job)


def tool_lines(tools: Sequence[Measured]) -> Iterator[str]:
    """A line for each tool."""
    yield f"  {'':<38} {'seconds':>9} {'low':>8} {'high':>8} {'n':>3} {'peak MB':>8}  this / first"
    for tool in tools:
        yield _line(tool, tools[0])


def _line(tool: Measured, first: Measured) -> str:
    if tool.median_s is None:
        return f"  {tool.tool:<38} {tool.failed or 'no figure'}"
    peak = f"{median(tool.peak_mb):8.0f}" if tool.peak_mb else f"{'?':>8}"
    ratio = f"{tool.median_s / first.median_s:6.2f} x" if first.median_s else ""
    low, high, count = min(tool.seconds), max(tool.seconds), len(tool.seconds)
    figures = f"{tool.median_s:9.3f} {low:8.3f} {high:8.3f} {count:3d} {peak}  {ratio}"
    return f"  {tool.tool:<38} {figures}{_more(tool)}"


def _more(tool: Measured) -> str:
    """What else is worth a word."""
    said = []
    if "share_of_limit" in tool.facts:
        said.append(f"{tool.facts['gflops']:.0f} GFLOP/s, {tool.facts['share_of_limit']:.0%} of the limit")
    if tool.facts.get("engine"):
        said.append(f"engine {tool.facts['engine']}, settled in {tool.facts['settled_s']:.0f} s")
    if tool.facts.get("windows"):
        shown = tool.facts["windows"]
        size = " x ".join(map(str, tool.facts["window"]))
        said.append(f"{shown['shown']} windows of {size} shown, {shown['reused'] + shown['outside']} not")
    if tool.facts.get("with_truth") is not None:
        said.append(f"Dice with what was drawn {tool.facts['with_truth']:.4f}")
    if tool.facts.get("with_same_windows"):
        said.append(f"with {tool.facts['like']} {tool.facts['with_same_windows']['dice']:.5f}")
    return f"  ({'; '.join(said)})" if said else ""


def _targets(job: Job) -> Iterator[str]:
    yield from {
        "network": _network,
        "volume": _volume,
        "resampling": _resampling,
        "labels": _labels,
        "case": _case,
        "start": _start,
    }[job.section](job)


def _target(what: str, found: float | None, reached: bool | None, form: str = "{:.2f} x") -> str:
    if found is None:
        return f"  target: {what}: no figure"
    return f"  target: {what}: {form.format(found)}, {'reached' if reached else 'MISSED'}"


def _ratio(job: Job, slow: str, fast: str) -> float | None:
    """How many times as long one tool takes as another."""
    tools = job.tool(slow), job.tool(fast)
    times = [tool.median_s for tool in tools if tool is not None and tool.median_s]
    return times[0] / times[1] if len(times) == 2 else None


def _network(job: Job) -> Iterator[str]:
    limit = job.facts.get("limit_gflops")
    if limit:
        yield f"  fastest convolution of this run: {limit:.0f} GFLOP/s; a window: {job.facts['gflop']:.1f} GFLOP"
    wanted, first = FORWARD_3D if job.name.startswith("3") else FORWARD_2D, job.tools[0].tool
    found = _ratio(job, "torch, stock form", first)
    yield _target(
        f"default at least {wanted:g} x the stock form", found, found is not None and found >= wanted
    )
    share = job.tools[0].facts.get("share_of_limit")
    yield _target(
        f"default at {LIMIT_SHARE:.0%} of the fastest convolution or more",
        share,
        share is not None and share >= LIMIT_SHARE,
        "{:.0%}",
    )


def _volume(job: Job) -> Iterator[str]:
    yield f"  network: {job.facts['training']}; {job.facts['air']:.0%} of the volume are air"
    for tool in job.tools:
        yield from (f"  {tool.tool}: {trial}" for trial in tool.facts.get("tried", ()))
    for peer in (MONAI, NNUNET):
        found = _ratio(job, FASTEST, peer)
        yield _target(
            f"{FASTEST} in at most {VOLUME:g} x the time of {peer}",
            found,
            found is not None and found <= VOLUME,
        )
        ours, theirs = (
            tool.facts.get("with_truth") if tool else None for tool in map(job.tool, (FASTEST, peer))
        )
        gain = None if ours is None or theirs is None else ours - theirs
        yield _target(
            f"its Dice with what was drawn not more than {DICE_DIFFERENCE:g} below that of {peer}",
            gain,
            gain is not None and gain >= -DICE_DIFFERENCE,
            "{:+.4f}",
        )
        found_by = job.tool(peer)
        same = None if found_by is None else found_by.facts.get("with_same_windows")
        apart = None if not same else 1 - same["dice"]
        yield _target(
            f"masks of the same windows within {DICE_DIFFERENCE:g} Dice of {peer}",
            apart,
            apart is not None and apart <= DICE_DIFFERENCE,
            "{:.5f} apart",
        )


def _resampling(job: Job) -> Iterator[str]:
    found = _ratio(job, "nnU-Net", "medseg")
    yield _target(f"{RESAMPLING:g} x as fast", found, found is not None and found >= RESAMPLING)
    apart = job.facts.get("largest_difference")
    yield _target(
        f"equal within {RESAMPLING_DIFFERENCE:g}",
        apart,
        apart is not None and apart <= RESAMPLING_DIFFERENCE,
        "{:.1e}",
    )


def _labels(job: Job) -> Iterator[str]:
    found = _ratio(job, "nnU-Net", "medseg")
    yield _target(f"{LABELS:g} x as fast", found, found is not None and found >= LABELS)
    ours, theirs = (job.tool(name) for name in ("medseg", "nnU-Net"))
    share = (
        median(ours.peak_mb) / median(theirs.peak_mb)
        if ours and theirs and ours.peak_mb and theirs.peak_mb
        else None
    )
    yield _target(
        f"at most {LABELS_MEMORY:g} x the memory", share, share is not None and share <= LABELS_MEMORY
    )
    equal = job.facts.get("equal")
    yield _target(
        f"{LABELS_EQUAL:.3%} of voxels equal", equal, equal is not None and equal >= LABELS_EQUAL, "{:.5%}"
    )


def _case(job: Job) -> Iterator[str]:
    found = _ratio(job, "medseg predict", "nnUNetv2_predict")
    yield _target(f"at most {CASE:g} x the time of nnU-Net", found, found is not None and found <= CASE)
    if "equal" in job.facts:
        yield f"  masks: {job.facts['equal']:.4%} of voxels equal, Dice {job.facts['dice']:.5f}"


def _start(job: Job) -> Iterator[str]:
    found = job.tools[0].median_s
    yield _target(
        f"first result in less than {START_S:g} s", found, found is not None and found < START_S, "{:.2f} s"
    )
