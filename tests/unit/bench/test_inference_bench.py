"""`medseg bench inference`: children that fail, the table, sections one by one; sizes of a second or two."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg.bench import inference_sections, nnunet_plans
from medseg.bench.anatomy import CLASSES, draw_anatomy
from medseg.bench.children import run_program
from medseg.bench.inference import QUICK, InferenceBench, Job, Measured, Sizes, mean_dice, network_folder
from medseg.bench.inference_sections import SECTIONS, measure_inference
from medseg.bench.inference_table import to_json, to_lines
from medseg.bench.inference_tasks import build, network_of, opened
from medseg.bench.trained import nnunet_names
from medseg.errors import ConfigError, MissingPackageError

TINY = Sizes(
    window=(16, 16, 16),
    flat_window=(32, 32),
    volume=(20, 24, 28),
    source=(24, 30, 22),
    prepared=(16, 20, 15),
    classes=4,
    case=(18, 20, 16),
    training_steps=2,
)


def bench(**options) -> InferenceBench:
    return InferenceBench(**{"sizes": TINY, "repeats": 1, "threads": 1} | options)


def test_a_program_is_watched_and_its_end_is_told():
    ended = run_program([sys.executable, "-c", "print('{\"seconds\": 2}')"], longest_s=30)
    assert ended.found() == {"seconds": 2}
    assert 0 < ended.seconds < 30
    assert ended.peak_mb > 1
    failed = run_program([sys.executable, "-c", "raise SystemExit('no such thing')"], longest_s=30)
    assert failed.found() == {"failed": "no such thing"}
    late = run_program([sys.executable, "-c", "import time; time.sleep(60)"], longest_s=0.3)
    assert late.failed == "took longer than 0 s"


def test_a_child_does_not_outlive_a_run_that_is_stopped(monkeypatch):
    seen = []

    def stopped(process, until):
        seen.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.bench.children._waited", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_program([sys.executable, "-c", "import time; time.sleep(60)"], longest_s=60)
    assert seen[0].returncode == -signal.SIGKILL


def test_a_program_that_asks_for_more_than_it_may_fails_by_itself():
    ended = run_program([sys.executable, "-c", "bytearray(2 << 30)"], longest_s=30, limit_bytes=1 << 30)
    assert ended.failed == "MemoryError"


def test_tools_work_in_turns_and_one_that_failed_is_not_asked_again():
    calls = []

    def tool(name, found):
        def ask():
            calls.append(name)
            return found

        return name, ask

    told = []
    good, bad = bench(repeats=3, tell=told.append).in_turns(
        [
            tool("good", {"seconds": 1.0, "peak_mb": 5.0, "check": {"gflop": 2}}),
            tool("bad", {"failed": "broke"}),
        ]
    )
    assert calls == ["good", "bad", "good", "good"]
    assert told[:2] == ["good: 1.000 s (1 of 3)", "bad: broke (1 of 3)"]
    assert (good.median_s, good.facts, bad.median_s, bad.failed) == (1.0, {"gflop": 2}, None, "broke")


def test_the_stock_form_is_the_same_network(tmp_path):
    import torch

    for window in ((16, 16, 16), (32, 32)):
        folder = network_folder(tmp_path, f"n{len(window)}", patch=window, classes=3)
        shown = torch.randn(1, 1, *window)
        with torch.inference_mode():
            ours = network_of(folder)(shown)
            theirs = opened("stock", network_of(folder), shown=shown, threads=1)(shown)
            default = opened("torch", network_of(folder), shown=shown, threads=1)(shown)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours, default, rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match="no engine 'steam'; there are: torch"):
        opened("steam", network_of(folder), shown=shown, threads=1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resample", {"shape": [9, 14, 12]}),
        ("labels", {"shape": [24, 30, 22]}),
    ],
)
def test_tasks_without_a_network(tmp_path, name, arguments):
    from scipy import ndimage

    rng = np.random.default_rng(0)
    source = rng.normal(size=(1, 12, 20, 16) if name == "resample" else (3, 12, 15, 11)).astype(np.float32)
    np.save(tmp_path / "in.npy", source)
    given = {("image" if name == "resample" else "logits"): str(tmp_path / "in.npy")} | arguments
    task = build(name, given | {"out": str(tmp_path / "out.npy"), "threads": 1})
    task.check(task.run())
    found = np.load(tmp_path / "out.npy")
    assert found.shape[-3:] == tuple(arguments["shape"])
    if name == "resample":
        zoom = np.array(found.shape[1:]) / source.shape[1:]
        wanted = ndimage.zoom(source[0], zoom, order=3, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_the_anatomy_is_a_body_with_every_class_in_plain_air():
    image, labels = draw_anatomy((40, 60, 64), seed=0)
    assert image.shape == labels.shape == (40, 60, 64)
    assert sorted(np.unique(labels)) == list(range(CLASSES))
    assert 0.3 < np.mean(image == 0) < 0.7
    assert not labels[image == 0].any()
    for axis in range(3):
        # Layers of five voxels: two steps on, what was bright is dark, along their axis alone.
        inside = labels == 1 + axis
        swings = [
            np.mean((image - np.roll(image, 2, along))[inside & np.roll(inside, 2, along)] ** 2)
            for along in range(3)
        ]
        assert swings[axis] == max(swings)
        assert swings[axis] > 1.5 * sorted(swings)[1]
    again, _ = draw_anatomy((40, 60, 64), seed=0)
    other, _ = draw_anatomy((40, 60, 64), seed=1)
    assert np.array_equal(image, again)
    assert not np.array_equal(image, other)


def test_weights_by_names_of_nnunet_come_back_the_same(tmp_path):
    from medseg.models.nnunet import nnunet_network, nnunet_state

    folder = network_folder(tmp_path, "n", patch=(16, 16, 16), classes=3)
    network = network_of(folder)
    plans = nnunet_plans.plans(patch=(16, 16, 16), features=(32, 64, 128), spacing_mm=(1.0, 1.0, 1.0))
    found = nnunet_network(plans["configurations"]["bench"])
    names = nnunet_names(network)
    assert "decoder.stages.0.convs.0.conv.weight" in names
    assert "decoder.seg_layers.1.weight" in names
    back, state = nnunet_state(names, found), network.state_dict()
    assert back.keys() == state.keys()
    assert all(bool((back[name] == state[name]).all()) for name in state)


def test_a_training_is_kept_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "cache"))
    found = []
    for name in ("a", "b"):
        folder = network_folder(tmp_path, name, patch=(16, 16, 16), classes=CLASSES)
        given = {"folder": str(folder), "shape": [16, 20, 20], "steps": 1, "threads": 1}
        task = build("train", given)
        found.append(task.check(task.run()))
    assert found[0]["training"].startswith("1 updates in")
    assert found[1]["training"] == "kept from an earlier run"
    assert found[0]["weights"] == found[1]["weights"]


def test_dice_of_label_maps():
    a = np.array([0, 1, 1, 2])
    assert mean_dice(a, a) == 1
    assert mean_dice(a, np.array([0, 1, 0, 0])) == pytest.approx((2 / 3 + 0) / 2)
    assert mean_dice(a * 0, a * 0) == 1


def measured(tool, seconds, **facts) -> Measured:
    return Measured(tool=tool, seconds=[seconds], peak_mb=[100.0], facts=facts)


def test_the_table_gives_ratios_and_says_which_targets_are_reached():
    jobs = [
        Job(
            section="network",
            name="3-D, 16 x 16 x 16",
            tools=(
                measured("medseg, torch", 1.0, gflops=80.0, share_of_limit=0.8),
                measured("torch, stock form", 1.5),
                Measured(tool="nnU-Net", failed="not installed (nnunetv2)"),
            ),
            facts={"limit_gflops": 100.0, "gflop": 80.0},
        ),
        Job(
            section="labels",
            name="4 classes",
            tools=(measured("medseg", 1.0), measured("nnU-Net", 4.0)),
            facts={"equal": 0.9999999},
        ),
        Job(section="start", name="cold start", tools=(measured("medseg predict, one radiograph", 6.0),)),
    ]
    text = "\n".join(to_lines(bench(), jobs))
    assert "default at least 1.2 x the stock form: 1.50 x, reached" in text
    assert "default at 75% of the fastest convolution or more: 80%, reached" in text
    assert "not installed (nnunetv2)" in text
    assert "8 x as fast: 4.00 x, MISSED" in text
    assert "at most 0.25 x the memory: 1.00 x, MISSED" in text
    assert "first result in less than 5 s: 6.00 s, MISSED" in text
    assert [job["section"] for job in json.loads(json.dumps(to_json(jobs)))] == ["network", "labels", "start"]


def test_sections_can_be_called_alone_and_an_unknown_one_is_named(monkeypatch):
    called = []
    for name in SECTIONS:
        monkeypatch.setitem(
            inference_sections.SECTIONS, name, lambda bench, root, name=name: called.append(name) or []
        )
    assert list(measure_inference(bench(), ["labels", "start"])) == []
    assert called == ["labels", "start"]
    with pytest.raises(ConfigError, match=r"--only forward: expected one of network, volume"):
        next(measure_inference(bench(), ["forward"]))


def test_an_environment_without_nnunet_is_refused():
    with pytest.raises(MissingPackageError, match=r"has no nnunetv2 .*pip install nnunetv2"):
        next(measure_inference(bench(nnunet_python=Path(sys.executable)), ["start"]))


def test_a_run_that_is_stopped_prints_what_it_has(monkeypatch, capsys):
    from medseg.cli_bench import bench as command

    def stopped(found, root):
        tools = [("quick", lambda: {"seconds": 1.5}), ("slow", lambda: os.kill(os.getpid(), signal.SIGTERM))]
        return [Job(section="start", name="never", tools=found.in_turns(tools))]

    monkeypatch.setitem(inference_sections.SECTIONS, "labels", stopped)
    with pytest.raises(KeyboardInterrupt):
        command("inference", only=["labels"], repeats=1)
    out, err = capsys.readouterr()
    assert "quick: 1.500 s (1 of 1)" in err
    assert re.search(r"not finished:\n.*\n  quick +1\.500", out)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_section_runs_without_its_peers(section, monkeypatch, tmp_path):
    # Compiling takes a minute and a half; engines have tests of their own.
    monkeypatch.setattr("medseg.bench.inference.ENGINES", ("torch", "openvino"))
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path))
    jobs = list(measure_inference(bench(), [section]))
    assert jobs
    for job in jobs:
        assert job.tools[0].median_s, job.tools[0].failed
    assert all(isinstance(line, str) for line in to_lines(bench(), jobs))


def test_quick_is_smaller():
    assert all(a <= b for a, b in zip(QUICK.volume, Sizes().volume, strict=True))
