"""nnU-Net v2 and medseg trained for the same time on the same fold, one after the other; Dice against minutes of both.

    python benchmarks/nnunet.py [PIPELINE] --minutes 30 --fold 0

PIPELINE is a medseg pipeline whose manifest has a column `fold` (pipelines/hippocampus.yaml unless given). Run it on a
machine that does nothing else. In the folder --work it makes an environment for nnU-Net (pip install nnunetv2, two
minutes), nnU-Net's data folder (links, dataset.json, splits_final.json) and its preprocessed data, trains it with
nnunet_trainer.py, then runs medseg, and prints and writes both curves (curves.csv, comparison.json).

What is alike: cases, folds, minutes of training, threads. The masks of both are judged by medseg.evaluation against the
same files; each mean is over the held-out cases, a missed structure counts 0.

What is not: nnU-Net's clock starts at its first step and stops while weights are kept for the curve. medseg's clock
runs through its validations of the held-out cases, which give its curve and choose nothing (validation: tested,
keep: last).
Planning and preprocessing count for neither.

nnU-Net is stock but for its length (1000 epochs of 250 steps are weeks on two cores); its schedule ends with the time.
--nnunet-batch 2, the smallest that nnU-Net plans, gives it more and cheaper steps, which suits a small budget better.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nnunet_task import DATASET, ENDING, Task, folds_of, judged, make_raw_data, read_task

from medseg.data.tables import write_csv
from medseg.errors import MedsegError
from medseg.provenance import write_json

PROJECT = Path(__file__).resolve().parent.parent
# No release of torch beyond those that medseg is tested with.
PACKAGES = ("nnunetv2==2.8.1", "torch>=2.10,<2.14")
MEDSEG = (
    "data.split={{use: folds, fold: {fold}, validation: tested}}",
    "training.time={minutes}min",
    "training.keep=last",
)
VERSIONS = """
import importlib.metadata, json, platform
names = ("medseg", "nnunetv2", "torch", "monai", "numpy", "batchgeneratorsv2")
found = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version()} | {n: found[n] for n in names if n in found}))
"""


def train_nnunet(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """Plan, preprocess, train and predict with nnU-Net; rows of its curve and facts."""
    python = args.nnunet_python or make_environment(args.work / "nnunet-env")
    homes = {name: args.work / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, **{name: str(path) for name, path in homes.items()}}
    environment.pop("PYTHONPATH", None)
    make_raw_data(task, homes["nnUNet_raw"])
    preparing = preprocess(python, homes["nnUNet_preprocessed"] / DATASET, environment, threads=args.threads)
    write_json(homes["nnUNet_preprocessed"] / DATASET / "splits_final.json", folds_of(task))
    output = args.work / f"nnunet-fold{task.fold}-{args.minutes:g}min-batch{args.nnunet_batch or 'planned'}"
    output.mkdir(parents=True, exist_ok=True)
    say(
        f"nnU-Net: {args.minutes:g} minutes of training, then masks of {len(task.held_out)} cases; {output}/log.txt"
    )
    with (output / "log.txt").open("w") as log:
        command = [
            python,
            Path(__file__).with_name("nnunet_trainer.py"),
            *trainer_arguments(task, args, output),
        ]
        subprocess.run(command, env=environment, check=True, stdout=log, stderr=subprocess.STDOUT)
    facts: dict[str, Any] = json.loads((output / "facts.json").read_text())
    rows = [nnunet_row(task, point, end_s=60 * args.minutes) for point in facts.pop("curve")]
    return {"rows": rows, "preparing_s": preparing, "versions": versions(python), **facts}


def make_environment(folder: Path) -> Path:
    """Python of nnU-Net's environment, made where it is not there."""
    python = folder / "bin" / "python"
    works = python.exists() and subprocess.run([python, "-c", "import nnunetv2"], check=False).returncode == 0
    if not works:
        say(f"making {folder}: pip install {' '.join(PACKAGES)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def preprocess(python: Path, folder: Path, environment: Mapping[str, str], *, threads: int) -> float:
    """nnU-Net's fingerprint, plan and preprocessed cases, made where they are not there; seconds that it took."""
    begin = time.perf_counter()
    if not (folder / "nnUNetPlans_3d_fullres").is_dir():
        say(f"nnU-Net: fingerprint, plan, preprocessing; {folder.parent}/log.txt")
        folder.mkdir(parents=True, exist_ok=True)
        number = DATASET.removeprefix("Dataset").partition("_")[0]
        options = ["-d", number, "-c", "3d_fullres", "-npfp", str(threads), "-np", str(threads)]
        command = [python.with_name("nnUNetv2_plan_and_preprocess"), *options]
        with (folder.parent / "log.txt").open("w") as log:
            subprocess.run(command, env=environment, check=True, stdout=log, stderr=subprocess.STDOUT)
    return time.perf_counter() - begin


def trainer_arguments(task: Task, args: argparse.Namespace, output: Path) -> list[str]:
    """The command line of nnunet_trainer.py."""
    words = ["--dataset", DATASET, "--fold", str(task.fold), "--minutes", str(args.minutes)]
    words += ["--output", str(output), "--at", *map(str, args.at)]
    words += ["--batch-size", str(args.nnunet_batch)] if args.nnunet_batch else []
    return words + (["--without-mirroring"] if args.without_mirroring else [])


def nnunet_row(task: Task, point: Mapping[str, Any], *, end_s: float) -> dict[str, Any]:
    """A row of the curve from the masks of one moment."""
    masks = {case.case_id: Path(point["folder"]) / f"{case.case_id}{ENDING}" for case in task.held_out}
    note = "final" if point["mark_s"] == end_s else ""
    row = {"tool": "nnU-Net", "minutes": point["seconds"] / 60, "steps": point["steps"]}
    return row | {"note": f"{note}, mirrored" if point["mirroring"] else note, **judged(task, masks)}


def train_medseg(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """Run the pipeline on the fold; rows of its curve and facts."""
    sets = [text.format(fold=task.fold, minutes=f"{args.minutes:g}") for text in args.medseg_set]
    command = [sys.executable, "-m", "medseg", "run", str(task.pipeline), "--json"]
    command += ["--output", str(args.work / "medseg"), *(word for text in sets for word in ("--set", text))]
    say(f"medseg: {args.minutes:g} minutes of training, then masks of {len(task.held_out)} cases")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    # 1: some case failed, 5: below a demand of the pipeline; the curve stands all the same.
    if done.returncode not in (0, 1, 5):
        raise SystemExit(f"medseg run ended with exit code {done.returncode}")
    run = Path(json.loads(done.stdout)["run"])
    summary = json.loads((run / "run.json").read_text())["stages"]["train"]["summary"]
    history = next(run.rglob("metrics.csv"))
    rows = medseg_rows(task, history, updates=summary["updates"])
    masks = {case.case_id: run / "cases" / case.case_id / f"segmentation{ENDING}" for case in task.held_out}
    final = {
        "tool": "medseg",
        "minutes": summary["seconds"] / 60,
        "steps": summary["updates"],
        "note": "final",
    }
    facts = {name: value for name, value in summary.items() if isinstance(value, str | int | float)}
    return {
        "rows": [*rows, final | judged(task, masks)],
        "settings": sets,
        "versions": versions(Path(sys.executable)),
        **facts,
    }


def medseg_rows(task: Task, history: Path, *, updates: int) -> list[dict[str, Any]]:
    """Rows of the curve from the validations within the training."""
    with history.open(newline="") as stream:
        epochs = list(csv.DictReader(stream))
    rows = []
    for epoch in epochs:
        if not epoch.get("dice"):
            continue
        dice = {name: float(epoch[f"dice_{name}"]) for name in task.structures}
        row = {"tool": "medseg", "minutes": float(epoch["seconds"]) / 60}
        row["steps"] = round(updates * float(epoch["epoch"]) / float(epochs[-1]["epoch"]))
        rows.append(row | {"note": "", **dice, "mean": sum(dice.values()) / len(dice)})
    return rows


def versions(python: Path) -> dict[str, str]:
    """Versions of what counts in an environment."""
    done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def machine() -> dict[str, Any]:
    """What the times depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = round(os.getloadavg()[0], 2)
    return {"processor": (names or [platform.processor()])[0], "cores": cores(), "load_before": load}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def table(rows: Sequence[Mapping[str, Any]], structures: Sequence[str]) -> str:
    """The curves as text."""
    names = (*structures, "mean")
    width = max(10, *map(len, names))
    lines = ["  ".join([" " * 8, "minutes", "  steps", *(name.rjust(width) for name in names)])]
    for row in rows:
        words = [row["tool"].ljust(8), f"{row['minutes']:7.2f}", f"{row['steps']:7d}"]
        words += [*(f"{row[name]:{width}.4f}" for name in names), row["note"]]
        lines.append("  ".join(words).rstrip())
    return "\n".join(lines)


def say(text: str) -> None:
    """A line for a person, at once."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("pipeline", type=Path, nargs="?", default=PROJECT / "pipelines" / "hippocampus.yaml")
    add("--minutes", type=float, default=30.0, help="training of each program")
    add("--fold", type=int, default=0, help="the fold that is held out")
    add("--at", type=float, nargs="*", help="minutes of nnU-Net's curve; sixths unless given")
    add("--only", choices=("nnunet", "medseg"), help="one of the two")
    add("--nnunet-batch", type=int, help="batch size of nnU-Net instead of the planned one")
    add(
        "--without-mirroring",
        action="store_true",
        help="no last row with nnU-Net's averaging over mirrored views",
    )
    add("--nnunet-python", type=Path, help="an environment with nnU-Net, instead of making one")
    text = "instead of those for fold and time; {fold} and {minutes} are replaced"
    add("--medseg-set", action="append", metavar="KEY=VALUE", help=f"settings of medseg, {text}")
    add("--threads", type=int, default=cores(), help="of either program")
    add("--work", type=Path, default=PROJECT / ".work" / "nnunet", help="folder for everything")
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.at = args.at if args.at is not None else [args.minutes * n / 6 for n in range(1, 6)]
    args.medseg_set = args.medseg_set or list(MEDSEG)
    return args


def main() -> None:
    """Run both, print and write the curves."""
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    try:
        task = read_task(args.pipeline, args.fold)
        args.work.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "machine": machine()}
        facts |= {"pipeline": args.pipeline.name, "fold": args.fold, "minutes": args.minutes}
        facts["cases"] = {"train": len(task.cases) - len(task.held_out), "held_out": len(task.held_out)}
        if args.only != "medseg":
            facts["nnunet"] = train_nnunet(task, args)
        if args.only != "nnunet":
            facts["medseg"] = train_medseg(task, args)
    except MedsegError as err:
        raise SystemExit(f"error: {err}") from err
    rows = [row for name in ("nnunet", "medseg") if name in facts for row in facts[name]["rows"]]
    write_json(args.work / "comparison.json", facts)
    write_csv(args.work / "curves.csv", [{n: v for n, v in row.items() if n != "cases"} for row in rows])
    print(
        f"\n{table(rows, task.structures)}\n\nmeans of {len(task.held_out)} held-out cases; {args.work}/curves.csv"
    )


if __name__ == "__main__":
    main()
