"""Time against Dice by the overlap of windows: what the default of `inference.overlap` rests on.

    python benchmarks/overlap.py BUNDLE IMAGES LABELS [--cases N] [--overlap 0 .125 .25 .375 .5 .75] [--window I J K]

BUNDLE is a trained bundle, IMAGES and LABELS are folders with files of the same names. Every case is predicted with
each overlap in turn; the table gives windows, seconds and mean Dice over cases and structures with the 95 % interval of
the difference to the largest overlap (bootstrap over cases). A --window smaller than the one of the training gives
images that fit into one window something to overlap.
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


def scores(label_map: NDArray[Any], truth: NDArray[Any], classes: int) -> list[float]:
    """Dice of each class; 1 where it is in neither, as a missing structure that was not found is right."""
    found = []
    for index in range(1, classes):
        a, b = label_map == index, truth == index
        total = int(a.sum() + b.sum())
        found.append(2 * int((a & b).sum()) / total if total else 1.0)
    return found


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Predict every case with every overlap; one row for each overlap."""
    import torch

    from medseg.data.encoding import encode_mask
    from medseg.io.read import read_image, read_label
    from medseg.models.bundle import read_bundle
    from medseg.pipeline.model import LoadedModel

    torch.set_num_threads(args.threads)
    model = LoadedModel(read_bundle(str(args.bundle)))
    base, table = model.predictor.options, model.table
    changes = {} if args.window is None else {"window": tuple(args.window)}
    dice: dict[float, list[float]] = {overlap: [] for overlap in args.overlap}
    seconds, windows = dict.fromkeys(args.overlap, 0.0), dict.fromkeys(args.overlap, 0)
    for image in sorted(args.images.glob("*.nii.gz"))[:: args.every][: args.cases]:
        volume = read_image([image])
        truth = encode_mask(
            read_label(args.labels / image.name, volume), scheme=None, like=volume, table=table
        )[0]
        for overlap in args.overlap:
            model.predictor.options = base.model_copy(update={"overlap": overlap, "tta": "none"} | changes)
            begin = time.perf_counter()
            found = model.predictor.predict(volume)
            seconds[overlap] += time.perf_counter() - begin
            windows[overlap] += sum(found.windows.values())
            dice[overlap].append(float(np.mean(scores(found.label_map, truth, table.class_count))))
    best = np.asarray(dice[max(args.overlap)])
    return [row(o, np.asarray(dice[o]), best, seconds[o], windows[o]) for o in args.overlap]


def row(
    overlap: float, dice: NDArray[np.float64], best: NDArray[np.float64], seconds: float, windows: int
) -> dict[str, Any]:
    """Figures of one overlap; the interval is that of the mean difference to the largest overlap."""
    rng, difference = np.random.default_rng(0), dice - best
    means = rng.choice(difference, (DRAWS, len(difference))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "overlap": overlap,
        "windows_per_case": windows / len(dice),
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'overlap':>8} {'windows':>8} {'s/case':>8} {'Dice':>8}  difference to the largest overlap")
    for found in rows:
        print(
            f"{found['overlap']:8.3f} {found['windows_per_case']:8.1f} {found['seconds_per_case']:8.3f} "
            f"{found['dice']:8.4f}  {found['difference']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
        )


if __name__ == "__main__":
    main()
