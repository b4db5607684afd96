"""Time against Dice by the overlap of windows: what the default of `inference.overlap` rests on.

    python benchmarks/overlap.py BUNDLE IMAGES LABELS [--cases N] [--overlap 0 .125 .25 .375 .5 .75] [--window I J K]
        [--fitted]

BUNDLE is a trained bundle, IMAGES and LABELS are folders with files of the same names. Every case is predicted with
each overlap in turn; the table gives windows, seconds and mean Dice over cases and structures with the 95 % interval of
the difference to the largest overlap (bootstrap over cases). A --window smaller than the one of the training gives
images that fit into one window something to overlap. --fitted adds a row for each overlap with windows: fitted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OVERLAPS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75)
DRAWS = 2000
Way = tuple[float, str]
"""Overlap, and `set` or `fitted` windows."""


def scores(label_map: NDArray[Any], truth: NDArray[Any], classes: int) -> list[float]:
    """Dice of each class; 1 where it is in neither, as a missing structure that was not found is right."""
    found = []
    for index in range(1, classes):
        a, b = label_map == index, truth == index
        total = int(a.sum() + b.sum())
        found.append(2 * int((a & b).sum()) / total if total else 1.0)
    return found


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Predict every case with every overlap; one row for each."""
    import torch

    from medseg.data.encoding import encode_mask
    from medseg.io.read import read_image, read_label
    from medseg.models.bundle import read_bundle
    from medseg.pipeline.model import LoadedModel

    torch.set_num_threads(args.threads)
    bundle = read_bundle(str(args.bundle))
    base = LoadedModel(bundle).predictor.options
    changes = {"tta": "none"} | ({} if args.window is None else {"window": tuple(args.window)})
    ways = [(overlap, windows) for windows in _windows(args) for overlap in args.overlap]
    models = {
        way: LoadedModel(
            bundle, inference=base.model_copy(update={"overlap": way[0], "windows": way[1]} | changes)
        )
        for way in ways
    }
    table = models[ways[0]].table
    dice: dict[Way, list[float]] = {way: [] for way in ways}
    seconds, windows = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
    for number, image in enumerate(sorted(args.images.glob("*.nii.gz"))[:: args.every][: args.cases]):
        volume = read_image([image])
        label = read_label(args.labels / image.name, volume)
        truth = encode_mask(label, scheme=None, like=volume, table=table)[0]
        # Begun elsewhere for every case, so that a slow minute of the machine does not hit the same one.
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            begin = time.perf_counter()
            found = models[way].predictor.predict(volume)
            seconds[way] += time.perf_counter() - begin
            windows[way] += sum(found.windows.values())
            dice[way].append(float(np.mean(scores(found.label_map, truth, table.class_count))))
    best = np.asarray(dice[max(args.overlap), "set"])
    return [row(way, np.asarray(dice[way]), best, seconds[way], windows[way]) for way in ways]


def _windows(args: argparse.Namespace) -> tuple[str, ...]:
    return ("set", "fitted") if args.fitted else ("set",)


def row(
    way: Way, dice: NDArray[np.float64], best: NDArray[np.float64], seconds: float, windows: int
) -> dict[str, Any]:
    """Figures of one way; the interval is that of the mean difference to the largest overlap."""
    rng, difference = np.random.default_rng(0), dice - best
    means = rng.choice(difference, (DRAWS, len(difference))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "overlap": way[0],
        "windows": way[1],
        "windows_per_case": windows / len(dice),
        "cases": len(dice),
        "seconds_per_case": seconds / len(dice),
        "dice": float(dice.mean()),
        "difference": float(difference.mean()),
        "low": float(low),
        "high": float(high),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="Take every so many-th case of the folder.")
    parser.add_argument("--overlap", type=float, nargs="+", default=list(OVERLAPS))
    parser.add_argument("--window", type=int, nargs="+")
    parser.add_argument("--fitted", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{len(rows)} ways, Dice of {rows[0]['cases']} cases")
    print(
        f"{'overlap':>8} {'':>7} {'windows':>8} {'s/case':>8} {'Dice':>8}  difference to the largest overlap, as set"
    )
    for found in rows:
        cost = f"{found['windows_per_case']:8.1f} {found['seconds_per_case']:8.3f}"
        difference = f"{found['difference']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
        print(f"{found['overlap']:8.3f} {found['windows']:>7} {cost} {found['dice']:8.4f}  {difference}")


if __name__ == "__main__":
    main()
