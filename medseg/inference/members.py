"""Where a predictor gets its networks from: one that is there, or the members of an ensemble, one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

KEEP_BYTES = 500 << 20
"""Members that need no more than this together stay in memory from one image to the next."""


class Members(Protocol):
    """Networks whose answers are averaged."""

    @property
    def kept(self) -> bool:
        """Whether networks stay in memory from one block to the next."""

    def __len__(self) -> int: ...

    def network(self, position: int) -> contextlib.AbstractContextManager[nn.Module]:
        """One network, on the device, for as long as the block runs."""


class SingleNetwork:
    """A network that stays where it is."""

    kept = True

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network = network.to(device)

    def __len__(self) -> int:
        return 1

    @contextlib.contextmanager
    def network(self, position: int) -> Iterator[nn.Module]:
        """The network, whatever the position."""
        yield self._network


class LoadedMembers:
    """Networks that are loaded when they are asked for.

    Parameters
    ----------
    load : sequence of callable () -> nn.Module
        One for each member; gives the same weights each time.
    device : torch.device
    keep : bool
        Whether they stay in memory. If not, each is dropped when its block ends, and there is one at a time.
    """

    def __init__(
        self, load: Sequence[Callable[[], nn.Module]], *, device: torch.device, keep: bool = False
    ) -> None:
        self._load, self._device, self._keep = tuple(load), device, keep
        self._kept: dict[int, nn.Module] = {}

    @property
    def kept(self) -> bool:
        """Whether networks stay in memory from one block to the next."""
        return self._keep

    def __len__(self) -> int:
        return len(self._load)

    @contextlib.contextmanager
    def network(self, position: int) -> Iterator[nn.Module]:
        """Load a member, or take the one that was kept."""
        network = self._kept.get(position)
        if network is None:
            network = self._load[position]().to(self._device)
            if self._keep:
                self._kept[position] = network
        try:
            yield network
        finally:
            del network
