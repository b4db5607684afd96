"""A search as a user runs it: eight trials, kills, Ctrl-C, two runs on one study."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="searches need the extra search")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PIPELINE = """medseg: 1
name: searched
data:
  source: {use: phantom, cases: 8, seed: 7}
  split: {use: holdout, training: 0.5, validation: 0.25, test: 0.25}
labels: {lung_right: {value: 1, side: right, pair: lung_left}, lung_left: {value: 2, side: left, pair: lung_right}}
regions: {lung: [lung_right, lung_left]}
preprocess: [{use: gray}, {use: normalise}, {use: resize, size: [48, 32], keep_aspect: true}]
model: {use: unet, channels: [8, 16], norm: batch}
training: {epochs: 4, batch_size: 2, learning_rate: 1e-3}
search:
  trials: 8
  metric: dice_lung
  pruner: {use: median, startup_trials: 2, warmup_epochs: 1}
  space:
    training.learning_rate: {low: 1e-4, high: 3e-2, log: true}
    training.loss: {choices: [dice_ce, {use: tversky, alpha: 0.3, beta: 0.7}]}
    model.channels: {choices: [[8, 16], [4, 8, 16]]}
    augment: {choices: [[], [{use: rotate, degrees: 8}]]}
export: [nifti]
compute: {device: cpu, threads: 1, workers: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("search")
    (home / "searched.yaml").write_text(PIPELINE)
    return home


def start(folder, output, *settings, until="search", file="searched.yaml"):
    sets = [part for setting in settings for part in ("--set", setting)]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "medseg", "run", str(folder / file), "--json"),
            *("--output", str(folder / output), *sets, *(("--until", until) if until else ())),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return Path(json.loads(out)["run"])


def table(run):
    """What the trials came to, without times."""
    trials = json.loads((run / "search" / "search.json").read_text())["trials"]
    timed = ("seconds", "training_seconds")
    return [
        {
            k: {n: x for n, x in v.items() if n not in timed} if k == "facts" else v
            for k, v in t.items()
            if k not in timed
        }
        for t in trials
    ]


@pytest.fixture(scope="module")
def whole(folder):
    return ended(start(folder, "whole", until=None))


def test_eight_trials_and_the_best_is_trained(whole):
    rows = table(whole)
    assert len(rows) == 8
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    stages = json.loads((whole / "run.json").read_text())["stages"]
    summary = stages["search"]["summary"]
    assert summary["best_value"] == max(row["value"] for row in rows if row["state"] == "complete")
    assert stages["train"]["summary"]["weights_sha256"] == summary["best_weights_sha256"]
    page = (whole / "report.html").read_text()
    assert "Search for settings" in page
    assert "Search for settings" in (whole / "search" / "search.html").read_text()
    assert (whole / "search" / "trials.csv").read_text().count("\n") == 9
    weights = {path.parts[-3] for path in (whole / "search" / "trials").rglob("*.safetensors")}
    assert weights == {str(summary["best_trial"])}


def test_best_yaml_runs_as_it_is_from_anywhere_and_gives_the_same_weights(whole, folder):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "best.yaml").write_text((whole / "search" / "best.yaml").read_text())
    run = ended(start(folder, "best", until="train", file="elsewhere/best.yaml"))
    weights = [
        json.loads((path / "run.json").read_text())["stages"]["train"]["summary"]["weights_sha256"]
        for path in (whole, run)
    ]
    assert weights[0] == weights[1]


def test_kills_change_nothing(whole, folder, record_property):
    seed = random.randrange(1 << 30)
    record_property("seed of the kills", seed)
    moments = random.Random(seed)
    for _ in range(3):
        process = start(folder, "killed")
        time.sleep(moments.uniform(3, 12))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert table(ended(start(folder, "killed"))) == table(whole), f"seed of the kills: {seed}"


def test_ctrl_c_is_clean_and_the_same_command_goes_on(whole, folder):
    process = start(folder, "stopped", "search.parallel=2", "training.epochs=30", "search.trials=3")
    waiting = time.monotonic() + 120
    while time.monotonic() < waiting and not list(
        folder.glob("stopped/*/*/search/trials/*/training/state-*")
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    run = ended(start(folder, "stopped", "search.parallel=2", "training.epochs=30", "search.trials=3"))
    assert len(table(run)) == 3


def test_two_runs_share_a_study(folder):
    settings = (f"search.storage={folder / 'shared.db'}", "search.trials=6", "search.then=stop")
    both = [start(folder, name, *settings) for name in ("one", "two")]
    runs = [ended(process) for process in both]
    trials = [table(run) for run in runs]
    assert trials[0] == trials[1]
    assert 6 <= len(trials[0]) <= 7
    assert all(row["state"] in ("complete", "pruned") for row in trials[0])
    own = [
        {path.name for path in (run / "search" / "trials").glob("*") if path.name.isdigit()} for run in runs
    ]
    assert not own[0] & own[1]
    assert own[0]
    assert own[1]
