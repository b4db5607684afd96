"""Optimisers, learning-rate schedules as functions of the step, and frozen parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.training.options import (
    AdamwOptions,
    ConstantOptions,
    CosineOptions,
    OneCycleOptions,
    OptimiserOptions,
    PolyOptions,
    ScheduleOptions,
    SgdOptions,
)


def build_optimiser(
    network: nn.Module, options: OptimiserOptions, *, learning_rate: float
) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters; biases and norm weights (one axis) are not decayed.

    Frozen parameters are in it as well, so that its state fits before and after they thaw; without a
    gradient they are not changed.
    """
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match options:
        case AdamwOptions():
            return torch.optim.AdamW(groups, lr=learning_rate, betas=(options.beta1, options.beta2))
        case SgdOptions():
            return torch.optim.SGD(
                groups, lr=learning_rate, momentum=options.momentum, nesterov=options.nesterov
            )


def learning_rate_at(
    options: ScheduleOptions, *, peak: float, step: int, steps: int, steps_per_epoch: int
) -> float:
    """Learning rate of update `step`, counted from 0, of `steps`: a pure function, nothing to resume.

    Parameters
    ----------
    options : ScheduleOptions
    peak : float
        `training.learning_rate`.
    step, steps : int
        Update and number of updates of the whole training.
    steps_per_epoch : int
        Updates per epoch, for a warm-up given in epochs.
    """
    last = max(1, steps - 1)
    match options:
        case OneCycleOptions():
            return peak * _one_cycle(options, step=step, last=last)
        case CosineOptions():
            warmup = options.warmup_epochs * steps_per_epoch
            if step < warmup:
                return peak * (step + 1) / (warmup + 1)
            share = (step - warmup) / max(1.0, last - warmup)
            return peak * _half_cosine(1.0, options.end_factor, share)
        case PolyOptions():
            return float(peak * (1 - min(step, steps) / max(1, steps)) ** options.power)
        case ConstantOptions():
            return peak


def _one_cycle(options: OneCycleOptions, *, step: int, last: int) -> float:
    top = options.warmup * last
    if step < top:
        return _half_cosine(options.start_factor, 1.0, step / top)
    return _half_cosine(1.0, options.end_factor, (step - top) / max(1e-9, last - top))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def set_frozen(network: nn.Module, prefixes: Sequence[str], *, frozen: bool) -> None:
    """Freeze the parameters under name prefixes, or let all train again.

    Modules of a frozen part are also set to evaluation, so that running statistics stay; call it
    again after every `network.train()`.

    Raises
    ------
    ConfigError
        A prefix that fits no parameter; the message lists the parts there are.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(_under(name, prefix) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ConfigError(
                f"training.freeze: no part of the network is named {prefix!r}; parts: {', '.join(parts)}"
            )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not (frozen and any(_under(name, prefix) for prefix in prefixes)))
    if frozen:
        for name, module in network.named_modules():
            if any(_under(name, prefix) for prefix in prefixes):
                module.eval()
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError("training.freeze freezes the whole network; leave a part that can train")


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")
