"""The training run: epochs, validation, best weights, early stop, checkpoints, interruption, resume.

Everything random in a step follows from (seed, epoch, step, process), so a run that was killed and
continued ends in the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from medseg.errors import ConfigError, Interrupted, TrainingError
from medseg.training import distributed
from medseg.training.curves import require_tensorboard, write_curves
from medseg.training.loop import explained_errors, grouped
from medseg.training.losses import SegmentationLoss
from medseg.training.optim import set_frozen
from medseg.training.options import TrainingOptions
from medseg.training.records import EndedByFirst, Progress, TrainingResult
from medseg.training.run_files import FINAL_WEIGHTS, clear
from medseg.training.session import Loader, Session, Validate
from medseg.training.surroundings import StopRequest, determinism, stop_request
from medseg.training.timetable import EpochCost


def train(
    *,
    network: nn.Module,
    loader: Loader,
    validate: Validate | None,
    options: TrainingOptions,
    loss: nn.Module,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] | None = None,
    on_validation: Callable[[int, Mapping[str, float]], None] | None = None,
    resume: bool = True,
    device: torch.device | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train a network, or go on where the folder's checkpoint stands; the result is the same.

    Under torch.distributed every process calls this with its own part of the batches and a folder
    they share; process 0 writes. Every process validates, each perhaps a part of the cases (see
    `distributed.gathered`), and the values of process 0 count.

    Parameters
    ----------
    network : nn.Module
        Initialised by the caller, on any device; ends with the final weights, in evaluation mode.
    loader : BatchLoader
        Has `steps` and `epoch(epoch, start_step)`.
    validate : callable (network) -> dict of float, or None
        Called without gradients, with the network (its moving average where `ema` is set) in
        evaluation mode. None only with ``keep: last`` and no early stop.
    options : TrainingOptions
    loss : nn.Module
        forward(logits or list of logits, label) -> scalar.
    folder : Path
        Checkpoints, curves and `final.safetensors` are written here.
    progress : callable (Progress), optional
        Called after every update and validation.
    tell : callable (str), optional
        Called with sentences that the user should know: where it goes on, that a checkpoint was
        damaged, that the number of epochs was fitted to the time.
    on_validation : callable (epoch, values), optional
        Called in process 0 after each validation, before its checkpoint is written, with the epoch
        counted from 1; after a kill perhaps twice for one epoch. What it raises ends the training, in
        the other processes with `EndedByFirst`.
    resume : bool, optional
        False removes the checkpoints of the folder first.
    device : torch.device, optional
        CPU unless given.
    settings : mapping, optional
        JSON values that decide the result besides `options`, such as data hashes and preprocessing;
        a checkpoint made with others is refused.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ConfigError
        Settings that do not fit network, device, or the checkpoint in the folder.
    TrainingError
        Loss, gradient or weights are not finite, or the metric never is.
    Interrupted
        SIGINT or SIGTERM; the state is saved.
    StorageError
        A file cannot be written or read.
    MissingPackageError
        TensorBoard was asked for and is not installed.
    """
    _check(validate, options)
    device = device or torch.device("cpu")
    if not resume and distributed.processes().rank == 0 and folder.is_dir():
        clear(folder)
    distributed.barrier()
    with determinism(options.deterministic):
        run = _Run(
            network=network,
            loader=loader,
            validate=validate,
            options=options,
            loss=loss,
            folder=folder,
            progress=progress,
            tell=tell,
            on_validation=on_validation,
            device=device,
            settings=settings or {},
        )
        run.restore()
        with stop_request() as stop, contextlib.closing(run):
            while run.state.stopped_by is None:
                run.one_epoch(stop)
        return run.result()


def _check(validate: Validate | None, options: TrainingOptions) -> None:
    if validate is None and (options.keep == "best" or options.early_stop is not None):
        raise ConfigError(
            "without validation cases there is no best epoch and no early stop; "
            "add validation cases, or set training.keep: last and training.early_stop: null"
        )
    if options.tensorboard:
        require_tensorboard()


