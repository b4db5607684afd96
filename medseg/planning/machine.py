"""The machine that a training is planned for."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medseg.errors import ConfigError
from medseg.memory import free_memory_bytes
from medseg.planning.options import BudgetOptions

RAM_SHARE = 0.7
GPU_SHARE = 0.9
# What is assumed where the system does not tell how much is free.
_UNKNOWN_RAM = 4 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the training may use.

    Parameters
    ----------
    device : "cpu" or "cuda"
    cores : int
        CPU threads of the training.
    ram_bytes : int
        Memory that it may take.
    gpu_bytes : int or None
        The same on the CUDA device; None without one.
    ram_given, gpu_given : bool
        Whether the settings say so; else it is a share of what is free.
    """

    device: Literal["cpu", "cuda"]
    cores: int
    ram_bytes: int
    gpu_bytes: int | None = None
    ram_given: bool = False
    gpu_given: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def this_machine(budget: BudgetOptions, *, device: str, threads: int) -> Machine:
    """The machine as it is now, within the budget.

    Parameters
    ----------
    device : str
        A torch device: ``cpu``, ``cuda`` or ``cuda:1``.
    threads : int

    Raises
    ------
    ConfigError
        The budget is more than the machine has.
    """
    free = free_memory_bytes()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if budget.ram is not None and budget.ram > total:
        raise ConfigError(
            f"budget.ram is {budget.ram / 1e9:.1f} GB, this machine has {total / 1e9:.1f} GB; lower it, or leave "
            "it out to take 70 % of what is free"
        )
    cuda = device.startswith("cuda")
    return Machine(
        device="cuda" if cuda else "cpu",
        cores=threads,
        ram_bytes=budget.ram or int(RAM_SHARE * (_UNKNOWN_RAM if free is None else free)),
        gpu_bytes=_gpu_bytes(budget, device) if cuda else None,
        ram_given=budget.ram is not None,
        gpu_given=budget.gpu_memory is not None,
    )


def _gpu_bytes(budget: BudgetOptions, device: str) -> int:
    import torch

    free, total = torch.cuda.mem_get_info(torch.device(device))
    if budget.gpu_memory is not None and budget.gpu_memory > total:
        raise ConfigError(
            f"budget.gpu_memory is {budget.gpu_memory / 1e9:.1f} GB, {device} has {total / 1e9:.1f} GB; lower it"
        )
    return budget.gpu_memory or int(GPU_SHARE * free)
