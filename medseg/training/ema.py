"""Exponential moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """A second copy of the network whose weights follow the trained ones slowly.

    After update t: average = d * average + (1 - d) * weights with d = min(decay, (1 + t) / (10 + t)),
    so that the start does not weigh on a short training. Buffers, such as running statistics, are copied.

    Parameters
    ----------
    network : nn.Module
    decay : float
        Between 0 and 1.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one step towards the weights of `network`."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        mine = [p.detach() for p in self.network.parameters()]
        theirs = [p.detach() for p in network.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for own, other in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(other)

    def state_dict(self) -> dict[str, Any]:
        """Weights and number of updates."""
        return {"updates": self.updates, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.updates = int(state["updates"])
        self.network.load_state_dict(state["network"])
