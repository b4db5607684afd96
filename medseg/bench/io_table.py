"""The figures of `medseg bench io` as a table, with the ratios and whether each target is reached."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from medseg.bench.io import ARRAY_MB, MANY_SEGMENTS, SEGMENTS, SLICES, TALL_SLICES, IoFigures, Measured

#: Factors that reading compressed series and SEG, and writing SEG, should reach over the best peer.
COMPRESSED_FACTOR, SEG_WRITE_FACTOR, SEG_READ_FACTOR = 1.8, 4.0, 3.0
MEMORY_FACTOR, SEG_MEMORY_MB, MANY_SEGMENTS_MB = 1.3, 300.0, 2000.0


def to_rows(figures: IoFigures) -> list[dict[str, Any]]:
    """Each figure as a row for machines: job, tool, medians, or why there is none."""
    jobs = [(f"read {name}", tools) for name, tools in figures.reading.items()]
    jobs += [
        (f"write SEG, {SEGMENTS} segments", figures.seg_writing),
        (f"read SEG, {SEGMENTS} segments", figures.seg_reading),
    ]
    if figures.many_segments is not None:
        jobs.append((f"write SEG, {MANY_SEGMENTS} segments", [figures.many_segments]))
    return [_row(job, tool) for job, tools in jobs for tool in tools]


def _row(job: str, tool: Measured) -> dict[str, Any]:
    if tool.failed or not tool.seconds:
        return {"job": job, "tool": tool.name, "failed": tool.failed or "no figure"}
    return {
        "job": job,
        "tool": tool.name,
        "seconds": median(tool.seconds),
        "low": min(tool.seconds),
        "high": max(tool.seconds),
        "cpu_seconds": median(tool.cpu),
        "peak_mb": median(tool.peak_mb) if tool.peak_mb else None,
        "count": len(tool.seconds),
    }


def to_lines(figures: IoFigures) -> Iterator[str]:
    """The table to print."""
    yield (
        f"512 x 512 x {SLICES} CT, 16 bit; {figures.processors} processors; medians of {figures.repeats}; "
        "in process, imports not counted; MB are 10^6 bytes above the imports"
    )
    yield "files: " + ", ".join(f"{name} {size:.1f} MB" for name, size in figures.sizes_mb.items())
    for name, tools in figures.reading.items():
        yield from _job(f"read {name}", tools)
        yield from _reading_targets(name, tools, figures.processors)
    yield from _job(f"write SEG, {SEGMENTS} segments", figures.seg_writing)
    yield from _factor_target("written", figures.seg_writing, SEG_WRITE_FACTOR)
    yield _limit_target("peak above the label map", _best(figures.seg_writing, "medseg"), SEG_MEMORY_MB)
    yield _size_target(figures.sizes_mb)
    yield from _job(f"read SEG, {SEGMENTS} segments", figures.seg_reading)
    yield from _factor_target("read back", figures.seg_reading, SEG_READ_FACTOR)
    if figures.many_segments is not None:
        yield from _job(
            f"write SEG, {MANY_SEGMENTS} segments on 512 x 512 x {TALL_SLICES}", [figures.many_segments]
        )
        yield _whole_process_target(figures.many_segments)


def _job(title: str, tools: list[Measured]) -> Iterator[str]:
    yield ""
    yield f"{title:<40} {'seconds':>9} {'low':>7} {'high':>7} {'CPU s':>7} {'peak MB':>8}  this / medseg"
    ours = _best(tools, "medseg")
    for tool in tools:
        if tool.failed or not tool.seconds:
            yield f"  {tool.name:<38} {tool.failed or 'no figure'}"
            continue
        peak = f"{median(tool.peak_mb):8.0f}" if tool.peak_mb else f"{'?':>8}"
        ratio = f"{median(tool.seconds) / ours.wall:6.2f} x" if ours is not None else ""
        yield (
            f"  {tool.name:<38} {median(tool.seconds):9.3f} {min(tool.seconds):7.3f} {max(tool.seconds):7.3f} "
            f"{median(tool.cpu):7.2f} {peak}  {ratio}"
        )
    words = {word for tool in tools if not tool.name.startswith("dcm2niix") for word in tool.checks}
    if len(words) > 1 and not title.startswith("write"):
        yield f"  the results differ: {sorted(words)}"


class _Best:
    """Medians of one tool."""

    def __init__(self, tool: Measured) -> None:
        self.name, self.wall, self.cpu = tool.name, median(tool.seconds), median(tool.cpu)
        self.peak = median(tool.peak_mb) if tool.peak_mb else None

    @property
    def on_one_core(self) -> float:
        """Seconds that it would take on one processor, whatever threads it has."""
        return max(self.wall, self.cpu)


def _best(tools: list[Measured], name: str) -> _Best | None:
    return next((_Best(t) for t in tools if t.name == name and t.seconds and not t.failed), None)


def _peers(tools: list[Measured]) -> list[_Best]:
    return [_Best(t) for t in tools if t.seconds and not t.failed and not t.name.startswith("medseg")]


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


def _reading_targets(name: str, tools: list[Measured], processors: int) -> Iterator[str]:
    ours, peers = _best(tools, "medseg"), _peers(tools)
    if ours is None or not peers:
        yield "  target: no figure"
        return
    if name == "uncompressed":
        fastest = min(peers, key=lambda peer: peer.wall)
        factor = fastest.wall / ours.wall
        yield (
            f"  target: at least as fast as the fastest ({fastest.name}): {factor:.2f} x, {_verdict(factor >= 1)}"
        )
    else:
        fastest = min(peers, key=lambda peer: peer.on_one_core)
        factor = fastest.on_one_core / ours.wall
        two = "" if processors > 1 else " (one processor here: the target is for two)"
        yield (
            f"  target: {COMPRESSED_FACTOR} x the fastest on one core ({fastest.name}, {fastest.on_one_core:.2f} s): "
            f"{factor:.2f} x, {_verdict(factor >= COMPRESSED_FACTOR)}{two}"
        )
    if ours.peak is not None:
        share = ours.peak / ARRAY_MB
        yield (
            f"  target: peak at most {MEMORY_FACTOR} x the array ({ARRAY_MB:.0f} MB): {share:.2f} x, "
            f"{_verdict(share <= MEMORY_FACTOR)}"
        )


def _factor_target(what: str, tools: list[Measured], factor: float) -> Iterator[str]:
    ours, peer = _best(tools, "medseg"), _best(tools, "highdicom")
    if ours is None or peer is None:
        yield "  target: no figure"
        return
    found = peer.wall / ours.wall
    yield f"  target: {what} {factor:g} x faster than highdicom: {found:.2f} x, {_verdict(found >= factor)}"


def _limit_target(what: str, ours: _Best | None, limit_mb: float) -> str:
    if ours is None or ours.peak is None:
        return f"  target: {what} at most {limit_mb:.0f} MB: no figure"
    return (
        f"  target: {what} at most {limit_mb:.0f} MB: {ours.peak:.0f} MB, {_verdict(ours.peak <= limit_mb)}"
    )


def _size_target(sizes_mb: dict[str, float]) -> str:
    ours, peer = sizes_mb.get("SEG medseg"), sizes_mb.get("SEG highdicom")
    if ours is None or peer is None:
        return "  target: file not larger than highdicom's: no figure"
    return (
        f"  target: file not larger than highdicom's: {ours:.2f} and {peer:.2f} MB, {_verdict(ours <= peer)}"
    )


def _whole_process_target(tool: Measured) -> str:
    """Peak of the whole process, label map and imports included."""
    what = f"  target: less than {MANY_SEGMENTS_MB:.0f} MB in all"
    if not tool.process_mb:
        return f"{what}: no figure"
    peak = median(tool.process_mb)
    return f"{what}: {peak:.0f} MB, {_verdict(peak < MANY_SEGMENTS_MB)}"
