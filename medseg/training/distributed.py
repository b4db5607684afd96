"""What several training processes do together: average, decide, wait for each other. Alone, each is itself.

The processes are joined by `process_group`. Numbers and decisions travel over the CPU backend, gradients
over that of the device.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medseg.errors import ConfigError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those that train together, and among those of this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1


def processes() -> Processes:
    """Place of this process, from torch.distributed where it is initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return Processes(
        rank=rank,
        world_size=world_size,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
    )


def local_device(wanted: str) -> torch.device:
    """The device of this process: of several processes on a machine each has a GPU of its own.

    Parameters
    ----------
    wanted : str
        cpu, cuda or cuda:<number>.

    Raises
    ------
    ConfigError
        Fewer GPUs than processes, or one named GPU for several processes.
    """
    place, device = processes(), torch.device(wanted)
    if place.world_size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(
            f"compute.device {wanted} is one GPU, but {place.world_size} processes train; set it to cuda"
        )
    if place.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"{place.local_size} processes on this machine, but torch sees {torch.cuda.device_count()} GPUs; "
            "start as many processes as there are GPUs"
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over all processes; the network itself where there is one."""
    if processes().world_size == 1:
        return network
    ids = [device.index or 0] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids)


def shared(numbers: Sequence[float], votes: Sequence[bool]) -> tuple[list[float], tuple[bool, ...]]:
    """Means of numbers over all processes and, for each vote, whether any process cast it; one exchange."""
    world_size = processes().world_size
    if world_size == 1:
        return list(numbers), tuple(votes)
    tensor = torch.tensor([*numbers, *map(float, votes)], dtype=torch.float64)
    dist.all_reduce(tensor)
    found = tensor.tolist()
    means = [value / world_size for value in found[: len(numbers)]]
    return means, tuple(value > 0 for value in found[len(numbers) :])


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return shared((), (flag,))[1][0]


def from_first(value: _T) -> _T:
    """The plain value that process 0 has, in every process."""
    if processes().world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gathered(value: _T) -> list[_T]:
    """The plain values of all processes, in the order of their ranks, in every process."""
    world_size = processes().world_size
    if world_size == 1:
        return [value]
    values: list[_T | None] = [None] * world_size
    dist.all_gather_object(values, value)
    return [found for found in values if found is not None]


def barrier() -> None:
    """Wait until all processes are here."""
    any_of(False)
