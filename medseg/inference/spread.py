"""How far the members of an ensemble are apart, from the answers that are averaged anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.transforms.class_choice import index_kind

SPREAD = ("disagreement", "variance")
"""Names of the channels that `MemberSpread.channels` gives."""


class MemberSpread:
    """Sums over the members' answers to one batch of windows.

    Two numbers for each voxel. Disagreement: the share of pairs of members whose most probable class differs, 0 to 1.
    Variance: the variance of the probability over members, summed over classes, 0 to (M - 1) / M.
    """

    def __init__(self) -> None:
        self._winners: list[Tensor] = []
        self._sum, self._squares = torch.zeros(()), torch.zeros(())

    def add(self, probabilities: Tensor) -> None:
        """Take the answer of the next member, (B, L, *window) float32; it is left as it is."""
        first = not self._winners
        kind = index_kind(probabilities.shape[1])
        self._winners.append(probabilities.argmax(dim=1).to(kind))
        squares = torch.linalg.vector_norm(probabilities, dim=1).square_()
        self._sum = probabilities.clone() if first else self._sum.add_(probabilities)
        self._squares = squares if first else self._squares.add_(squares)

    def channels(self) -> Tensor:
        """(B, 2, *window) disagreement and variance of the members so far."""
        if not self._winners:
            raise ValueError("there is no member")
        count = len(self._winners)
        apart = torch.zeros(self._squares.shape, dtype=torch.float32, device=self._squares.device)
        for number, winner in enumerate(self._winners):
            for other in self._winners[number + 1 :]:
                apart += winner != other
        apart /= max(1, count * (count - 1) // 2)
        mean_square = torch.linalg.vector_norm(self._sum, dim=1).div_(count).square_()
        return torch.stack([apart, (self._squares / count - mean_square).clamp_(min=0)], dim=1)
