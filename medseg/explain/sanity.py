"""Whether a map depends on the weights: layer after layer is drawn anew, and the map must change.

From the output towards the input, each layer gets fresh random weights and the ones before it keep theirs
("cascading randomisation"). A map that stays alike when nothing learnt is left does not explain the
network; it shows the image, as an edge detector does.

References
----------
Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, arXiv:1810.03292.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.explain.similarity import rank_correlation, structural_similarity
from medseg.models.blocks import initialise

LIMIT = 0.5
"""A map whose rank correlation with that of the wholly random network is larger fails; the paper names no limit."""

Explain = Callable[[nn.Module], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A part of a network that is randomised at once: its name and its modules with weights of their own."""

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Likeness to the original map once a layer and all behind it are random.

    Mean size of the rank correlation (a map turned round is as alike as one that is not) and mean SSIM over the draws;
    None where a map was constant in every draw.
    """

    layer: str
    rank_correlation: float | None
    structural_similarity: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sanity:
    """Outcome of the test.

    Parameters
    ----------
    steps : tuple of Step
        From the output to the input; in the last one all weights are random.
    draws : int
    passed : bool or None
        None where the maps were constant, and nothing can be said.
    sentence : str
        The outcome for people.
    """

    steps: tuple[Step, ...]
    draws: int
    passed: bool | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"limit": LIMIT}


def layers_of(network: nn.Module, example: Tensor) -> tuple[Layer, ...]:
    """Layers by the order in which they act, the last one first.

    Parameters
    ----------
    network : nn.Module
    example : (1, C, *sp) tensor
        Shown to the network once, to see the order.
    """
    order: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):

            def note(*_: object, name: str = name) -> None:
                order.append(name)

            hooks.append(module.register_forward_hook(note))
    with torch.inference_mode():
        network(example)
    for hook in hooks:
        hook.remove()
    groups: dict[str, list[str]] = {}
    for name in reversed(list(dict.fromkeys(order))):
        groups.setdefault(_layer_name(name), []).append(name)
    return tuple(Layer(name=name, modules=tuple(modules)) for name, modules in groups.items())


def _layer_name(module: str) -> str:
    """`decoder.0` of `decoder.0.1.conv`; `body.bottleneck` where there is no number."""
    parts = module.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), min(1, len(parts) - 1))
    return ".".join(parts[: first + 1])


def randomise(network: nn.Module, layer: Layer) -> None:
    """Fresh weights for one layer, drawn from torch's random state, as a network begins with them."""
    for name in layer.modules:
        module = network.get_submodule(name)
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
            initialise(module)
        else:
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter, std=0.02)


def randomisation_test(
    network: nn.Module,
    original: NDArray[np.float32],
    explain: Explain,
    *,
    example: Tensor,
    seed: int = 0,
    draws: int = 3,
    most_steps: int | None = None,
) -> Sanity:
    """Randomise a copy of a network from its output to its input, and compare the maps.

    Parameters
    ----------
    network : nn.Module
        Left as it is.
    original : (*sp) float32 array
        Its map.
    explain : callable (network) -> map
        Makes the same kind of map of the same image and mask.
    example : (1, C, *sp) tensor
        As for `layers_of`.
    seed : int, optional
        The same seed gives the same weights and leaves torch's own random state alone.
    draws : int, optional
        How often the whole is repeated with other weights.
    most_steps : int, optional
        Maps that are made in one draw, where they are dear; layers are then taken several at a time, the first of
        them (the output) always by itself.
    """
    layers = layers_of(network, example)
    stops = _stops(len(layers), most_steps)
    ranks: list[list[float | None]] = [[] for _ in stops]
    alike: list[list[float | None]] = [[] for _ in stops]
    for draw in range(draws):
        changed = copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + draw)
            for index, layer in enumerate(layers):
                randomise(changed, layer)
                if index in stops:
                    found = explain(changed)
                    rank = rank_correlation(original, found)
                    ranks[stops.index(index)].append(None if rank is None else abs(rank))
                    alike[stops.index(index)].append(structural_similarity(original, found))
    steps = tuple(
        Step(layer=layers[stop].name, rank_correlation=_mean(r), structural_similarity=_mean(s))
        for stop, r, s in zip(stops, ranks, alike, strict=True)
    )
    return judge(steps, draws=draws)


def judge(steps: Sequence[Step], *, draws: int) -> Sanity:
    """The outcome, by the last step: all weights random, nothing learnt left."""
    last = steps[-1].rank_correlation if steps else None
    if last is None:
        return Sanity(
            steps=tuple(steps),
            draws=draws,
            passed=None,
            sentence="The maps were constant, so the weight-randomisation test says nothing; do not use this map.",
        )
    passed = last <= LIMIT
    ending = (
        "it depends on what the network learnt."
        if passed
        else "it shows the image more than what the network learnt; do not take it for an explanation."
    )
    said = "passes" if passed else "FAILS"
    return Sanity(
        steps=tuple(steps),
        draws=draws,
        passed=passed,
        sentence=f"The map {said} the weight-randomisation test (rank correlation {last:.2f} with the map of a network "
        f"of random weights, limit {LIMIT:g}): {ending}",
    )


def _stops(count: int, most: int | None) -> list[int]:
    if most is None or count <= most:
        return list(range(count))
    return sorted({0, *np.linspace(0, count - 1, max(2, most)).round().astype(int).tolist()})


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
