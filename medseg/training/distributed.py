"""Several training processes: joined as torchrun starts them, ended together, with the reason."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from medseg.errors import Interrupted, MedsegError, TrainingError

_REASON_WAIT_S = 3.0
_T = TypeVar("_T")


class _Store(Protocol):
    """What is used of a torch.distributed store."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def wait(self, keys: list[str], timeout: datetime.timedelta, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1


def processes() -> Processes:
    """Place of this process, from torch.distributed where it is initialised."""
    if dist.is_available() and dist.is_initialized():
        return Processes(rank=dist.get_rank(), world_size=dist.get_world_size())
    return Processes()


@contextlib.contextmanager
def process_group(
    *, device: torch.device, timeout_s: float = 30.0, join_timeout_s: float = 600.0
) -> Iterator[Processes]:
    """Join the processes that torchrun started; a single process just goes on.

    An error in one process ends all of them: its reason is left in the shared store, the others stop
    at their next exchange and repeat it. A process that is silent for `timeout_s` ends the others too.

    Parameters
    ----------
    device : torch.device
        NCCL for cuda, gloo for cpu.
    timeout_s : float, optional
        Longest wait for the other processes at one exchange.
    join_timeout_s : float, optional
        Longest wait until all processes are here.

    Raises
    ------
    TrainingError
        Another process failed, died or is silent, or did not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    store, rank, world_size = _join(join_timeout_s)
    timeout = datetime.timedelta(seconds=timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    try:
        yield Processes(rank=rank, world_size=world_size)
    except Interrupted:
        raise
    except MedsegError as err:
        _leave_reason(store, rank, str(err))
        raise
    except RuntimeError as err:
        reason = _reason_of_others(store, rank, world_size)
        if reason is None and not _is_connection_error(err):
            _leave_reason(store, rank, f"{type(err).__name__}: {err}")
            raise
        raise TrainingError(reason or _silence_text(rank, world_size, timeout_s)) from err
    finally:
        # After an error the peers may be gone, and then there is nobody to part from.
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _join(timeout_s: float) -> tuple[Any, int, int]:
    """Store, rank and number of processes, once all of them are here."""
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        store.set(f"medseg/here/{rank}", "")
        store.wait([f"medseg/here/{number}" for number in range(world_size)], timeout)
    except RuntimeError as err:
        raise TrainingError(
            f"the training processes did not all come together within {timeout_s:g} s; "
            "look at the number of processes, MASTER_ADDR and MASTER_PORT, and the logs of the other machines"
        ) from err
    return store, rank, world_size


def _is_connection_error(err: RuntimeError) -> bool:
    text = str(err).lower()
    return isinstance(err, dist.DistError) or any(
        word in text for word in ("connection", "timed out", "timeout", "gloo", "nccl", "broken pipe")
    )


def _leave_reason(store: _Store, rank: int, text: str) -> None:
    with contextlib.suppress(RuntimeError):
        store.set(f"medseg/failed/{rank}", text)


def _reason_of_others(store: _Store, rank: int, world_size: int) -> str | None:
    """What another process left in the store, waited for a moment; None where the store is gone too."""
    end = time.monotonic() + _REASON_WAIT_S
    others = [number for number in range(world_size) if number != rank]
    with contextlib.suppress(RuntimeError):
        while time.monotonic() < end:
            for number in others:
                if store.check([f"medseg/failed/{number}"]):
                    text = store.get(f"medseg/failed/{number}").decode("utf-8", "replace")
                    return f"training process {number} of {world_size} failed: {text}"
            time.sleep(0.1)
    return None


def _silence_text(rank: int, world_size: int, timeout_s: float) -> str:
    return (
        f"training process {rank} of {world_size} lost another one, which died without a word or was "
        f"silent for {timeout_s:g} s; look at memory and the log of that machine, and give the same "
        "command again to go on from the last checkpoint"
    )


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over all processes; the network itself where there is one."""
    if processes().world_size == 1:
        return network
    ids = [device.index or 0] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids)


def average(value: float, device: torch.device) -> float:
    """Mean of a number over all processes."""
    world_size = processes().world_size
    if world_size == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return float(tensor) / world_size


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    return flag if processes().world_size == 1 else average(float(flag), device) > 0


def from_first(value: _T) -> _T:
    """The plain value that process 0 has, in every process."""
    if processes().world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait until all processes are here."""
    if processes().world_size > 1:
        dist.barrier()
