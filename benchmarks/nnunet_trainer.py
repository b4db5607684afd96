"""Trains nnU-Net v2 for a fixed time and predicts the held-out cases with its weights of several minutes.

Runs in nnU-Net's environment, started by nnunet.py, which prepares the data set and judges the masks. The trainer is
the stock one (network, augmentation, loss, deep supervision, SGD with momentum) but for its length of 1000 epochs of
250 steps: here the rate follows the same polynomial over the time that is given, and an epoch is a twentieth of that
time, or 250 steps where that is shorter, with the stock share of validation steps. The clock starts at the first step
and stands still while weights are kept; masks are made after the training.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

EPOCHS = 20
STOCK_STEPS, STOCK_VALIDATION_STEPS = 250, 50
MEASURED_STEPS = 3
_LAST_SHARE = 1 - 1e-6


class Clock:
    """Seconds of training, with pauses."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._begin: float | None = None
        self._paused_s = 0.0

    def start(self) -> None:
        """Begin to count."""
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the start, without pauses."""
        return 0.0 if self._begin is None else time.perf_counter() - self._begin - self._paused_s

    @property
    def share(self) -> float:
        """Of the budget, below 1, where the polynomial ends."""
        return min(self.seconds / self.budget_s, _LAST_SHARE)

    def pause(self, since: float) -> None:
        """Leave out the time since `since`, a value of `time.perf_counter`."""
        self._paused_s += time.perf_counter() - since


class TimedPoly(PolyLRScheduler):
    """nnU-Net's schedule with the share of the time instead of the share of the epochs."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, clock: Clock) -> None:
        self.clock = clock
        super().__init__(optimizer, initial_lr, max_steps=1)

    def step(self, current_step: int | None = None) -> None:
        """Set the rate; the number of the epoch does not count."""
        del current_step
        super().step(self.clock.share)


class TimedTrainer(nnUNetTrainer):
    """The stock trainer, ended by the clock; keeps the weights of the minutes it is asked for."""

    # Set after the construction, since nnU-Net reads the arguments of the constructor back by their names.
    clock: Clock
    marks_s: list[float]

    def prepare(self, clock: Clock, marks_s: Sequence[float]) -> None:
        """Say how long it may take, and at which seconds weights are kept besides the end."""
        self.clock, self.marks_s = clock, sorted(marks_s)
        self.snapshots: list[dict[str, Any]] = []
        self.steps = 0
        self._first_step_s = 0.0
        self.losses: list[float] = []

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """Stock optimiser, timed schedule."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, TimedPoly(optimizer, self.initial_lr, self.clock)

    def run_training(self) -> None:
        """nnU-Net's loop with the clock as its end."""
        self.on_train_start()
        self.clock.start()
        while self.clock.seconds < self.clock.budget_s:
            self.on_epoch_start()
            self.on_train_epoch_start()
            self.on_train_epoch_end(self._train_epoch())
            with torch.no_grad():
                self.on_validation_epoch_start()
                steps = range(self.num_val_iterations_per_epoch)
                self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val)) for _ in steps])
            self.on_epoch_end()
        self._keep(self.clock.budget_s)
        self.on_train_end()

    def _train_epoch(self) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []
        while not outputs or (
            len(outputs) < self.num_iterations_per_epoch and self.clock.seconds < self.clock.budget_s
        ):
            outputs.append(self.train_step(next(self.dataloader_train)))
            self.steps += 1
            if self.steps in (1, 1 + MEASURED_STEPS):
                self._fit_epochs()
            while self.marks_s and self.clock.seconds >= self.marks_s[0] < self.clock.budget_s:
                self._keep(self.marks_s.pop(0))
        self.losses.append(float(sum(o["loss"] for o in outputs) / len(outputs)))
        return outputs

    def _fit_epochs(self) -> None:
        """Twenty epochs in the time, by the speed of the first steps, none longer than stock."""
        if self.steps == 1:
            # The first step also starts the processes that load data.
            self._first_step_s = self.clock.seconds
            return
        step_s = (self.clock.seconds - self._first_step_s) / MEASURED_STEPS
        possible = self.clock.budget_s / step_s
        self.num_iterations_per_epoch = int(
            min(STOCK_STEPS, max(1 + MEASURED_STEPS, round(possible / EPOCHS)))
        )
        share = self.num_iterations_per_epoch / STOCK_STEPS
        self.num_val_iterations_per_epoch = max(1, round(STOCK_VALIDATION_STEPS * share))

    def _keep(self, mark_s: float) -> None:
        """Put the weights aside; the clock stands still."""
        begin, seconds = time.perf_counter(), self.clock.seconds
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        self.snapshots.append({"mark_s": mark_s, "seconds": seconds, "steps": self.steps, "weights": weights})
        self.clock.pause(begin)


def main() -> None:
    """Train, predict, write facts.json."""
    args = _arguments()
    base = Path(nnUNet_preprocessed) / args.dataset
    plans = load_json(str(base / "nnUNetPlans.json"))
    plans["continue_training"] = False
    if args.batch_size:
        plans["configurations"][args.configuration]["batch_size"] = args.batch_size
    trainer = TimedTrainer(
        plans=copy.deepcopy(plans),
        configuration=args.configuration,
        fold=args.fold,
        dataset_json=load_json(str(base / "dataset.json")),
        device=torch.device("cpu"),
    )
    trainer.prepare(Clock(60 * args.minutes), [60 * minutes for minutes in args.at if minutes < args.minutes])
    trainer.run_training()
    curve = [_predicted(trainer, snapshot, args.output) for snapshot in trainer.snapshots]
    if not args.without_mirroring:
        curve.append(_predicted(trainer, trainer.snapshots[-1], args.output, mirroring=True))
    configuration = trainer.configuration_manager
    facts = {
        "patch": list(configuration.patch_size),
        "batch_size": trainer.batch_size,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "steps": trainer.steps,
        "epochs": trainer.current_epoch,
        "steps_per_epoch": trainer.num_iterations_per_epoch,
        "seconds": trainer.snapshots[-1]["seconds"],
        "losses": trainer.losses,
        "threads": torch.get_num_threads(),
        "curve": curve,
    }
    (args.output / "facts.json").write_text(json.dumps(facts, indent=1))


def _predicted(
    trainer: TimedTrainer, snapshot: dict[str, Any], output: Path, *, mirroring: bool = False
) -> dict[str, Any]:
    """Masks of the held-out cases with the weights of one moment, by nnU-Net's own predictor."""
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [snapshot["weights"]],
        trainer.dataset_json,
        trainer.__class__.__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    folder = output / f"{snapshot['mark_s']:.0f}s{'-mirrored' if mirroring else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    channels = len(trainer.dataset_json["channel_names"])
    ending = trainer.dataset_json["file_ending"]
    raw = Path(nnUNet_raw) / trainer.plans_manager.dataset_name / "imagesTr"
    _, held_out = trainer.do_split()
    begin = time.perf_counter()
    predictor.predict_from_files_sequential(
        [[str(raw / f"{case}_{c:04d}{ending}") for c in range(channels)] for case in held_out],
        [str(folder / case) for case in held_out],
    )
    seconds = time.perf_counter() - begin
    row = {name: snapshot[name] for name in ("mark_s", "seconds", "steps")}
    return {**row, "mirroring": mirroring, "folder": str(folder), "seconds_per_case": seconds / len(held_out)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--at", type=float, nargs="*", default=[])
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--without-mirroring", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
