"""The training run: learns, repeats itself, stops, goes on."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import threading
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn

from medseg.errors import (
    ConfigError,
    EnvironmentFailure,
    Interrupted,
    MissingPackageError,
    StorageError,
    TrainingError,
)
from medseg.provenance import sha256_file
from medseg.training.trainer import Progress


class StopAfter:
    """Sends a signal to this process at one progress report."""

    def __init__(self, reports: int, number: int = signal.SIGINT, times: int = 1) -> None:
        self.reports, self.number, self.times = reports, number, times

    def __call__(self, progress: Progress) -> None:
        self.reports -= 1
        if self.reports == 0:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


class PoisonCase:
    """Discs, one of them with a NaN pixel."""

    def __init__(self, poisoned: str) -> None:
        self.discs, self.poisoned = tiny.Discs(), poisoned
        self.case_ids = self.discs.case_ids

    def fingerprint(self) -> str:
        return self.discs.fingerprint()

    def __getitem__(self, index: int) -> Any:
        case = self.discs[index]
        if case.case_id == self.poisoned:
            case.image[0, 3, 3] = math.nan
        return case


def test_one_image_is_learnt_by_heart(tmp_path):
    def dice_of_first(network: nn.Module) -> dict[str, float]:
        return tiny.dice_of(network, indices=(0,))

    class OneDisc(tiny.Discs):
        def __init__(self) -> None:
            super().__init__(1)

    result = tiny.run(
        tmp_path,
        loader_cases=OneDisc(),
        network=tiny.build_network(dropout=0.0),
        validate=dice_of_first,
        epochs=3,
        samples_per_epoch=60,
        checkpoint_every_steps=None,
        ema=None,
    )
    assert result.history[-1]["loss"] < 0.1 < result.history[0]["loss"]
    assert result.best_metric is not None
    assert result.best_metric > 0.95


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first, second = tiny.run(tmp_path / "a"), tiny.run(tmp_path / "b")
    assert first.weights_sha256 == second.weights_sha256 == sha256_file(first.weights)
    assert [tiny.without_clock(row) for row in first.history] == [
        tiny.without_clock(row) for row in second.history
    ]
    assert tiny.run(tmp_path / "c", seed=2).weights_sha256 != first.weights_sha256


def test_the_state_of_the_generators_outside_does_not_matter(tmp_path):
    network = tiny.build_network()
    torch.manual_seed(99)
    torch.rand(17)
    assert tiny.run(tmp_path / "a", network=network).weights_sha256 == tiny.run(tmp_path / "b").weights_sha256


def test_the_result_is_the_best_epoch_and_is_in_the_network(tmp_path):
    scores = iter([0.1, 0.7, 0.4])
    network = tiny.build_network()
    seen: list[dict[str, torch.Tensor]] = []

    def validate(scored: nn.Module) -> dict[str, float]:
        assert not scored.training
        assert not torch.is_grad_enabled()
        seen.append({name: value.clone() for name, value in scored.state_dict().items()})
        return {"dice": next(scores)}

    result = tiny.run(tmp_path, network=network, validate=validate)
    assert (result.best_metric, result.best_epoch, result.epochs_run) == (0.7, 2, 3)
    assert (result.stopped_by, result.updates) == ("epochs", 9)
    stored = load_file(result.weights)
    for name, value in network.state_dict().items():
        assert torch.equal(value, seen[1][name])
        assert torch.equal(value, stored[name])
    assert not network.training


def test_last_weights_lower_is_better_and_no_validation(tmp_path):
    scores = iter([0.3, 0.1, 0.2])
    result = tiny.run(
        tmp_path / "a",
        validate=lambda network: {"error": next(scores)},
        metric="error",
        metric_is="lower_better",
        keep="last",
    )
    assert (result.best_metric, result.best_epoch) == (0.1, 2)
    alone = tiny.run(tmp_path / "b", validate=None, keep="last")
    assert alone.best_metric is None
    assert alone.weights_sha256 == result.weights_sha256
    with pytest.raises(ConfigError, match=r"set training.keep: last"):
        tiny.run(tmp_path / "c", validate=None)


def test_early_stop_waits_for_a_better_value(tmp_path):
    scores = iter([0.5, 0.6, 0.605, 0.601, 0.9])
    result = tiny.run(
        tmp_path,
        validate=lambda network: {"dice": next(scores)},
        epochs=5,
        early_stop={"patience": 2, "min_delta": 0.01},
    )
    assert (result.stopped_by, result.epochs_run, result.best_epoch) == ("early_stop", 4, 3)


def test_a_time_limit_ends_between_epochs(tmp_path):
    result = tiny.run(tmp_path, epochs=50, time=1e-6)
    assert (result.stopped_by, result.epochs_run) == ("time", 1)


def test_nan_is_never_the_best_and_a_metric_that_never_is_finite_is_an_error(tmp_path):
    scores = iter([0.2, math.nan, 0.1])
    result = tiny.run(tmp_path / "a", validate=lambda network: {"dice": next(scores)})
    assert (result.best_metric, result.best_epoch) == (0.2, 1)
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["dice"] is None
    with pytest.raises(TrainingError, match="'dice' was never a finite number"):
        tiny.run(tmp_path / "b", validate=lambda network: {"dice": math.nan})


def test_whoever_listens_to_validations_may_end_the_training(tmp_path):
    seen: list[int] = []

    class Enough(Exception):
        pass

    def listen(epoch: int, values: Any) -> None:
        assert set(values) == {"dice"}
        seen.append(epoch)
        if epoch == 2:
            raise Enough

    with pytest.raises(Enough):
        tiny.run(tmp_path, on_validation=listen)
    assert seen == [1, 2]


def test_an_unknown_metric_names_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"training.metric 'hd95' is not among the validation values: dice"):
        tiny.run(tmp_path, metric="hd95")


def test_nan_in_a_batch_stops_with_step_case_and_rate_and_the_last_checkpoint_stays(tmp_path):
    with pytest.raises(
        TrainingError,
        match=r"the loss is nan at epoch 1, step 2 of 3, learning rate [\d.e-]+, cases disc-2, disc-1; "
        r"look at these cases.*the last good checkpoint is .*state-000000001-",
    ):
        tiny.run(tmp_path, loader_cases=PoisonCase("disc-2"), checkpoint_every_steps=1)
    assert [path.name[:15] for path in tmp_path.iterdir()] == ["state-000000001"]


def test_a_gradient_that_is_not_finite_stops_as_well(tmp_path):
    class Exploding(nn.Module):
        def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return (logits * 0).abs().sqrt().sum()

    with pytest.raises(
        TrainingError, match=r"the gradient norm is (nan|inf) at epoch 1, step 1 of 3.*no checkpoint"
    ):
        tiny.run(tmp_path, loss=Exploding(), clip_norm=None)
    assert not list(tmp_path.glob("state-*"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Steep(tiny.CrossEntropy):
        def forward(self, logits: Any, label: torch.Tensor) -> torch.Tensor:
            return 1e4 * super().forward(logits, label)

    settings = {"learning_rate": 1e38, "optimiser": {"use": "sgd"}, "schedule": {"use": "constant"}}
    with pytest.raises(TrainingError, match=r"the weights .* are not finite at epoch 1, step 2"):
        tiny.run(tmp_path, loss=Steep(), clip_norm=None, ema=None, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reports", [1, 2, 4, 5, 8])
def test_ctrl_c_saves_and_the_same_call_ends_in_the_same_weights(tmp_path, reports):
    expected = tiny.run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"stopped by SIGINT after .* the same command goes on from there"):
        tiny.run(tmp_path / "cut", progress=StopAfter(reports), checkpoint_every_steps=None)
    assert signal.getsignal(signal.SIGINT) is before
    result = tiny.run(tmp_path / "cut", checkpoint_every_steps=None)
    assert result.weights_sha256 == expected.weights_sha256
    assert [row["loss"] for row in result.history] == [row["loss"] for row in expected.history]
    assert (tmp_path / "cut" / "metrics.csv").read_text().count("\n") == 4


def test_sigterm_and_accumulation_end_in_the_same_weights(tmp_path):
    expected = tiny.run(tmp_path / "whole", accumulate=2)
    assert expected.updates == 6
    with pytest.raises(Interrupted, match="SIGTERM"):
        tiny.run(tmp_path / "cut", accumulate=2, progress=StopAfter(4, signal.SIGTERM))
    assert tiny.run(tmp_path / "cut", accumulate=2).weights_sha256 == expected.weights_sha256


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path, progress=StopAfter(1, times=2))
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(tiny.run(tmp_path)))
    thread.start()
    thread.join()
    assert results[0].epochs_run == 3


def test_a_finished_training_is_not_done_again(tmp_path):
    first = tiny.run(tmp_path)
    (tmp_path / "final.safetensors").unlink()
    network = tiny.build_network(seed=5)
    second = tiny.run(tmp_path, network=network, validate=lambda network: pytest.fail("validated again"))
    assert second.weights_sha256 == first.weights_sha256
    assert second.history == first.history
    assert torch.equal(network.state_dict()["head.bias"], load_file(first.weights)["head.bias"])


@pytest.mark.parametrize(
    ("raised", "error", "text"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            EnvironmentFailure,
            r"out of memory at epoch 1, step 1 of 3 \(CUDA out .* 2 GiB\); use a smaller training.batch_size",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            EnvironmentFailure,
            "out of memory",
        ),
        (
            RuntimeError("upsample_backward does not have a deterministic implementation, but you set. More"),
            ConfigError,
            "set training.deterministic: false",
        ),
        (RuntimeError("shapes do not match"), RuntimeError, "shapes do not match"),
    ],
)
def test_what_torch_says_about_the_machine_is_explained(tmp_path, raised, error, text):
    class Failing(tiny.CrossEntropy):
        def forward(self, logits: Any, label: torch.Tensor) -> torch.Tensor:
            raise raised

    with pytest.raises(error, match=text):
        tiny.run(tmp_path, loss=Failing())


def test_resume_false_starts_again(tmp_path):
    first = tiny.run(tmp_path, seed=1)
    second = tiny.run(tmp_path, seed=2, resume=False)
    assert second.weights_sha256 != first.weights_sha256
    assert second.updates == 9


def test_other_settings_are_refused_by_name(tmp_path):
    tiny.run(tmp_path, settings={"preprocess": {"size": 256}})
    with pytest.raises(
        ConfigError,
        match=r"other settings \(run.preprocess.size: 256 then, 512 now; training.learning_rate: 0.02",
    ):
        tiny.run(tmp_path, settings={"preprocess": {"size": 512}}, learning_rate=0.01)
    with pytest.raises(ConfigError, match=r"batches.cases"):
        tiny.run(tmp_path, settings={"preprocess": {"size": 256}}, loader_cases=tiny.Discs(5))
    # What changes only how often something is written may change.
    tiny.run(tmp_path, settings={"preprocess": {"size": 256}}, checkpoint_every_steps=None)


def test_a_damaged_newest_checkpoint_falls_back_and_ends_in_the_same_weights(tmp_path, caplog):
    expected = tiny.run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "cut", progress=StopAfter(6))
    old, new = sorted((tmp_path / "cut").glob("state-*.pt"))
    new.write_bytes(new.read_bytes()[:-100])
    result = tiny.run(tmp_path / "cut")
    assert result.weights_sha256 == expected.weights_sha256
    assert f"checkpoint {new.name} is damaged" in caplog.text
    assert not new.exists()
    assert not old.exists()


def test_missing_best_weights_are_named(tmp_path):
    tiny.run(tmp_path)
    for path in tmp_path.glob("best-*"):
        path.unlink()
    with pytest.raises(StorageError, match=r"best weights .* are missing or damaged"):
        tiny.run(tmp_path)


def test_only_the_files_that_are_needed_stay(tmp_path):
    scores = iter([0.1, 0.2, 0.3, 0.4, 0.1])
    tiny.run(tmp_path, validate=lambda network: {"dice": next(scores)}, epochs=5, checkpoint_every_steps=1)
    names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert names == ["best", "final.safetensors", "metrics.csv", "metrics.jsonl", "state", "state"]


def test_curves_have_one_row_per_epoch(tmp_path):
    tiny.run(tmp_path, validate_every=2, epochs=5)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [bool(row["dice"]) for row in rows] == [False, True, False, True, True]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[1]["loss"] == float(rows[1]["loss"])
    assert lines[-1]["step"] == 15


def test_progress_counts_up_to_the_end(tmp_path):
    seen: list[Progress] = []
    tiny.run(tmp_path, progress=seen.append)
    assert [(p.epoch, p.step) for p in seen[:5]] == [(1, 1), (1, 2), (1, 3), (1, 3), (2, 1)]
    assert seen[2].metrics == {}
    assert set(seen[3].metrics) == {"dice"}
    last = seen[-1]
    assert (last.epoch, last.epochs, last.step, last.steps, last.seconds_left) == (3, 3, 3, 3, 0)
    assert last.images_per_second > 0
    assert all(math.isfinite(p.loss) for p in seen)


def test_frozen_parts_stay_until_they_thaw(tmp_path):
    start = tiny.build_network().state_dict()
    network = tiny.build_network()
    tiny.run(tmp_path / "a", network=network, freeze=["encoder"], keep="last", ema=None)
    for name, value in network.state_dict().items():
        assert torch.equal(value, start[name]) == name.startswith("encoder"), name
    assert all(p.requires_grad for p in network.parameters())
    thawed = tiny.build_network()
    expected = tiny.run(tmp_path / "b", network=thawed, freeze=["encoder"], freeze_epochs=2, keep="last")
    assert not torch.equal(thawed.state_dict()["encoder.0.weight"], start["encoder.0.weight"])
    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "c", freeze=["encoder"], freeze_epochs=2, keep="last", progress=StopAfter(9))
    resumed = tiny.run(tmp_path / "c", freeze=["encoder"], freeze_epochs=2, keep="last")
    assert resumed.weights_sha256 == expected.weights_sha256


def test_layer_wise_rates_are_kept_over_a_cut_and_a_thaw(tmp_path):
    changes = {
        "learning_rates": {"encoder": 0.1},
        "freeze": ["encoder"],
        "freeze_epochs": 1,
        "optimiser": {"use": "adamw"},
        "keep": "last",
    }
    whole = tiny.run(tmp_path / "whole", **changes)
    assert whole.history[0]["learning_rate"] == tiny.run(tmp_path / "all").history[0]["learning_rate"]
    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "cut", progress=StopAfter(2), **changes)
    assert tiny.run(tmp_path / "cut", **changes).weights_sha256 == whole.weights_sha256
    slower = tiny.run(tmp_path / "slow", **{**changes, "learning_rates": {"encoder": 0.01}})
    assert slower.weights_sha256 != whole.weights_sha256


def test_a_network_with_several_outputs_is_trained(tmp_path):
    class Deep(tiny.TinyNet):
        def forward(self, image: torch.Tensor) -> Any:
            logits = super().forward(image)
            return [logits, logits[..., ::2, ::2]] if self.training else logits

    assert tiny.run(tmp_path, network=Deep()).epochs_run == 3


def test_layout_changes_no_method(tmp_path):
    found = []
    for layout in ("channels_last", "contiguous"):
        # Dropout draws in the order of memory, so it is left out here.
        network = tiny.build_network(dropout=0.0)
        settings = {"epochs": 1, "optimiser": {"use": "sgd", "momentum": 0.9}, "memory_format": layout}
        tiny.run(tmp_path / layout, network=network, **settings)
        found.append(network.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-5)


def test_torch_settings_are_put_back(tmp_path):
    torch.use_deterministic_algorithms(False)
    tiny.run(tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


def test_tensorboard_that_is_not_installed_is_told_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.training.curves.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[tensorboard\]'"):
        tiny.run(tmp_path, tensorboard=True)
    assert not list(tmp_path.iterdir())
