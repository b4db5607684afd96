"""The answer of an ensemble to a whole prepared image, block by block, from windows that are blended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import BundleError
from medseg.geometry import GridMap
from medseg.inference.ceiling import Demand, demand_of, extra_bytes
from medseg.inference.device import on_processor, sums_device
from medseg.inference.ensemble import Ensemble
from medseg.inference.options import InferenceOptions
from medseg.inference.sliding_window import Copy, Sweep, copies, joined
from medseg.inference.window_batches import Choice
from medseg.inference.window_blend import Block, Box, TileStore
from medseg.inference.window_fit import fitted_window
from medseg.labels import LabelTable
from medseg.transforms.class_choice import ClassChoice, index_dtype, largest_of
from medseg.transforms.image_view import ImageView, channel_maxima, channel_minima


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendedBlock:
    """A finished part of a prepared image.

    Parameters
    ----------
    place : tuple of slice
    values : (C, *place) float32 tensor
        What was averaged: probabilities or logits, of classes or regions.
    probabilities : (L, *place) float32 tensor
        Of the classes.
    spread : (2, *place) float32 tensor or None
        Of several networks, see `MemberSpread`.
    """

    place: Box
    values: Tensor
    probabilities: Tensor
    spread: Tensor | None


class FiniteCheck:
    """Whether all answers are finite: at once on the CPU; a device, which would have to wait, is asked at the end."""

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._so_far: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Look at a block."""
        found = torch.isfinite(values).all()
        self._so_far = found if self._so_far is None else self._so_far & found
        if found.device.type == "cpu":
            self.close()

    def close(self) -> None:
        """Tell what was found.

        Raises
        ------
        BundleError
            A value that is not finite.
        """
        if self._so_far is not None and not bool(self._so_far):
            raise BundleError(
                "the network gave probabilities that are not finite for a finite image "
                f"(precision {self._precision}); use float32, or check the weights"
            )


