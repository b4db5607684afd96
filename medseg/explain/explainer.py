"""All maps of a structure, of one network or the members of an ensemble, each with its randomisation test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.explain.gradcam import level_of, seg_grad_cam
from medseg.explain.occlusion import Fill, Occlusion, box_size, boxes_of, occlusion_maps
from medseg.explain.sanity import Sanity, Step, judge, randomisation_test
from medseg.explain.target import Target
from medseg.models.network import SegmentationNetwork
from medseg.transforms.image_view import ImageView

Method = Literal["gradcam", "occlusion"]
Progress = Callable[[str], None]
METHODS: tuple[Method, ...] = get_args(Method)
_OCCLUSION_STEPS, _ENSEMBLE_STEPS = 4, 2
"""Random networks in the test of an occlusion map, which takes hundreds of answers; of an ensemble for each member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """How an image is explained.

    Parameters
    ----------
    methods : tuple of Method
    level : int
        Feature level of Grad-CAM; negative ones count from the coarsest.
    box : tuple of int or None
        Voxels of an occluded box on the prepared grid; a share of the image unless given.
    fill : {"mean", "minimum"}
        What covers a box.
    batch_size : int
        Covered images that the network is shown at a time.
    draws : int
        Repetitions of the randomisation test of Grad-CAM.
    seed : int
        Of the random weights.
    """

    methods: tuple[Method, ...] = METHODS
    level: int = -1
    box: tuple[int, ...] | None = None
    fill: Fill = "mean"
    batch_size: int = 8
    draws: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMap:
    """A map on the prepared grid: its name, unit, facts, and the outcome of its test."""

    name: str
    method: Method
    unit: str
    values: NDArray[np.float32]
    facts: dict[str, Any]
    sanity: Sanity


@dataclass(slots=True, kw_only=True)
class Explainer:
    """Networks of an ensemble, or one, and the image that they are shown.

    Parameters
    ----------
    networks : sequence of SegmentationNetwork
        In evaluation mode, weights without gradient. Of several, maps are averaged.
    view : ImageView
        Prepared image.
    window : tuple of int or None
    options : ExplainOptions
    """

    networks: Sequence[SegmentationNetwork]
    view: ImageView
    window: tuple[int, ...] | None
    options: ExplainOptions

    def maps(self, target: Target, tell: Progress = lambda _: None) -> list[FoundMap]:
        """All maps of one structure on the prepared grid."""
        found: list[FoundMap] = []
        if "gradcam" in self.options.methods:
            found.append(self._grad_cam(target, tell))
        if "occlusion" in self.options.methods:
            found += self._occlusion(target, tell)
        return found

    def _grad_cam(self, target: Target, tell: Progress) -> FoundMap:
        options = self.options
        level = level_of(self.networks[0], self.view, self.window, options.level)

        def explain(network: nn.Module) -> NDArray[np.float32]:
            return seg_grad_cam(
                cast(SegmentationNetwork, network), self.view, target, level=level, window=self.window
            )

        tell(f"Grad-CAM of {target.name}")
        maps = [explain(network) for network in self.networks]
        tests = [
            self._test(n, m, explain, draws=options.draws) for n, m in zip(self.networks, maps, strict=True)
        ]
        values = _mean_map([part / (part.max() or np.float32(1)) for part in maps])
        return FoundMap(
            name="gradcam",
            method="gradcam",
            unit="share of the largest value",
            values=np.asarray(values / (values.max() or 1.0), dtype=np.float32),
            facts={"level": level, "largest": [float(part.max()) for part in maps]},
            sanity=combined(tests),
        )

    def _occlusion(self, target: Target, tell: Progress) -> list[FoundMap]:
        options, size = self.options, box_size(self.view.shape, self.options.box)
        count = len(boxes_of(self.view.shape, size))

        def cover(network: nn.Module) -> Occlusion:
            return occlusion_maps(
                network,
                self.view,
                target,
                size=size,
                fill=options.fill,
                window=self.window,
                batch_size=options.batch_size,
            )

        tell(f"occlusion of {target.name}: {count} boxes for each of {len(self.networks)} networks")
        covered = [cover(network) for network in self.networks]
        # The logit and the Dice come from the same answers, so one run of random networks tests both.
        both = [_BothMaps(cover) for _ in self.networks]
        most_steps = _OCCLUSION_STEPS if len(self.networks) == 1 else _ENSEMBLE_STEPS
        logit = [
            self._test(n, c.logit, b.first, draws=1, most_steps=most_steps)
            for n, c, b in zip(self.networks, covered, both, strict=True)
        ]
        dice = [
            self._test(n, c.dice, b.second, draws=1, most_steps=most_steps)
            for n, c, b in zip(self.networks, covered, both, strict=True)
        ]
        facts = {"boxes": count, "box_voxels": list(size)}
        return [
            FoundMap(
                name="occlusion_logit",
                method="occlusion",
                unit="fall of the mean logit",
                values=_mean_map([c.logit for c in covered]),
                facts=facts | {"uncovered": float(np.mean([c.base_logit for c in covered]))},
                sanity=combined(logit),
            ),
            FoundMap(
                name="occlusion_dice",
                method="occlusion",
                unit="fall of the soft Dice",
                values=_mean_map([c.dice for c in covered]),
                facts=facts | {"uncovered": float(np.mean([c.base_dice for c in covered]))},
                sanity=combined(dice),
            ),
        ]

    def _test(
        self,
        network: SegmentationNetwork,
        original: NDArray[np.float32],
        explain: Callable[[nn.Module], NDArray[np.float32]],
        *,
        draws: int,
        most_steps: int | None = None,
    ) -> Sanity:
        box = tuple(
            slice(0, min(n, w)) for n, w in zip(self.view.shape, self.window or self.view.shape, strict=True)
        )
        example = torch.from_numpy(np.ascontiguousarray(self.view.read(box)))[None]
        return randomisation_test(
            network,
            original,
            explain,
            example=example.to(next(network.parameters()).device),
            seed=self.options.seed,
            draws=draws,
            most_steps=most_steps,
        )


class _BothMaps:
    """Two maps that one run gives; the second is remembered for the second asking, in the same order."""

    def __init__(self, cover: Callable[[nn.Module], Occlusion]) -> None:
        self._cover = cover
        self._second: list[NDArray[np.float32]] = []

    def first(self, network: nn.Module) -> NDArray[np.float32]:
        """The first map; keeps the second."""
        found = self._cover(network)
        self._second.append(found.dice)
        return found.logit

    def second(self, _: nn.Module) -> NDArray[np.float32]:
        """The second map of the network that was asked for as early."""
        return self._second.pop(0)


def combined(tests: Sequence[Sanity]) -> Sanity:
    """The mean of the tests of an ensemble's members, whose layers are the same."""
    if len(tests) == 1:
        return tests[0]
    steps = tuple(
        Step(
            layer=together[0].layer,
            rank_correlation=_mean([step.rank_correlation for step in together]),
            structural_similarity=_mean([step.structural_similarity for step in together]),
        )
        for together in zip(*(test.steps for test in tests), strict=True)
    )
    return judge(steps, draws=sum(test.draws for test in tests))


def _mean_map(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(np.mean(np.stack(maps), axis=0), dtype=np.float32)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
