"""Optimisers, learning-rate schedules as functions of the step, and frozen parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
    network: nn.Module,
    options: OptimiserOptions,
    *,
    learning_rate: float,
    factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters; biases and norm weights (one axis) are not decayed.

    Frozen parameters are in it as well, so that its state fits before and after they thaw; without a
    gradient they are not changed.

    Parameters
    ----------
    network : nn.Module
    options : OptimiserOptions
    learning_rate : float
    factors : mapping of str to float, optional
        Name prefix -> factor of the learning rate of the parameters under it; the longest prefix counts.
        Each parameter group holds its own as `rate_factor`, which `set_learning_rate` multiplies by.

    Raises
    ------
    ConfigError
        A prefix that fits no parameter; the message lists the parts there are.
    """
    groups = _groups(network, options.weight_decay, factors or {})
    # One kernel for all steps of a parameter: a third of the time of a step by single operations.
    match options:
        case AdamwOptions():
            betas = (options.beta1, options.beta2)
            return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
        case SgdOptions():
            return torch.optim.SGD(
                groups, lr=learning_rate, momentum=options.momentum, nesterov=options.nesterov, fused=True
            )


def _groups(network: nn.Module, weight_decay: float, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters by (factor, decayed or not), in an order that follows from names and settings alone."""
    _check_prefixes(network, tuple(factors), "training.learning_rates")
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        under = [prefix for prefix in factors if _under(name, prefix)]
        factor = factors[max(under, key=len)] if under else 1.0
        found.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0, "rate_factor": factor}
        for (factor, decayed), parameters in sorted(found.items(), key=lambda item: item[0], reverse=True)
    ]


def learning_rate_at(
    options: ScheduleOptions, *, peak: float, step: float, steps: int, steps_per_epoch: int
) -> float:
    """Learning rate of step `step`, counted from 0, of `steps`: a pure function, nothing to resume.

    Parameters
    ----------
    options : ScheduleOptions
    peak : float
        `training.learning_rate`.
    step, steps : float, int
        Place in the schedule and its length. An update is one step, unless the schedule was
        fitted to the time (see `timetable`).
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
            return peak * min(1.0, (step + 1) / (options.warmup * last + 1))


def _one_cycle(options: OneCycleOptions, *, step: float, last: int) -> float:
    top = options.warmup * last
    if step < top:
        return _half_cosine(options.start_factor, 1.0, step / top)
    return _half_cosine(1.0, options.end_factor, (step - top) / max(1e-9, last - top))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` for all parameters, times the factor of their group."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_factor"]


def set_frozen(network: nn.Module, prefixes: Sequence[str], *, frozen: bool) -> None:
    """Freeze the parameters under name prefixes, or let all train again.

    Modules of a frozen part are also set to evaluation, so that running statistics stay; call it
    again after every `network.train()`.

    Raises
    ------
    ConfigError
        A prefix that fits no parameter; the message lists the parts there are.
    """
    _check_prefixes(network, prefixes, "training.freeze")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not (frozen and any(_under(name, prefix) for prefix in prefixes)))
    if frozen:
        for name, module in network.named_modules():
            if any(_under(name, prefix) for prefix in prefixes):
                module.eval()
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError("training.freeze freezes the whole network; leave a part that can train")


def _check_prefixes(network: nn.Module, prefixes: Sequence[str], setting: str) -> None:
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(_under(name, prefix) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ConfigError(
                f"{setting}: no part of the network is named {prefix!r}; parts: {', '.join(parts)}"
            )


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")
