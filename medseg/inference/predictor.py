"""Network, or ensemble of networks, and Volume in, label map on the source grid out."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import ConfigError, InputRefusedError
from medseg.geometry import GridMap
from medseg.inference.answer import Prediction
from medseg.inference.ceiling import Demand, Fit, extra_bytes, fit
from medseg.inference.confidence import ConfidenceTally, LabelTally
from medseg.inference.ensemble import Ensemble
from medseg.inference.maps import SourceMaps
from medseg.inference.members import Members, SingleNetwork
from medseg.inference.options import InferenceOptions, MapName, RefineOptions
from medseg.inference.refine import crop_volume, cut_out, main_components, refine_classes, source_voxels
from medseg.inference.sliding_window import Sweep, copies, joined
from medseg.inference.window_blend import Block, Box, FileTiles, TileStore
from medseg.labels import LabelTable
from medseg.memory import resident_bytes
from medseg.transforms.block_restore import BlockRestorer, restore_blocks
from medseg.transforms.class_choice import ClassChoice
from medseg.transforms.image_view import ArrayView, ImageView, channel_maxima, channel_minima
from medseg.transforms.options import Crop, Orient, PreprocessStep, Transpose
from medseg.transforms.preprocess import Prepared, prepare
from medseg.transforms.straighten import Shear, straighten, unstraighten_labels
from medseg.volume import Volume

# A smaller tilt moves the slices of a whole scan by less than a few voxels; networks do not notice.
_LEAST_TILT_DEGREES = 0.5
# A prepared image that takes more than this is made window by window from its source.
_KEEP_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What is left of one pass: its probabilities were there block by block."""

    prepared: Prepared
    grid: GridMap
    tally: LabelTally
    label_map: NDArray[Any]
    maps: Mapping[str, NDArray[np.uint8]]


