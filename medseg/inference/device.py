"""Windows to a CUDA device and blocks back, so that copying, computing and what follows on the processor overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.inference.options import Precision
from medseg.inference.window_blend import Block

# What the network itself may need is not known beforehand; sums get at most this part of the free memory.
_SUMS_SHARE = 0.4
_GATHERED_SHARE = 0.1


def autocast_dtype(device: torch.device | str, precision: Precision) -> torch.dtype:
    """Precision in which a network runs on a device.

    Parameters
    ----------
    device : torch.device or str
    precision : {"auto", "fp32", "fp16", "bf16"}
        auto: fp16 on CUDA, else fp32. Processors without instructions for bf16 take hundreds of times as long.

    Raises
    ------
    ConfigError
        Half precision on a processor.
    """
    on_cuda = torch.device(device).type == "cuda"
    if precision == "auto":
        return torch.float16 if on_cuda else torch.float32
    if precision != "fp32" and not on_cuda:
        raise ConfigError(
            f"predict.precision is {precision}, which needs a CUDA device; set it to auto, or to fp32"
        )
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def free_device_bytes(device: torch.device) -> int | None:
    """Free memory of a CUDA device; None for one whose memory is the machine's."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def sums_device(device: torch.device, sums_bytes: int) -> torch.device:
    """Where windows are summed: on the device of the network where there is room, else in the machine's memory.

    Parameters
    ----------
    device : torch.device
        Of the network.
    sums_bytes : int
        What the sums take at most.
    """
    free = free_device_bytes(device)
    return device if free is None or sums_bytes <= _SUMS_SHARE * free else torch.device("cpu")


def gathering_device(device: torch.device, *, sums_bytes: int, gathered_bytes: int) -> torch.device:
    """Where finished blocks become masks: on a CUDA device that holds the sums and the masks, else on the processor.

    Parameters
    ----------
    device : torch.device
        Of the network.
    sums_bytes : int
        What the sums take at most.
    gathered_bytes : int
        What is gathered of the blocks, whole images of classes.
    """
    free = free_device_bytes(device)
    if free is None or sums_bytes > _SUMS_SHARE * free or gathered_bytes > _GATHERED_SHARE * free:
        return torch.device("cpu")
    return device


def on_processor(blocks: Iterator[Block], *, ahead: int) -> Iterator[Block]:
    """Blocks in the machine's memory, in their order.

    Parameters
    ----------
    blocks : iterator of Block
    ahead : int
        Of a CUDA device so many blocks are on their way back while the device computes: the next run of the network
        is begun before the first of them is waited for.
    """
    waiting: deque[tuple[Block, torch.cuda.Event]] = deque()
    for block in blocks:
        if block.values.device.type != "cuda":
            yield block
            continue
        waiting.append(_coming(block))
        if len(waiting) > ahead:
            yield _arrived(waiting.popleft())
    while waiting:
        yield _arrived(waiting.popleft())


def _coming(block: Block) -> tuple[Block, torch.cuda.Event]:
    values: Tensor = torch.empty(block.values.shape, dtype=block.values.dtype, pin_memory=True)
    values.copy_(block.values, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(block.values.device))
    return Block(place=block.place, values=values), event


def _arrived(coming: tuple[Block, torch.cuda.Event]) -> Block:
    block, event = coming
    event.synchronize()
    return block
