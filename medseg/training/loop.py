"""One update of the weights: forward, loss, backward, clipping, step; and what must stop it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError, EnvironmentFailure, TrainingError
from medseg.training import distributed
from medseg.training.adversarial import attacked_batch
from medseg.training.optim import set_learning_rate
from medseg.training.options import AdversarialOptions
from medseg.training.precision import Precision

MAX_SKIPPED_UPDATES = 20


class TrainingBatch(Protocol):
    """What a step needs of a batch: (B, C, *spatial) float32, (B, 1, *spatial) int64, names."""

    @property
    def image(self) -> Tensor: ...
    @property
    def label(self) -> Tensor: ...
    @property
    def case_ids(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOutcome:
    """Mean loss of the batches of one update, norm of the gradient, samples seen by this process, votes."""

    loss: float
    gradient_norm: float
    samples: int
    votes: tuple[bool, ...] = ()


def to_layout(image: Tensor, memory_format: str) -> Tensor:
    """The batch in the layout of the settings; values unchanged."""
    if memory_format == "contiguous":
        return image
    layout = torch.channels_last_3d if image.ndim == 5 else torch.channels_last
    return image.contiguous(memory_format=layout)


def place_network(network: nn.Module, device: torch.device, memory_format: str) -> nn.Module:
    """Move a network to a device and lay its convolution weights out; values unchanged."""
    network.to(device)
    if memory_format == "contiguous":
        return network
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            layout = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """63-bit seed of one batch in one process, a function of its arguments alone."""
    text = f"step\x00{seed}\x00{epoch}\x00{step}\x00{rank}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def grouped(batches: Iterable[TrainingBatch], size: int) -> Iterator[list[TrainingBatch]]:
    """Lists of `size` batches, the last one perhaps shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


