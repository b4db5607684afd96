"""Small changes of an image that raise the loss most: FGSM and PGD within a box around the image.

Both stay within epsilon of each value, and within the range of the image.

References
----------
Goodfellow et al., Explaining and harnessing adversarial examples, ICLR 2015, arXiv:1412.6572 (FGSM); Madry et al.,
Towards deep learning models resistant to adversarial attacks, ICLR 2018, arXiv:1706.06083 (PGD); Wong et
al., Fast is better than free, ICLR 2020, arXiv:2001.03994 (FGSM from a random start, for training).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]
_STEP = 2.5
"""PGD's steps are so many times epsilon / steps long, as Madry et al. took them: long enough to reach every corner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ball:
    """Images that an attack may make of one.

    Parameters
    ----------
    image : (B, C, *sp) tensor
    epsilon : float or (B, 1, ...) tensor
        Largest change of a value, in the values of the image.
    low, high : tensor
        Range of each image, (B, 1, ...).
    """

    image: Tensor
    epsilon: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, image: Tensor, epsilon: float | Tensor) -> Ball:
        """Of an image as it is; its least and largest value bound the changed one, too."""
        image = image.detach()
        axes = tuple(range(1, image.ndim))
        size = torch.as_tensor(epsilon, dtype=image.dtype, device=image.device)
        return cls(
            image=image,
            epsilon=size,
            low=image.amin(dim=axes, keepdim=True),
            high=image.amax(dim=axes, keepdim=True),
        )

    def nearest(self, changed: Tensor) -> Tensor:
        """The image of the ball that is nearest."""
        within = torch.minimum(torch.maximum(changed, self.image - self.epsilon), self.image + self.epsilon)
        return torch.minimum(torch.maximum(within, self.low), self.high)

    def somewhere(self, generator: torch.Generator | None = None) -> Tensor:
        """An image drawn evenly from the box."""
        random = torch.rand(
            self.image.shape, generator=generator, dtype=self.image.dtype, device="cpu" if generator else None
        )
        return self.nearest(self.image + (2 * random.to(self.image.device) - 1) * self.epsilon)


def fgsm(loss: Loss, ball: Ball, *, start: Tensor | None = None) -> Tensor:
    """One step of epsilon along the sign of the gradient.

    Parameters
    ----------
    loss : callable (B, C, *sp) -> scalar
    ball : Ball
    start : (B, C, *sp) tensor, optional
        Where the gradient is taken; the image itself unless given.
    """
    begin = ball.image if start is None else start
    return ball.nearest(begin + ball.epsilon * _gradient(loss, begin).sign())


def pgd(
    loss: Loss, ball: Ball, *, steps: int, generator: torch.Generator | None = None, keep_best: bool = False
) -> Tensor:
    """Steps along the sign of the gradient from a random start, each brought back into the ball.

    Parameters
    ----------
    loss : callable (B, C, *sp) -> scalar
    ball : Ball
    steps : int
    generator : torch.Generator, optional
        For the start; torch's own random state unless given.
    keep_best : bool, optional
        Whether the image of the highest loss is given instead of the last one, that of FGSM among them; costs two
        more losses. For images one at a time.
    """
    stride = ball.epsilon * (_STEP / steps)
    changed = ball.somewhere(generator)
    best, highest = changed, -torch.inf
    if keep_best:
        best, highest = _better(loss, best, highest, fgsm(loss, ball))
    for _ in range(steps):
        value, gradient = _value_and_gradient(loss, changed)
        if keep_best and value > highest:
            best, highest = changed, value
        changed = ball.nearest(changed + stride * gradient.sign())
    return _better(loss, best, highest, changed)[0] if keep_best else changed


def _better(loss: Loss, best: Tensor, highest: float, other: Tensor) -> tuple[Tensor, float]:
    with torch.no_grad():
        value = float(loss(other))
    return (other, value) if value > highest else (best, highest)


def _gradient(loss: Loss, image: Tensor) -> Tensor:
    return _value_and_gradient(loss, image)[1]


def _value_and_gradient(loss: Loss, image: Tensor) -> tuple[float, Tensor]:
    with torch.enable_grad():
        looked_at = image.detach().requires_grad_(True)
        value = loss(looked_at)
        (gradient,) = torch.autograd.grad(value, looked_at)
    return float(value.detach()), gradient
