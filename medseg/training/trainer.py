"""The training run: epochs, validation, best weights, early stop, checkpoints, interruption, resume.

Everything random in a step follows from (seed, epoch, step, process), so a run that was killed and
continued ends in the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import nn

from medseg.errors import ConfigError, Interrupted, TrainingError
from medseg.provenance import sha256_json
from medseg.training import distributed
from medseg.training.curves import TensorboardCurves, require_tensorboard, write_curves
from medseg.training.ema import MovingAverage
from medseg.training.loop import (
    Stepper,
    TrainingBatch,
    UpdateOutcome,
    explained_errors,
    grouped,
    place_network,
    step_seed,
)
from medseg.training.optim import build_optimiser, learning_rate_at, set_frozen
from medseg.training.options import NOT_IN_DIGEST, TrainingOptions
from medseg.training.precision import choose_precision
from medseg.training.records import Progress, RunState, TrainingResult
from medseg.training.run_files import FINAL_WEIGHTS, RunFiles, clear
from medseg.training.stopwatch import Stopwatch
from medseg.training.surroundings import StopRequest, determinism, stop_request
from medseg.training.timetable import EpochCost, Timetable

_LOG = logging.getLogger(__name__)
Validate = Callable[[nn.Module], dict[str, float]]


class Loader(Protocol):
    """What the trainer needs of a `BatchLoader`."""

    @property
    def steps(self) -> int: ...
    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TrainingBatch]: ...


def train(
    *,
    network: nn.Module,
    loader: Loader,
    validate: Validate | None,
    options: TrainingOptions,
    loss: nn.Module,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
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


class _Run:
    """One call of `train`: the objects that change while it runs."""

    def __init__(
        self,
        *,
        network: nn.Module,
        loader: Loader,
        validate: Validate | None,
        options: TrainingOptions,
        loss: nn.Module,
        folder: Path,
        progress: Callable[[Progress], None] | None,
        device: torch.device,
        settings: Mapping[str, Any],
    ) -> None:
        self.options, self.loader, self.validate = options, loader, validate
        self.device, self.progress = device, progress
        self.state = RunState(timetable=Timetable.of(options.target_epochs))
        self.watch = Stopwatch(self.state)
        self.processes = distributed.processes()
        self.network = place_network(network, device, options.memory_format)
        self.files = RunFiles(folder, _digest_settings(options, loader, network, settings))
        self.updates_per_epoch = -(-loader.steps // options.accumulate)
        precision = choose_precision(options.precision, device)
        _LOG.info("precision: %s", precision.reason)
        set_frozen(self.network, options.freeze, frozen=self._frozen(0))
        self.stepper = Stepper(
            network=distributed.wrap(self.network, device),
            optimiser=build_optimiser(
                network,
                options.optimiser,
                learning_rate=options.learning_rate,
                factors=options.learning_rates,
            ),
            loss=loss.to(device),
            precision=precision,
            scaler=precision.scaler(device),
            device=device,
            clip_norm=options.clip_norm,
            memory_format=options.memory_format,
        )
        # After the wrap, which gives every process the weights of the first.
        self.average = MovingAverage(self.network, decay=options.ema) if options.ema else None
        self._boards: TensorboardCurves | None = None
        self._saved_at = time.monotonic()
        self._rate, self._samples, self._busy_s, self._done = 0.0, 0, 0.0, 0

    # -- state ------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take the newest intact checkpoint of the folder, if there is one; write its curves again."""
        found = self.files.load()
        if found is not None:
            self._load(found.state)
            _LOG.info("training goes on from %s, epoch %d", found.path.name, self.state.epoch + 1)
        self._require_same()
        if self.processes.rank == 0:
            if self.state.history:
                write_curves(self.files.folder, self.state.history)
            if self.options.tensorboard:
                self._boards = TensorboardCurves(self.files.folder, self.state.history)

    def _load(self, saved: dict[str, Any]) -> None:
        self.state = RunState.restored(saved["state"])
        self.watch = Stopwatch(self.state)
        self.network.load_state_dict(saved["network"])
        self.stepper.optimiser.load_state_dict(saved["optimiser"])
        self.stepper.scaler.load_state_dict(saved["scaler"])
        self.stepper.skipped = int(saved["skipped_updates"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        torch.set_rng_state(saved["torch_rng"])

    def _require_same(self) -> None:
        """All processes must stand at the same update of the same training."""
        mine = (self.state.update, sha256_json(self.files.settings))
        first = distributed.from_first(mine)
        if distributed.any_of(mine != first):
            which = "this process" if mine != first else "another process"
            raise TrainingError(
                f"{which} found other settings, cases or checkpoints than process 0 (it stands at update "
                f"{first[0]}, this one at {mine[0]}); all machines need the same data and must share the folder "
                f"{self.files.folder}"
            )

    def save(self) -> None:
        """Write a checkpoint."""
        with self.watch.part("saving"):
            self._check_weights()
            self._saved_at = time.monotonic()
            self.watch.settle()
            if self.processes.rank == 0:
                self.files.save(self._content(), update=self.state.update, best_file=self.state.best_file)

    def _content(self) -> dict[str, Any]:
        return {
            "state": self.state.plain(),
            "network": self.network.state_dict(),
            "optimiser": self.stepper.optimiser.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "skipped_updates": self.stepper.skipped,
            "average": None if self.average is None else self.average.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def _check_weights(self) -> None:
        tensors = {n: t for n, t in self.network.state_dict().items() if t.is_floating_point()}
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
        for name, is_finite in zip(tensors, finite, strict=True):
            if not is_finite:
                raise TrainingError(
                    f"the weights {name} are not finite at {self._where()}; "
                    f"lower training.learning_rate; {self.files.last_good()}"
                )

    # -- one epoch --------------------------------------------------------------------------------

    def one_epoch(self, stop: StopRequest) -> None:
        """Train to the end of the current epoch, validate, save."""
        self._train_mode()
        state = self.state
        groups = grouped(self.loader.epoch(state.epoch, state.step), self.options.accumulate)
        while True:
            start = time.perf_counter()
            with self.watch.part("samples"), explained_errors(self._where()):
                group = next(groups, None)
            if group is None:
                break
            with self.watch.part("network"):
                outcome = self._update(group, stop)
            self._busy_s += time.perf_counter() - start
            self._report()
            asked, save_due = outcome.votes
            if self.processes.world_size == 1:
                asked, save_due = stop.signal is not None, self._save_due()
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
        if not options.freeze:
            return
        thaws = state.epoch > 0 and self._frozen(state.epoch - 1) and not self._frozen(state.epoch)
        set_frozen(self.network, options.freeze, frozen=self._frozen(state.epoch))
        if thaws or self._done == 0:
            self.stepper.network = distributed.wrap(self.network, self.device)

    def _frozen(self, epoch: int) -> bool:
        options = self.options
        return bool(options.freeze) and (options.freeze_epochs is None or epoch < options.freeze_epochs)

    def _update(self, group: list[TrainingBatch], stop: StopRequest) -> UpdateOutcome:
        state, where = self.state, self._where()
        seeds = [
            step_seed(self.options.seed, state.epoch, state.step + number, self.processes.rank)
            for number in range(len(group))
        ]
        self._rate = self._rate_now()
        votes = (stop.signal is not None, self.processes.rank == 0 and self._save_due())
        try:
            with explained_errors(where):
                outcome = self.stepper.update(group, rate=self._rate, seeds=seeds, where=where, votes=votes)
        except TrainingError as err:
            raise TrainingError(f"{err}; {self.files.last_good()}") from err
        if self.average is not None:
            self.average.update(self.network)
        state.step += len(group)
        state.update += 1
        state.loss_sum += outcome.loss * len(group)
        state.loss_count += len(group)
        self._samples += outcome.samples * self.processes.world_size
        self._done += len(group)
        return outcome

    def _save_due(self) -> bool:
        """Whether a checkpoint within the epoch is due; it changes no result when one is written."""
        options = self.options
        by_steps = options.checkpoint_every_steps is not None and (
            self.state.update % options.checkpoint_every_steps == 0
        )
        by_time = options.checkpoint_every is not None and (
            time.monotonic() - self._saved_at >= options.checkpoint_every
        )
        return by_steps or by_time

    def _where(self) -> str:
        return f"epoch {self.state.epoch + 1}, step {self.state.step + 1} of {self.loader.steps}"

    def _rate_now(self) -> float:
        timetable = self.state.timetable
        return learning_rate_at(
            self.options.schedule,
            peak=self.options.learning_rate,
            step=timetable.step_at(self.state.update, updates_per_epoch=self.updates_per_epoch),
            steps=self.updates_per_epoch * timetable.planned,
            steps_per_epoch=self.updates_per_epoch,
        )

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
                learning_rate=self._rate,
                metrics=dict(state.metrics),
                images_per_second=self._speed(),
                seconds_left=mean_s * (epochs * steps - self._steps_so_far()),
                refit=state.timetable.text(self.options.time),
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
            "learning_rate": self._rate,
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
            if self._boards is not None:
                self._boards.add(row)
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
            _LOG.info("%s", state.timetable.text(limit_s))

    def _validate_into(self, row: dict[str, float]) -> None:
        """Validate, and keep the weights where the metric is better than ever; NaN never is."""
        if self.validate is None:
            return
        with self.watch.part("validation"):
            metrics = self._validated(self.validate)
        self.state.metrics = metrics
        row |= metrics
        epoch = int(row["epoch"])
        value = metrics.get(self.options.metric, math.nan)
        if self.state.judge(value, self.options, epoch=epoch) and self.options.keep == "best":
            self._check_weights()
            with self.watch.part("saving"):
                self.state.best_file = self._save_best(epoch)

    def _scored(self) -> nn.Module:
        return self.network if self.average is None else self.average.network

    def _validated(self, validate: Validate) -> dict[str, float]:
        with torch.no_grad(), explained_errors(f"the validation of epoch {self.state.epoch + 1}"):
            values = validate(self._scored().eval())
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
            name = self.files.save_best(self._scored().state_dict(), epoch=epoch)
        return distributed.from_first(name)

    # -- result -----------------------------------------------------------------------------------

    def result(self) -> TrainingResult:
        """Load the final weights into the network and write them."""
        state = self.state
        distributed.barrier()
        self._load_final()
        self.network.eval().requires_grad_(True)
        digest = self.files.save_final(self.network.state_dict()) if self.processes.rank == 0 else ""
        distributed.barrier()
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
            self.network.load_state_dict(self._scored().state_dict())
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
        if self._boards is not None:
            self._boards.close()


def _digest_settings(
    options: TrainingOptions, loader: Loader, network: nn.Module, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the result, as plain values: options, batches, network shapes, the caller's settings."""
    shapes = {name: "x".join(map(str, value.shape)) for name, value in network.state_dict().items()}
    describe = getattr(loader, "describe", None)
    return {
        "training": options.model_dump(mode="json", exclude=set(NOT_IN_DIGEST)),
        "batches": describe() if describe is not None else {"steps": loader.steps},
        "network": shapes,
        "run": dict(settings),
    }