class _Run(Session):
    """Goes through the epochs."""

    def one_epoch(self, stop: StopRequest) -> None:
        """Train to the end of the current epoch, validate, save."""
        self._train_mode()
        state = self.state
        groups = grouped(self.loader.epoch(state.epoch, state.step), self.options.accumulate)
        while True:
            start = time.perf_counter()
            with self.watch.part("samples"), explained_errors(self.where()):
                group = next(groups, None)
            if group is None:
                break
            with self.watch.part("network"):
                outcome = self.update(group, stop)
            self._busy_s += time.perf_counter() - start
            self._report()
            asked, save_due = outcome.votes
            if self.processes.world_size == 1:
                asked, save_due = stop.signal is not None, self.save_due()
            if asked:
                self._stop(stop)
            if save_due and state.step < self.loader.steps:
                self.save()
        # Before the validation, which may take long.
        if distributed.any_of(stop.signal is not None):
            self._stop(stop)
        self._end_epoch()
        if state.stopped_by is None and distributed.any_of(stop.signal is not None):
            self._stop(stop, saved=True)

    def _train_mode(self) -> None:
        state, options = self.state, self.options
        self.network.train()
        if isinstance(self.stepper.loss, SegmentationLoss):
            self.stepper.loss.set_progress(state.epoch / state.timetable.epochs)
        if not options.freeze:
            return
        thaws = state.epoch > 0 and self.frozen(state.epoch - 1) and not self.frozen(state.epoch)
        set_frozen(self.network, options.freeze, frozen=self.frozen(state.epoch))
        if thaws or self._done == 0:
            self.stepper.network = distributed.wrap(self.network, self.device)

    def _report(self) -> None:
        if self.progress is None or self.processes.rank != 0:
            return
        state = self.state
        # After the validation of an epoch the state already stands at the start of the next.
        finished = state.loss_count == 0
        epochs, steps = state.timetable.epochs, self.loader.steps
        mean_s = self.watch.seconds() / max(1, self._steps_so_far())
        self.progress(
            Progress(
                epoch=state.epoch if finished else state.epoch + 1,
                epochs=epochs,
                step=steps if finished else state.step,
                steps=steps,
                loss=state.history[-1]["loss"] if finished else state.loss_sum / state.loss_count,
                learning_rate=state.rate,
                metrics=dict(state.metrics),
                images_per_second=self._speed(),
                seconds_left=mean_s * (epochs * steps - self._steps_so_far()),
            )
        )

    def _speed(self) -> float:
        return self._samples / self._busy_s if self._busy_s else 0.0

    def _steps_so_far(self) -> int:
        return self.state.epoch * self.loader.steps + self.state.step

    def _stop(self, stop: StopRequest, *, saved: bool = False) -> None:
        if not saved:
            self.save()
        done = (
            f"epoch {self.state.epoch}"
            if saved
            else f"step {self.state.step} of epoch {self.state.epoch + 1}"
        )
        raise Interrupted(
            f"stopped by {stop.signal or 'a signal to another process'} after {done}; the state is saved in "
            f"{self.files.folder}, and the same command goes on from there"
        )

    # -- end of an epoch --------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        state = self.state
        row: dict[str, float] = {
            "epoch": state.epoch + 1,
            "step": state.update,
            "learning_rate": state.rate,
            "loss": state.loss_sum / state.loss_count,
        }
        number = state.epoch + 1
        due = number % self.options.validate_every == 0 or number == state.timetable.epochs
        if due:
            self._validate_into(row)
        state.epoch, state.step, state.loss_sum, state.loss_count = number, 0, 0.0, 0
        self._close(row)
        self._fit_to_time(row)
        state.stopped_by = state.reason_to_stop(self.options)
        if state.stopped_by == "time" and not due:
            self._validate_into(row)
        self.save()
        if self.processes.rank == 0:
            write_curves(self.files.folder, state.history)
            if self.boards is not None:
                self.boards.add(row)
        self._report()

    def _close(self, row: dict[str, float]) -> None:
        """Put the row of an epoch into the history; what depends on the clock comes last in it."""
        state = self.state
        clock = {f"{part}_s": seconds for part, seconds in state.spent_in_epoch().items()}
        row |= {**clock, "seconds": round(self.watch.seconds(), 3)}
        state.history.append(row)

    def _fit_to_time(self, row: Mapping[str, float]) -> None:
        """Change the number of epochs where the present one does not suit `time`; process 0 decides."""
        state, limit_s = self.state, self.options.time
        if limit_s is None or state.epoch >= state.timetable.epochs:
            return
        every = 0 if self.validate is None else self.options.validate_every
        cost = EpochCost.of(state.history, validate_every=every)
        found = state.timetable.refit(cost, done=state.epoch, elapsed_s=row["seconds"], limit_s=limit_s)
        epochs = distributed.from_first(found)
        if epochs is not None:
            state.timetable.apply(epochs, cost, done=state.epoch, updates_per_epoch=self.updates_per_epoch)
            self.say(state.timetable.text(limit_s) or "")

    def _validate_into(self, row: dict[str, float]) -> None:
        """Validate, and keep the weights where the metric is better than ever; NaN never is."""
        if self.validate is None:
            return
        with self.watch.part("validation"):
            metrics = self._validated(self.validate)
        self.state.metrics = metrics
        row |= metrics
        epoch = int(row["epoch"])
        self._ask(epoch)
        value = metrics.get(self.options.metric, math.nan)
        if self.state.judge(value, self.options, epoch=epoch) and self.options.keep == "best":
            self.check_weights()
            with self.watch.part("saving"):
                self.state.best_file = self._save_best(epoch)

    def _ask(self, epoch: int) -> None:
        """Let whoever listens end the training, in all processes alike."""
        ends = True
        try:
            if self.on_validation is not None and self.processes.rank == 0:
                self.on_validation(epoch, dict(self.state.metrics))
            ends = False
        finally:
            ends = distributed.any_of(ends)
        if ends:
            raise EndedByFirst(f"process 0 ended the training after epoch {epoch}")

    def _validated(self, validate: Validate) -> dict[str, float]:
        with torch.no_grad(), explained_errors(f"the validation of epoch {self.state.epoch + 1}"):
            values = validate(self.scored().eval())
        metrics = distributed.from_first({name: float(value) for name, value in values.items()})
        needed = self.options.keep == "best" or self.options.early_stop is not None
        if needed and self.options.metric not in metrics:
            raise ConfigError(
                f"training.metric {self.options.metric!r} is not among the validation values: "
                f"{', '.join(sorted(metrics))}"
            )
        return metrics

    def _save_best(self, epoch: int) -> str:
        name = ""
        if self.processes.rank == 0:
            name = self.files.save_best(self.scored().state_dict(), epoch=epoch)
        return distributed.from_first(name)

    # -- result -----------------------------------------------------------------------------------

    def result(self) -> TrainingResult:
        """Load the final weights into the network and write them."""
        state = self.state
        distributed.barrier()
        self._load_final()
        self.network.eval().requires_grad_(True)
        with self.watch.part("saving"):
            digest = self.files.save_final(self.network.state_dict()) if self.processes.rank == 0 else ""
        distributed.barrier()
        self.watch.settle()
        return TrainingResult(
            weights=self.files.folder / FINAL_WEIGHTS,
            weights_sha256=digest,
            best_metric=state.best_value,
            best_epoch=state.best_epoch,
            epochs_run=state.epoch,
            updates=state.update,
            seconds=state.seconds,
            images_per_second=self._speed(),
            precision=self.stepper.precision.name,
            precision_reason=self.stepper.precision.reason,
            threads=torch.get_num_threads(),
            stopped_by=state.stopped_by or "epochs",
            history=tuple(dict(row) for row in state.history),
            shares=state.shares(),
            refit=state.timetable.text(self.options.time),
        )

    def _load_final(self) -> None:
        if self.options.keep == "last":
            self.network.load_state_dict(self.scored().state_dict())
            return
        name = self.state.best_file
        if name is None:
            raise TrainingError(
                f"training.metric {self.options.metric!r} was never a finite number, so no epoch is the "
                "best; look at metrics.csv, or set training.keep: last"
            )
        self.network.load_state_dict(load_file(self.files.folder / name))

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self.boards is not None:
            self.boards.close()
