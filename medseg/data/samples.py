"""One training sample: a case or a patch of it, augmented; the same in a worker and in the training process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.dataset import PreparedCase
from medseg.data.patches import PatchSampler, View
from medseg.data.worker_pool import Task
from medseg.errors import LabelError, MedsegError

Augment = Callable[[Tensor, Tensor, int, View], tuple[Tensor, Tensor]]

Sample = tuple[str, NDArray[np.float32], NDArray[np.int16]]


class CaseSet(Protocol):
    """What a loader needs of a `PreparedSet`; picklable."""

    @property
    def case_ids(self) -> tuple[str, ...]: ...
    def __getitem__(self, index: int, /) -> PreparedCase: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which case, with which seed, and how manieth sample since the start of the training."""

    case: int
    seed: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleJob:
    """Makes one sample; the same code in a worker and in the training process."""

    cases: CaseSet
    augment: Augment
    patches: PatchSampler | None = None

    def __call__(self, task: Task) -> Sample:
        case = self.cases[task.payload.case]
        if case.label is None:
            raise LabelError(f"case {case.case_id} has no label and cannot be trained on")
        view = self._view(case, task.payload)
        with _one_thread():
            image, label = self._augmented(case, case.label, task.payload.seed, view)
        return case.case_id, image.contiguous().numpy(), label.to(torch.int16).contiguous().numpy()

    def _view(self, case: PreparedCase, sampling: Sampling) -> View:
        whole = View(spacing_mm=case.spacing_mm, minima=case.minima)
        if self.patches is None:
            return whole
        start = self.patches.start(
            case.image.shape[1:],
            case.places,
            centred=self.patches.is_centred(sampling.number),
            seed=sampling.seed,
            case_id=case.case_id,
        )
        return replace(whole, size=self.patches.size, start=start)

    def _augmented(
        self, case: PreparedCase, label: NDArray[np.int16], seed: int, view: View
    ) -> tuple[Tensor, Tensor]:
        try:
            return self.augment(torch.from_numpy(case.image), torch.from_numpy(label), seed, view)
        except MedsegError:
            raise
        except Exception as err:
            err.add_note(f"while case {case.case_id} was augmented with seed {seed}")
            raise


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: sums over an image depend on how threads split it, and samples must not."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