class BlendedEnsemble:
    """Shows an ensemble the windows of prepared images.

    Parameters
    ----------
    ensemble : Ensemble
    table : LabelTable
        L classes.
    options : InferenceOptions
    choice : ClassChoice
        Of what is averaged.
    fits_windows : bool, optional
        Whether `windows: fitted` is followed; not where a ceiling of memory was planned for windows as set.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        table: LabelTable,
        options: InferenceOptions,
        choice: ClassChoice,
        fits_windows: bool = True,
    ) -> None:
        self.ensemble, self.table, self.options, self._choice = ensemble, table, options, choice
        self._fits_windows = fits_windows
        self._stride: tuple[int, ...] | None = None
        self._network_bytes: dict[tuple[int, ...], int] = {}

    def sweep(self, shape: tuple[int, ...]) -> Sweep:
        """The windows over an image of a shape."""
        options = self.options
        return Sweep.over(
            shape,
            self._window(shape),
            overlap=options.overlap,
            batch_size=options.batch_size,
            blend=options.blend,
            even=options.steps == "even",
            ordered=options.sums == "float16",
        )

    def _window(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Voxels of a window over an image of a shape."""
        options = self.options
        fits = self._fits_windows and options.windows == "fitted"
        if options.window is None or not fits or len(options.window) != len(shape):
            return options.window
        if self._stride is None:
            with self.ensemble.members.network(0) as network:
                self._stride = tuple(getattr(network, "stride", (1,) * len(shape)))
        return fitted_window(shape, options.window, overlap=options.overlap, stride=self._stride)

    def settle(self, image: ImageView, sweep: Sweep) -> None:
        """Decide on what runs the networks, where that is to be measured on an image.

        Raises
        ------
        EngineError
            The engine that was asked for cannot run the network, or gives other masks.
        ConfigError
            It does not fit below the ceiling of memory.
        """
        if self.ensemble.engines is not None:
            count = len(self._versions(len(image.shape), lambda: (0.0, 1.0)))
            self.ensemble.engines.settle(image, sweep, runs=count)

    def engine_notes(self, sweep: Sweep) -> tuple[str, ...]:
        """What a reader of a result must know of engines that were refused, one sentence each."""
        engines = self.ensemble.engines
        return () if engines is None else engines.notes(sweep.window)

    def blocks(
        self,
        image: ImageView,
        sweep: Sweep,
        *,
        store: TileStore | None = None,
        choice: Choice | None = None,
        device: torch.device | None = None,
    ) -> Iterator[BlendedBlock]:
        """Finished blocks, as they are asked for.

        Parameters
        ----------
        image : ImageView
        sweep : Sweep
            Over its shape.
        store : TileStore, optional
            Where shared sums wait.
        choice : Choice, optional
            Which windows are shown; as the options say unless given.
        device : torch.device, optional
            Where the blocks are: the CPU, or the device of the networks, see `gathering_device`.

        Raises
        ------
        BundleError
            The network's answer is not finite. On a device of its own this is told after the last block.
        """
        ensemble, options = self.ensemble, self.options
        versions = self._versions(len(image.shape), lambda: _value_range(image))
        filling = options.filling
        if filling is None:
            filling = float(channel_minima(image).min()) if sweep.fills_up else 0.0
        asked = sweep.blocks(
            lambda box: torch.from_numpy(np.ascontiguousarray(image.read(box))),
            lambda batch: ensemble.answer(batch.to(ensemble.device, non_blocking=True), versions),
            filling=filling,
            store=store,
            choice=choice or Choice(reuse=options.empty_windows == "reuse"),
            background=ensemble.background(),
            sums_device=sums_device(ensemble.device, sweep.sums_bytes(ensemble.channels)),
        )
        finite = FiniteCheck(str(ensemble.dtype).removeprefix("torch."))
        stays = device is not None and device.type != "cpu"
        for block in asked if stays else on_processor(asked, ahead=sweep.batch_size):
            finite.add(block.values)
            yield self._parted(block)
        finite.close()

    def whole(self, image: ImageView) -> Tensor:
        """(C, *sp) what is averaged over windows and networks, of an image that memory holds."""
        sweep = self.sweep(image.shape)
        blocks = self.blocks(image, sweep)
        return joined((Block(place=block.place, values=block.values) for block in blocks), sweep.size)

    def probabilities(self, image: ImageView) -> Tensor:
        """(L, *sp) probabilities of classes, of an image that memory holds."""
        return self._likely(self.whole(image))

    def label_side_by_side(self, image: ImageView, *, batch_size: int) -> NDArray[Any]:
        """(*sp) most probable classes of an image, from windows that do not overlap."""
        sweep = replace(
            self.sweep(image.shape), overlap=0.0, batch_size=batch_size, even=False, ordered=False
        )
        label_map = np.zeros(sweep.size, index_dtype(self.table.class_count))
        for block in self.blocks(image, sweep):
            label_map[block.place] = largest_of(block.probabilities)[0].numpy()
        return label_map

    def demand(self, grid: GridMap, *, in_channels: int, more_channels: int = 0) -> Demand:
        """What an image asks for, by its grid alone; the network is tried on one window.

        Parameters
        ----------
        grid : GridMap
            From the source to the prepared image.
        in_channels : int
            Of the prepared image.
        more_channels : int, optional
            That are brought back beside the network's.
        """
        sweep, ensemble = self.sweep(grid.target_shape), self.ensemble
        if sweep.window not in self._network_bytes:
            versions = self._versions(len(sweep.window), lambda: (0.0, 1.0))
            shown = torch.zeros((1, in_channels, *sweep.window), device=ensemble.device)
            self._network_bytes[sweep.window] = extra_bytes(lambda: ensemble.answer(shown, versions[:2]))
        return demand_of(
            sweep,
            grid,
            in_channels=in_channels,
            class_count=ensemble.channels + more_channels,
            network_bytes=self._network_bytes[sweep.window],
        )

    def _versions(self, dims: int, value_range: Callable[[], tuple[float, float]]) -> tuple[Copy, ...]:
        return copies(dims, value_range, tta=self.options.tta_names, flip_axes=self.options.flip_axes)

    def _parted(self, block: Block) -> BlendedBlock:
        values, spread = self.ensemble.parted(block.values)
        return BlendedBlock(
            place=block.place, values=values, probabilities=self._likely(values), spread=spread
        )

    def _likely(self, values: Tensor) -> Tensor:
        return self._choice.probabilities(values, class_count=self.table.class_count)


def _value_range(image: ImageView) -> tuple[float, float]:
    return float(channel_minima(image).min()), float(channel_maxima(image).max())
