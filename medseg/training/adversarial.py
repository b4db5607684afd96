"""Batches that a training attacks before it learns from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medseg.training.attacks import Ball, Loss, fgsm, pgd
from medseg.training.options import AdversarialOptions


def attacked_batch(loss: Loss, image: Tensor, network: nn.Module, options: AdversarialOptions) -> Tensor:
    """A batch after an attack, or as it is where chance leaves it alone.

    Parameters
    ----------
    loss : callable (B, C, *sp) -> scalar
        Of this network and these labels.
    image : (B, C, *sp) tensor
    network : nn.Module
        Its statistics and weights are left as they are; it is attacked in evaluation mode, as it will be used.
    options : AdversarialOptions

    Returns
    -------
    (B, C, *sp) tensor
        Chance and start are drawn from torch's random state, which the step has seeded.
    """
    if torch.rand(()) >= options.probability:
        return image
    axes = tuple(range(1, image.ndim))
    spread = image.amax(dim=axes, keepdim=True) - image.amin(dim=axes, keepdim=True)
    ball = Ball.around(image, spread * (options.epsilon / 100))
    with _evaluating(network):
        if options.use == "fgsm":
            return fgsm(loss, ball, start=ball.somewhere())
        return pgd(loss, ball, steps=options.steps)


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: running statistics must not learn from attacks that are still being made."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
