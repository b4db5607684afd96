"""Batches for training: which case comes when, with which random augmentation, made by which process.

Everything random follows from (seed, epoch, position): the batches are the same for any number of
workers, from any start within the epoch, and together the same for any number of training processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.patches import PatchSampler
from medseg.data.samples import Augment, CaseSet, Sample, SampleJob, Sampling
from medseg.data.worker_pool import Task, WorkerPool
from medseg.errors import ConfigError, GeometryError, ManifestError, WorkerError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples for one step.

    Parameters
    ----------
    image : (B, C, *spatial) float32 tensor
    label : (B, 1, *spatial) int64 tensor
        Set indices of the label table.
    case_ids : tuple of str
    """

    image: Tensor
    label: Tensor
    case_ids: tuple[str, ...]


def auto_workers(*, cores: int, device: Literal["cpu", "cuda"]) -> int:
    """Number of loader processes that `compute.workers: auto` means.

    On a CPU the network keeps all cores busy and a 2D sample costs a few milliseconds, so a process
    of its own only takes a core away: none up to two cores, one above. Beside a GPU the cores are
    free: all but one, at most eight.
    """
    if device == "cpu":
        return 0 if cores <= 2 else 1
    return max(1, min(8, cores - 1))


def sample_seed(seed: int, epoch: int, position: int, case_id: str) -> int:
    """63-bit seed of one sample, the same on every machine and in every process."""
    text = f"{seed}\x00{epoch}\x00{position}\x00{case_id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def epoch_order(
    *, case_count: int, sample_count: int, seed: int, epoch: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """(sample_count,) case indices of one epoch, a function of its arguments alone.

    Without weights the cases are drawn like cards: all of them once before any comes again, also
    across epochs. With weights each sample is drawn by itself, in proportion to its case's weight.
    """
    if weights is not None:
        generator = np.random.default_rng([seed, epoch, 1])
        return generator.choice(case_count, size=sample_count, p=weights / weights.sum()).astype(np.int64)
    start = epoch * sample_count
    rounds = range(start // case_count, (start + sample_count - 1) // case_count + 1)
    shuffled = [np.random.default_rng([seed, number, 0]).permutation(case_count) for number in rounds]
    skip = start - rounds[0] * case_count
    return np.concatenate(shuffled)[skip : skip + sample_count].astype(np.int64)


class BatchLoader:
    """Shuffled, augmented batches of prepared cases.

    All batches are full: the number of samples is rounded up to whole batches, and cases that come
    again in an epoch are augmented differently.

    Parameters
    ----------
    cases : PreparedSet
        Every case has a label.
    batch_size : int
        Samples per step over all training processes together.
    seed : int
    workers : int
        Loader processes; 0 makes the samples in this process, when they are needed.
    augment : callable (image (C, *spatial) float32, label (1, *spatial) int16, seed, View) -> such a pair
        Pure; picklable where `workers` is not 0. Runs on one thread. The tensors are maps of the cache
        files, read where they are looked at; the view says which part the sample shows.
    patches : PatchSampler, optional
        Which part of a case a sample shows; the whole case unless given.
    timeout_s : float, optional
        A worker that is silent for longer on one case has failed.
    on_worker_failure : {"stop", "fall_back"}, optional
        fall_back: after a worker died or was silent, the case it was at is tried once in a new process; where
        that goes well, this process makes all further samples, which are the same.
    note : callable (str), optional
        Told, in one sentence, that this happened.
    samples_per_epoch : int, optional
        Number of cases unless given.
    weights : sequence of float, optional
        How often each case is drawn, relative to the others.
    rank, world_size : int, optional
        This training process and their number; each gets its part of every batch.

    Raises
    ------
    ConfigError, ManifestError
        A batch that does not divide, no case, weights that do not fit.
    """

    def __init__(
        self,
        cases: CaseSet,
        *,
        batch_size: int,
        seed: int,
        workers: int,
        augment: Augment,
        patches: PatchSampler | None = None,
        timeout_s: float = 10.0,
        on_worker_failure: Literal["stop", "fall_back"] = "stop",
        note: Callable[[str], None] | None = None,
        samples_per_epoch: int | None = None,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._case_ids = cases.case_ids
        _check_sizes(len(self._case_ids), batch_size, workers, world_size, rank)
        self._weights = _checked_weights(weights, self._case_ids)
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._share = rank, batch_size // world_size
        samples = samples_per_epoch or len(self._case_ids)
        self._steps = -(-samples // batch_size)
        self._job = SampleJob(cases=cases, augment=augment, patches=patches)
        self._timeout_s, self._on_worker_failure, self._note = timeout_s, on_worker_failure, note
        self._pool = WorkerPool(self._job, workers=workers, timeout_s=timeout_s) if workers else None

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self._steps

    @property
    def batch_size(self) -> int:
        """Samples per step over all training processes together."""
        return self._batch_size

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Process numbers of the running workers."""
        return self._pool.process_ids if self._pool is not None else ()

    def describe(self) -> dict[str, Any]:
        """What the batches depend on, for settings digests: sizes, seed, case contents, weights."""
        weights = None if self._weights is None else [float(w) for w in self._weights]
        patches = self._job.patches
        return {
            "batch_size": self._batch_size,
            "steps": self._steps,
            "seed": self._seed,
            "cases": self._job.cases.fingerprint(),
            "weights": weights,
            "patches": None if patches is None else patches.describe(),
        }

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, counted from 0, from `start_step` on.

        Raises
        ------
        WorkerError
            A worker died or hangs; the message names the case.
        LabelError
            A case has no label.
        GeometryError
            The samples of a batch differ in shape.
        """
        order = self._order(epoch)
        tasks = [t for step in range(start_step, self._steps) for t in self._tasks(epoch, step, order)]
        samples = self._samples(tasks)
        with contextlib.closing(samples):
            for _ in range(start_step, self._steps):
                yield _collate([next(samples) for _ in range(self._share)])

    def start(self) -> None:
        """Start the workers now instead of at the first batch."""
        if self._pool is not None:
            self._pool.start()

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return epoch_order(
            case_count=len(self._case_ids),
            sample_count=self._steps * self._batch_size,
            seed=self._seed,
            epoch=epoch,
            weights=self._weights,
        )

    def _tasks(self, epoch: int, step: int, order: NDArray[np.int64]) -> list[Task]:
        first = step * self._batch_size + self._rank * self._share
        tasks = []
        for offset in range(self._share):
            position = first + offset
            case_id = self._case_ids[int(order[position])]
            payload = Sampling(
                case=int(order[position]),
                seed=sample_seed(self._seed, epoch, position, case_id),
                number=epoch * self._steps * self._batch_size + position,
            )
            index = step * self._share + offset
            tasks.append(Task(index=index, case_id=case_id, payload=payload))
        return tasks

    def _samples(self, tasks: list[Task]) -> Generator[Sample, None, None]:
        done = 0
        if self._pool is not None:
            try:
                with contextlib.closing(self._pool.run(tasks, ahead=2 * self._share)) as results:
                    for sample in results:
                        done += 1
                        yield sample
            except WorkerError as err:
                if self._on_worker_failure == "stop":
                    raise
                self._fall_back(self._pool, err)
        for task in tasks[done:]:
            yield self._job(task)

    def _fall_back(self, pool: WorkerPool, error: WorkerError) -> None:
        """Go on without workers, unless the case itself is what ends them.

        Raises
        ------
        WorkerError
            A new process fails at the same case.
        """
        cause, task = pool.cause or str(error), pool.failed_task
        pool.close()
        self._pool = None
        text = f"{cause}; the training goes on without loader processes, with the same samples"
        _LOG.warning(text)
        if self._note is not None:
            self._note(text)
        if task is None:
            return
        trial = WorkerPool(self._job, workers=1, timeout_s=self._timeout_s)
        try:
            list(trial.run([task], ahead=1))
        except WorkerError as err:
            if trial.failed_task is not None:
                raise WorkerError(
                    f"case {task.case_id} ends every process that prepares it: {trial.cause}; look at this "
                    "case and its disk, or leave it out"
                ) from err
        finally:
            trial.close()


def _collate(samples: list[Sample]) -> Batch:
    shapes = {image.shape for _, image, _ in samples} | {label.shape for _, _, label in samples}
    if len({shape[1:] for shape in shapes}) > 1 or len({image.shape[0] for _, image, _ in samples}) > 1:
        found = ", ".join(f"{case_id} {image.shape}" for case_id, image, _ in samples[:4])
        raise GeometryError(
            f"the samples of a batch must have one shape, found {found}; "
            "set training.patch_size, or add a resize, pad or crop step to preprocess"
        )
    return Batch(
        image=torch.from_numpy(np.stack([image for _, image, _ in samples])),
        label=torch.from_numpy(np.stack([label for _, _, label in samples])).long(),
        case_ids=tuple(case_id for case_id, _, _ in samples),
    )


def _check_sizes(case_count: int, batch_size: int, workers: int, world_size: int, rank: int) -> None:
    if case_count == 0:
        raise ManifestError("there is no case to train on; check data.split and the list of problems")
    if batch_size < 1 or batch_size % world_size:
        raise ConfigError(
            f"training.batch_size {batch_size} cannot be shared by {world_size} processes; "
            f"use a multiple of {world_size}"
        )
    if workers < 0 or not 0 <= rank < world_size:
        raise ConfigError(f"workers {workers} or rank {rank} of {world_size} is out of range")


def _checked_weights(
    weights: Sequence[float] | None, case_ids: tuple[str, ...]
) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (len(case_ids),) or not np.isfinite(values).all() or (values < 0).any():
        raise ConfigError(
            f"case weights must be {len(case_ids)} finite numbers that are not negative, one for each case"
        )
    if values.sum() == 0:
        raise ConfigError("all case weights are zero; at least one case must be drawn")
    return values