@dataclass(slots=True, kw_only=True)
class Stepper:
    """Everything one update needs; the weights change in place.

    Parameters
    ----------
    network : nn.Module
        Wrapped for several processes where there are several.
    optimiser : torch.optim.Optimizer
    loss : nn.Module
        forward(logits or list of logits, label) -> scalar.
    precision : Precision
    scaler : torch.amp.GradScaler
    device : torch.device
    clip_norm : float or None
    memory_format : str
    adversarial : AdversarialOptions or None
        Attacks that some batches are changed by.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    loss: nn.Module
    precision: Precision
    scaler: torch.amp.GradScaler
    device: torch.device
    clip_norm: float | None
    memory_format: str
    adversarial: AdversarialOptions | None = None
    skipped: int = 0

    def update(
        self,
        batches: Sequence[TrainingBatch],
        *,
        rate: float,
        seeds: Sequence[int],
        where: str,
        votes: Sequence[bool] = (),
    ) -> UpdateOutcome:
        """Make one update from one or more equal-sized batches.

        Parameters
        ----------
        batches : sequence of Batch
            Their gradients are averaged.
        rate : float
            Learning rate of this update.
        seeds : sequence of int
            One per batch; dropout and other randomness in the network follow from it alone.
        where : str
            Epoch and step, for messages.
        votes : sequence of bool, optional
            What this process wants the others to know; comes back with what any process said.

        Raises
        ------
        TrainingError
            The loss or the gradient is not finite; the message names step, cases and learning rate.
        """
        self.optimiser.zero_grad(set_to_none=True)
        set_learning_rate(self.optimiser, rate)
        losses = []
        for number, (batch, seed) in enumerate(zip(batches, seeds, strict=True), start=1):
            torch.manual_seed(seed)
            with self._joined_only(number == len(batches)):
                losses.append(self._backward(batch, share=1 / len(batches)))
        norm = self._clipped_norm()
        facts = _Facts(batches=batches, where=where, rate=rate)
        # The only place of an update that waits for the device.
        *own, norm_value = torch.stack([*losses, norm]).tolist()
        means, heard = distributed.shared(own, votes)
        self._check(facts, own, means, norm_value)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return UpdateOutcome(
            loss=sum(means) / len(batches),
            gradient_norm=norm_value,
            samples=sum(len(batch.case_ids) for batch in batches),
            votes=heard,
        )

    def _joined_only(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Let processes exchange gradients at the last batch of an update only."""
        if last or not hasattr(self.network, "no_sync"):
            return contextlib.nullcontext()
        return self.network.no_sync()  # type: ignore[operator, no-any-return]

    def _backward(self, batch: TrainingBatch, *, share: float) -> Tensor:
        image = to_layout(batch.image.to(self.device, non_blocking=True), self.memory_format)
        label = batch.label.to(self.device, non_blocking=True)
        if self.adversarial is not None:
            image = self._attacked(image, label, self.adversarial)
        loss = self._loss(self.network, image, label)
        self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        value: Tensor = loss.detach().float()
        return value

    def _loss(self, network: nn.Module, image: Tensor, label: Tensor) -> Tensor:
        with self.precision.autocast(self.device):
            logits = network(image)
        # Losses sum over many voxels; half precision would lose the small terms.
        logits = [part.float() for part in logits] if isinstance(logits, list | tuple) else logits.float()
        value: Tensor = self.loss(logits, label)
        return value

    def _attacked(self, image: Tensor, label: Tensor, options: AdversarialOptions) -> Tensor:
        # Past the wrapper of several processes, which would wait for gradients that are not asked for.
        network = getattr(self.network, "module", self.network)

        def worse(changed: Tensor) -> Tensor:
            # Scaled, as gradients of single voxels are too small for half precision; only their sign counts.
            return self.scaler.scale(self._loss(network, changed, label))

        return to_layout(attacked_batch(worse, image, network, options), self.memory_format)

    def _clipped_norm(self) -> Tensor:
        """Norm of the whole gradient before it was clipped."""
        self.scaler.unscale_(self.optimiser)
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        return norm.float()

    def _check(self, facts: _Facts, own: Sequence[float], means: Sequence[float], norm: float) -> None:
        """Stop at a loss or gradient that is not finite, in this process or another."""
        for batch, mine, mean in zip(facts.batches, own, means, strict=True):
            if not math.isfinite(mean):
                cases = batch.case_ids if not math.isfinite(mine) else ("of another process",)
                raise TrainingError(facts.not_finite("loss", mine, cases))
        if math.isfinite(norm):
            self.skipped = 0
        elif self.scaler.is_enabled() and self.skipped < MAX_SKIPPED_UPDATES:
            # Half precision overflows now and then; the scaler leaves the step out and scales less.
            self.skipped += 1
        else:
            cases = tuple(case_id for batch in facts.batches for case_id in batch.case_ids)
            raise TrainingError(facts.not_finite("gradient norm", norm, cases))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a message about an update names."""

    batches: Sequence[TrainingBatch]
    where: str
    rate: float

    def not_finite(self, what: str, value: float, cases: tuple[str, ...]) -> str:
        return (
            f"the {what} is {value} at {self.where}, learning rate {self.rate:.3g}, cases {', '.join(cases)}; "
            "look at these cases, lower training.learning_rate or set training.clip_norm"
        )


@contextlib.contextmanager
def explained_errors(where: str) -> Iterator[None]:
    """Turn what torch says about memory and determinism into errors that name the setting.

    Raises
    ------
    EnvironmentFailure
        Out of memory, on the GPU or the CPU.
    ConfigError
        An operation that has no deterministic form on this device.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        text = str(err).splitlines()[0] if str(err) else type(err).__name__
        memory = (torch.OutOfMemoryError, MemoryError)
        if isinstance(err, memory) or "can't allocate memory" in text:
            raise EnvironmentFailure(
                f"out of memory at {where} ({text}); use a smaller training.batch_size, with "
                "training.accumulate for the same number of samples per update, or a smaller training.patch_size"
            ) from err
        if "does not have a deterministic implementation" in text:
            raise ConfigError(
                f"training.deterministic cannot be honoured on this device ({text.split('.')[0]}); "
                "set training.deterministic: false, or use another network"
            ) from err
        raise
