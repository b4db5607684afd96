"""The first network, patch and batch, from the best down, whose training fits into the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from medseg.amounts import bytes_text
from medseg.errors import ConfigError
from medseg.models.options import NETWORK_OPTIONS, NetworkOptions, SmallUNetOptions
from medseg.planning.decision import Decision, chosen, given
from medseg.planning.grids import Grid, median_shape, median_spacing
from medseg.planning.machine import Machine
from medseg.planning.network_memory import NetworkMemory, weigh_network
from medseg.planning.network_plan import (
    Sampling,
    check_patch,
    most_levels,
    network_kind,
    network_options,
    plan_patch,
    plan_topology,
    samplings,
    uniform,
)

PatchWish = Literal["auto"] | tuple[int, ...] | None
_FIT_TEXT = "to fit into the memory budget"
_KINDS = {
    "small_unet": "for a CPU: works at half resolution",
    "unet": "for a CPU: one convolution a level, narrow at full resolution",
    "residual_unet": "for a GPU: residual encoder, deep supervision",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the settings say; `auto` leaves it to the plan.

    Parameters
    ----------
    model : NetworkOptions or "auto"
    model_reason : str
        Why the model is this one, where it is neither auto nor given: that of a bundle. "" if given.
    patch, window : "auto", tuple of int, or None
    batch : "auto" or int
    """

    model: NetworkOptions | Literal["auto"] = "auto"
    model_reason: str = ""
    patch: PatchWish = "auto"
    batch: Literal["auto"] | int = "auto"
    window: PatchWish = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network with what it is shown in a step. `patch` is None where that is the whole image."""

    model: NetworkOptions
    patch: tuple[int, ...] | None
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePlan:
    """The candidate that was taken, why, and its memory.

    Parameters
    ----------
    number : int
        Place of the candidate; a smaller training has a larger one.
    """

    number: int
    candidate: Candidate
    decisions: tuple[Decision, ...]
    memory: NetworkMemory
    ram_bytes: int
    gpu_bytes: int | None


@dataclass(kw_only=True)
class ShapePlanner:
    """Network, patch and batch for prepared images.

    Parameters
    ----------
    grids : sequence of Grid
        Prepared training images.
    largest_voxels : int
        Of the largest prepared image, those for validation included.
    in_channels, class_count : int
    machine : Machine
    wishes : Wishes
    """

    grids: Sequence[Grid]
    largest_voxels: int
    in_channels: int
    class_count: int
    machine: Machine
    wishes: Wishes
    _weights: dict[str, NetworkMemory] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        """Axes of the images."""
        return len(self.grids[0].shape)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Median shape."""
        return median_shape(self.grids)

    @cached_property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """Median spacing."""
        return median_spacing(self.grids)

    def plan(self, *, after: int = -1) -> ShapePlan:
        """The first candidate beyond number `after` that fits.

        Raises
        ------
        ConfigError
            The budget holds none of them; names the smallest that would do.
        """
        candidates = list(self.candidates())
        least: tuple[int, Candidate] | None = None
        for number, candidate in enumerate(candidates):
            memory = self.memory(candidate)
            ram, gpu = self._bytes(memory, candidate)
            if number > after and self._fits(ram, gpu):
                return self._taken(number, candidate, memory, ram, gpu)
            if least is None or (gpu or ram) <= least[0]:
                least = (gpu or ram), candidate
        if len(candidates) == 1:
            # All of it is given: it stays, and the plan says what it takes.
            memory = self.memory(candidates[0])
            return self._taken(0, candidates[0], memory, *self._bytes(memory, candidates[0]))
        raise ConfigError(self._refusal(least))

    def candidates(self) -> Iterator[Candidate]:
        """Trainings from the best down; each batch has fewer voxels than the one before."""
        wishes = self.wishes
        batch = None if wishes.batch == "auto" else wishes.batch
        if isinstance(wishes.patch, tuple):
            check_patch(wishes.patch, self.dims)
        whole = wishes.patch is None or (wishes.patch == "auto" and self._whole_images())
        if whole or isinstance(wishes.patch, tuple):
            fixed = wishes.patch if isinstance(wishes.patch, tuple) else None
            yield from self._fixed(fixed, batch=batch)
            if wishes.patch != "auto":
                return
        for sampling in samplings(
            lambda most: self.network_and_patch(most)[1],
            device=self.machine.device,
            dims=self.dims,
            batch=batch,
        ):
            if not whole or sampling.voxels < math.prod(self.shape):
                model, _ = self.network_and_patch(math.prod(sampling.patch))
                yield Candidate(model=model, patch=sampling.patch, sampling=sampling)

    def _whole_images(self) -> bool:
        """Whether samples are whole images: pictures of one size."""
        return self.dims == 2 and len({grid.shape for grid in self.grids}) == 1

    def _fixed(self, patch: tuple[int, ...] | None, *, batch: int | None) -> Iterator[Candidate]:
        shown = patch or self.shape
        model = self.network(shown)
        for sampling in samplings(lambda _: shown, device=self.machine.device, dims=self.dims, batch=batch):
            yield Candidate(model=model, patch=patch, sampling=sampling)

    def network_and_patch(self, most_voxels: int) -> tuple[NetworkOptions, tuple[int, ...]]:
        """The network for samples of at most so many voxels, and the sample that fits its strides."""
        rough = plan_patch(
            self.shape,
            self.spacing_mm,
            stride=(1,) * self.dims,
            least=(1,) * self.dims,
            most_voxels=most_voxels,
        )
        model = self.network(rough)
        stride = model.total_stride(self.dims)
        return model, plan_patch(self.shape, self.spacing_mm, stride=stride, most_voxels=most_voxels)

    def network(self, shown: Sequence[int]) -> NetworkOptions:
        """The given network, or the one for samples of this size."""
        if self.wishes.model != "auto":
            return self.wishes.model
        device = self.machine.device
        kind = network_kind(device, self.dims)
        fold = kind is SmallUNetOptions
        per_axis = {"strides", "kernels"} <= set(kind.model_fields)
        topology = plan_topology(
            shown, self.spacing_mm, most_levels=most_levels(device, self.dims), fold=fold
        )
        if not per_axis or topology.levels < 2:
            topology = uniform(topology, shown, least_levels=2, fold=fold)
        return NETWORK_OPTIONS.validate_python(
            network_options(
                topology,
                device=device,
                class_count=self.class_count,
                in_channels=self.in_channels,
                per_axis=per_axis,
            )
        )

    def memory(self, candidate: Candidate) -> NetworkMemory:
        """What the network of a candidate keeps, counted once for each network."""
        key = candidate.model.model_dump_json()
        if key not in self._weights:
            self._weights[key] = weigh_network(
                candidate.model,
                spatial_dims=self.dims,
                in_channels=self.in_channels,
                class_count=self.class_count,
            )
        return self._weights[key]

    def _bytes(self, memory: NetworkMemory, candidate: Candidate) -> tuple[int, int | None]:
        """Main memory and that of the GPU."""
        largest = self.largest_voxels
        if self.machine.device == "cpu":
            return memory.training_bytes(candidate.sampling, largest_voxels=largest, device="cpu"), None
        samples = Sampling(patch=candidate.sampling.patch, batch=0)
        host = memory.training_bytes(samples, largest_voxels=largest, device="cpu")
        return host, memory.training_bytes(candidate.sampling, largest_voxels=largest, device="cuda")

    def _fits(self, ram: int, gpu: int | None) -> bool:
        machine = self.machine
        return ram <= machine.ram_bytes and (
            gpu is None or machine.gpu_bytes is None or gpu <= machine.gpu_bytes
        )

    def _refusal(self, least: tuple[int, Candidate] | None) -> str:
        machine = self.machine
        gpu = machine.device == "cuda"
        name = "budget.gpu_memory" if gpu else "budget.ram"
        has = (machine.gpu_bytes or 0) if gpu else machine.ram_bytes
        needed = 0 if least is None else least[0]
        what = "" if least is None else _shape_text(least[1])
        return (
            f"{name} is {bytes_text(has)}, but the smallest training of these images ({what}) takes about "
            f"{bytes_text(needed)}; set {name} to {bytes_text(math.ceil(needed / 5e7) * 5e7).replace(' ', '')} "
            "or more"
        )

    def _taken(
        self, number: int, candidate: Candidate, memory: NetworkMemory, ram: int, gpu: int | None
    ) -> ShapePlan:
        decisions = (
            self._model(candidate, memory),
            self._patch(candidate, number),
            self._batch(candidate, number),
            self._window(candidate),
        )
        return ShapePlan(
            number=number,
            candidate=candidate,
            decisions=decisions,
            memory=memory,
            ram_bytes=ram,
            gpu_bytes=gpu,
        )

    def _model(self, candidate: Candidate, memory: NetworkMemory) -> Decision:
        value = candidate.model.model_dump(mode="json", exclude_defaults=True)
        value = {"use": candidate.model.use, "channels": list(candidate.model.channels), **value}
        size = f"{memory.parameters / 1e6:.2f} M parameters"
        if self.wishes.model != "auto":
            if self.wishes.model_reason:
                return chosen("model", value, f"{self.wishes.model_reason}; {size}")
            return given("model", value)
        kind = _KINDS[candidate.model.use]
        stride = " x ".join(map(str, candidate.model.total_stride(self.dims)))
        return chosen(
            "model", value, f"{kind}; {candidate.model.levels} levels shrink {stride} times; {size}"
        )

    def _patch(self, candidate: Candidate, number: int) -> Decision:
        name = "training.patch_size"
        if self.wishes.patch != "auto":
            return given(name, _listed(candidate.patch))
        if candidate.patch is None:
            return chosen(name, None, "whole images: all have one size")
        typical, stride = " x ".join(map(str, self.shape)), candidate.model.total_stride(self.dims)
        full = tuple(-(-n // s) * s for n, s in zip(self.shape, stride, strict=True))
        if all(p >= f for p, f in zip(candidate.patch, full, strict=True)):
            reason = f"the typical image of {typical} voxels, rounded up to the network's strides"
        elif number and math.prod(candidate.patch) < math.prod(self.network_and_patch(self._most())[1]):
            reason = f"a part of the typical image of {typical} voxels, {_FIT_TEXT}"
        else:
            means = "can show often" if self.machine.device == "cpu" else "gains from"
            reason = (
                f"a part of the typical image of {typical} voxels: as much as a "
                f"{'CPU' if self.machine.device == 'cpu' else 'network'} {means}"
            )
        return chosen(name, list(candidate.patch), reason)

    def _most(self) -> int:
        return max(math.prod(self.shape), 1 << 18)

    def _batch(self, candidate: Candidate, number: int) -> Decision:
        value = candidate.sampling.batch
        if self.wishes.batch != "auto":
            return given("training.batch_size", value)
        reason = f"{candidate.sampling.voxels / 1e6:.2g} M voxels in a step"
        return chosen("training.batch_size", value, reason + (f", {_FIT_TEXT}" if number else ""))

    def _window(self, candidate: Candidate) -> Decision:
        name = "inference.window"
        if self.wishes.window != "auto":
            return given(name, _listed(self.wishes.window))
        reason = "as in training" if candidate.patch else "whole images, as in training"
        return chosen(name, _listed(candidate.patch), reason)


def _listed(value: Sequence[int] | str | None) -> Any:
    return value if value is None or isinstance(value, str) else list(value)


def _shape_text(candidate: Candidate) -> str:
    return f"{' x '.join(map(str, candidate.sampling.patch))} voxels, batch {candidate.sampling.batch}"