class Predictor:
    """Prepares images, shows them to a network, and brings the answer back to their grid.

    Parameters
    ----------
    network : nn.Module or Members
        (B, C, *sp) -> (B, L, *sp) logits; moved to `device`. It is put into evaluation mode for
        each prediction and left in the mode it was in. Several are asked one after the other, and
        their answers averaged as `options.ensemble` says.
    steps : sequence of PreprocessStep
        What the network was trained on.
    table : LabelTable
        L classes.
    options : InferenceOptions
    statistics : mapping of str to float, optional
        Of the training data, for `standardise: dataset`.
    device : torch.device or str
        Where the network runs and the probabilities are summed.
    dtype : torch.dtype
        float32, or the lower precision of autocast; softmax and sums are float32 always.
    max_bytes : int, optional
        Ceiling of the memory of this process, kept while an image is predicted.
    scratch : Path, optional
        Folder for sums that do not fit below it; the system's for temporary files unless given.
    regions : sequence of int, optional
        For each channel of the network the class that it writes, where channels are regions that overlap
        (`ClassChoice`); without any the channels are the L classes.
    features : bool, optional
        Whether `predict` reads the feature vector, which costs a pass of the encoder.
    maps : sequence of MapName, optional
        Maps on the source grid that `predict` gives beside the label map.

    Raises
    ------
    ConfigError
        A second pass is asked for, but a step cuts out a fixed box.
    """

    def __init__(
        self,
        network: nn.Module | Members,
        *,
        steps: Sequence[PreprocessStep],
        table: LabelTable,
        options: InferenceOptions,
        statistics: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_bytes: int | None = None,
        scratch: Path | None = None,
        regions: Sequence[int] = (),
        features: bool = True,
        maps: Sequence[MapName] = (),
    ) -> None:
        if options.refine is not None and any(isinstance(s, Crop) and s.method == "box" for s in steps):
            raise ConfigError(
                "inference.refine does not go with preprocess crop: box, a place that the second pass does "
                "not have; use crop: foreground or border, or leave refine out"
            )
        if regions and (options.average, options.restore) != ("logits", "averaged"):
            raise ConfigError(
                "a network whose channels are regions needs inference.average: logits and restore: averaged; "
                "change them"
            )
        self.device = torch.device(device)
        self.steps = tuple(steps)
        self.table = table
        self.options = options
        self.statistics = statistics
        self.max_bytes, self.scratch = max_bytes, scratch
        self.maps = tuple(maps)
        self._network_bytes: dict[tuple[int, ...], int] = {}
        self._reads_features = features
        self._averaged = ClassChoice(
            scale=options.average, regions=tuple(regions), rounded=options.sums == "float16"
        )
        self._restored = self._averaged if options.restore == "averaged" else ClassChoice()
        self.ensemble = Ensemble(
            SingleNetwork(network, self.device) if isinstance(network, nn.Module) else network,
            table=table,
            options=options,
            choice=self._averaged,
            side_axis=side_axis(steps),
            device=self.device,
            dtype=dtype,
        )

    def predict(self, volume: Volume) -> Prediction:
        """Label map of a volume on its own grid.

        A volume whose slices are tilted against their axis is straightened first, and the label map
        brought back onto the tilted grid; a note says so.

        Raises
        ------
        InputRefusedError
            The image holds values that are not finite.
        BundleError
            The network's answer is not finite, or has another number of classes than the table.
        ConfigError
            A window that does not fit the image's axes.
        GeometryError
            No two axes of the volume are at right angles.
        """
        volume, shear = straighten(volume, least_degrees=_LEAST_TILT_DEGREES)
        first, chosen, passes, notes = self._passes(volume, ConfidenceTally)
        tally = chosen.tally
        if not isinstance(tally, ConfidenceTally):
            raise TypeError("the passes were asked for confidence")
        return Prediction(
            label_map=_on_source(chosen.label_map, shear),
            confidence=tally.labels(),
            entropy=tally.image(),
            disagreement=tally.disagreement(),
            maps={name: _on_source(values, shear) for name, values in chosen.maps.items()},
            features=self.features(first.prepared.image) if self._reads_features else None,
            prepared=chosen.prepared,
            grid=chosen.grid,
            shear=shear,
            passes=passes,
            notes=(*_tilt_notes(shear), *chosen.prepared.notes, *notes),
        )

    def segment(self, volume: Volume) -> NDArray[Any]:
        """Label map of a volume as `predict` gives it, and nothing else: for frames that come fast.

        Returns
        -------
        (*source) integer array

        Raises
        ------
        MedsegError
            As `predict`.
        """
        volume, shear = straighten(volume, least_degrees=_LEAST_TILT_DEGREES)
        _, chosen, _, _ = self._passes(volume, LabelTally)
        return _on_source(chosen.label_map, shear)

    def _passes(self, volume: Volume, kind: type[LabelTally]) -> tuple[_Pass, _Pass, int, tuple[str, ...]]:
        """The first pass, the one that counts, their number, and why a second was not used."""
        first = self._run(volume, GridMap.identity(volume.spatial_shape), kind)
        if self.options.refine is None:
            return first, first, 1, ()
        return first, *self._refine(volume, first, self.options.refine, kind)

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class probabilities of a prepared image, one pass, on its own grid.

        Parameters
        ----------
        image : (C, *sp) float32 array

        Returns
        -------
        (L, *sp) float32 array
        """
        if not np.isfinite(image).all():
            raise InputRefusedError(
                "the prepared image holds values that are not finite; look for NaN in the file"
            )
        return cast("NDArray[np.float32]", self._likely(self.blended(ArrayView(image))).numpy())

    def blended(self, image: ImageView) -> Tensor:
        """(C, *sp) what is averaged over windows and networks: probabilities or logits, of classes or regions."""
        sweep = self._sweep_over(image)
        parts = (
            Block(place=block.place, values=self.ensemble.parted(block.values)[0])
            for block in self._blocks(image, sweep)
        )
        return joined(parts, sweep.size)

    def _likely(self, values: Tensor) -> Tensor:
        """(L, ...) probabilities of classes, from a block's values."""
        return self._averaged.probabilities(values, class_count=self.table.class_count)

    def _sweep_over(self, image: ImageView) -> Sweep:
        options = self.options
        return Sweep.over(
            image.shape,
            options.window,
            overlap=options.overlap,
            batch_size=options.batch_size,
            blend=options.blend,
            even=options.steps == "even",
            ordered=options.sums == "float16",
        )

    def _blocks(self, image: ImageView, sweep: Sweep, store: TileStore | None = None) -> Iterator[Block]:
        """Finished blocks of what is averaged over a prepared image, on the CPU, as they are asked for."""
        versions = copies(
            len(image.shape),
            lambda: _value_range(image),
            tta=self.options.tta_names,
            flip_axes=self.options.flip_axes,
        )
        filling = self.options.filling
        if filling is None:
            filling = float(channel_minima(image).min()) if sweep.fills_up else 0.0

        def read(box: Box) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(image.read(box))).to(self.device)

        asked = sweep.blocks(
            read, lambda batch: self.ensemble.answer(batch, versions), filling=filling, store=store
        )
        for block in asked:
            yield Block(place=block.place, values=block.values.cpu())

    def features(self, image: NDArray[np.float32] | ImageView) -> NDArray[np.float32] | None:
        """Feature vector of a prepared image: the network's, averaged over windows side by side.

        Parameters
        ----------
        image : (C, *sp) float32 array or ImageView

        Returns
        -------
        (F,) float32 array, or None where the network has no `features`
        """
        view = ArrayView(image) if isinstance(image, np.ndarray) else image
        window = tuple(min(n, w) for n, w in zip(view.shape, self.options.window or view.shape, strict=True))
        return self.ensemble.features(view, window)

    def _run(self, volume: Volume, cut: GridMap, kind: type[LabelTally]) -> _Pass:
        """One pass over a volume that `cut` took from the source."""
        bounded = self.max_bytes is not None
        prepared = prepare(
            volume, self.steps, statistics=self.statistics, keep_bytes=0 if bounded else _KEEP_BYTES
        )
        grid = cut.then(prepared.grid)
        sweep, maps = self._sweep_over(prepared.image), self._source_maps(grid)
        with contextlib.ExitStack() as stack:
            store: TileStore | None = None
            if self.max_bytes is not None:
                found = self._fit(prepared, grid, sweep, maps, max_bytes=self.max_bytes)
                sweep = replace(sweep, batch_size=found.batch_size)
                prepared = prepared.kept(found.keep_bytes)
                if found.in_file:
                    store = stack.enter_context(contextlib.closing(FileTiles(self._scratch())))
            tally = kind(sweep.size, self.table)

            def looked_at() -> Iterator[tuple[Box, Tensor]]:
                for block in self._blocks(prepared.image, sweep, store):
                    values, spread = self.ensemble.parted(block.values)
                    likely = self._likely(values)
                    tally.add(block.place, likely, spread)
                    values = values if self._restored is self._averaged else likely
                    if maps is not None:
                        values = maps.with_channels(values, likely, spread)
                    yield block.place, values

            label_map = restore_blocks(
                looked_at(),
                grid,
                order=sweep.order,
                class_count=self.table.class_count,
                back=prepared.back,
                winners=self._restored.winners if maps is None else maps.winners,
            )
        return _Pass(
            prepared=prepared,
            grid=grid,
            tally=tally,
            label_map=label_map,
            maps={} if maps is None else maps.arrays,
        )

    def _source_maps(self, grid: GridMap) -> SourceMaps | None:
        if not self.maps:
            return None
        return SourceMaps(
            self.maps,
            grid.source_shape,
            table=self.table,
            members=len(self.ensemble.members),
            choice=self._restored,
            folder=None if self.max_bytes is None else self._scratch(),
        )

    def _scratch(self) -> Path:
        return self.scratch or Path(tempfile.gettempdir())

    def _fit(
        self, prepared: Prepared, grid: GridMap, sweep: Sweep, maps: SourceMaps | None, *, max_bytes: int
    ) -> Fit:
        """How this image is predicted below a ceiling."""
        axes, window = sweep.axes, sweep.window
        if window not in self._network_bytes:
            versions = copies(len(window), lambda: (0.0, 1.0))
            shown = torch.zeros((1, prepared.image.channels, *window), device=self.device)
            self._network_bytes[window] = extra_bytes(lambda: self.ensemble.answer(shown, versions))
        blocks = [max(axis.finished(n) - axis.starts[n] for n in range(len(axis.starts))) for axis in axes]
        demand = Demand(
            source_voxels=math.prod(grid.source_shape),
            prepared_voxels=math.prod(sweep.size),
            in_channels=prepared.image.channels,
            class_count=self.ensemble.channels + (0 if maps is None else maps.channels),
            window=window,
            batch_size=sweep.batch_size,
            carried=sweep.carried,
            rim=BlockRestorer(grid, sweep.order, prepared.back).kept_values(blocks),
            network_bytes=self._network_bytes[window],
        )
        return fit(demand, max_bytes=max_bytes, taken_bytes=resident_bytes())

    def _refine(
        self, volume: Volume, first: _Pass, options: RefineOptions, kind: type[LabelTally]
    ) -> tuple[_Pass, int, tuple[str, ...]]:
        classes = refine_classes(options, self.table)
        mask = main_components(first.tally.label_map, classes)
        share = source_voxels(mask, first.grid) / np.prod(volume.spatial_shape)
        if share <= 0 or share < options.min_share:
            return first, 1, (_kept(f"the first found only {share:.1%} of the image"),)
        start, size = cut_out(mask, first.grid, margin=options.margin)
        if size == volume.spatial_shape:
            return first, 1, ()
        cut = GridMap.crop_or_pad(volume.spatial_shape, start, size)
        second = self._run(crop_volume(volume, start, size), cut, kind)
        areas = [source_voxels(main_components(p.tally.label_map, classes), p.grid) for p in (first, second)]
        change = abs(areas[0] - areas[1]) / max(areas)
        if change > options.max_change:
            return first, 1, (_kept(f"the masks of the two differ in size by {change:.0%}"),)
        return second, 2, ()


def side_axis(steps: Sequence[PreprocessStep]) -> int | None:
    """Left-right axis of prepared images: by the last `orient`, else axis 0, transposed; None where there is none."""
    side: int | None = 0
    for step in steps:
        if isinstance(step, Orient):
            side = next((axis for axis, letter in enumerate(step.to) if letter in "LR"), None)
        elif isinstance(step, Transpose) and side is not None:
            side = step.axes.index(side)
    return side


def _on_source(values: NDArray[Any], shear: Shear | None) -> NDArray[Any]:
    return values if shear is None else unstraighten_labels(values, shear)


def _tilt_notes(shear: Shear | None) -> tuple[str, ...]:
    if shear is None:
        return ()
    return (
        f"The slices are tilted by {shear.degrees:.1f} degrees against their axis; the image was straightened "
        "for the network and the result brought back onto the tilted slices.",
    )


def _value_range(image: ImageView) -> tuple[float, float]:
    return float(channel_minima(image).min()), float(channel_maxima(image).max())


def _kept(reason: str) -> str:
    return f"The second pass was not used, because {reason}; the result is that of the first."
