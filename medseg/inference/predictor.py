"""Network, or ensemble of networks, and Volume in, label map on the source grid out."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import ConfigError, InputRefusedError
from medseg.geometry import GridMap
from medseg.inference.answer import Prediction
from medseg.inference.blended_ensemble import BlendedEnsemble
from medseg.inference.block_watch import PassWatch, StartWatch, bound
from medseg.inference.calibrated_tally import CalibratedTally, with_calibrated
from medseg.inference.ceiling import Demand, Fit, fit
from medseg.inference.certainty import CertaintyMap, source_certainty
from medseg.inference.confidence import ConfidenceTally, LabelTally
from medseg.inference.device import gathering_device
from medseg.inference.engine_settle import Engines
from medseg.inference.ensemble import Ensemble
from medseg.inference.maps import SourceMaps
from medseg.inference.members import Members, SingleNetwork
from medseg.inference.one_pass import Pass
from medseg.inference.options import InferenceOptions, MapName, RefineOptions
from medseg.inference.refine import crop_volume, cut_out, main_components, refine_classes, source_voxels
from medseg.inference.region import Narrowed, narrow_to_body, narrow_to_found
from medseg.inference.scaling import Scaling
from medseg.inference.sides import side_axis
from medseg.inference.sliding_window import Sweep
from medseg.inference.union_plan import UnionPlan
from medseg.inference.window_batches import Choice, WindowTally
from medseg.inference.window_blend import Box, FileTiles, TileStore
from medseg.labels import LabelTable
from medseg.memory import resident_bytes
from medseg.transforms.block_restore import restore_blocks
from medseg.transforms.class_choice import ClassChoice
from medseg.transforms.image_view import ArrayView, ImageView
from medseg.transforms.options import Crop, PreprocessStep
from medseg.transforms.preprocess import Prepared, prepare
from medseg.transforms.straighten import Shear, straighten, unstraighten_labels
from medseg.volume import Volume

# A smaller tilt moves the slices of a whole scan by less than a few voxels; networks do not notice.
_LEAST_TILT_DEGREES = 0.5
# A prepared image that takes more than this is made window by window from its source.
_KEEP_BYTES = 256 << 20


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
    engines : Engines, optional
        What runs the networks, on a CPU and in float32; the networks themselves unless given.
    keep_certainty : bool, optional
        Whether the probability of the winning class is kept with the result, three bytes a voxel of the
        prepared image.
    temperature : float, optional
        By which probabilities are calibrated, see `Scaling`: those of maps, of `certainty` and of
        ``calibrated_probability``. Masks, and the sums that gate and flags judge, do not depend on it.

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
        engines: Engines | None = None,
        keep_certainty: bool = False,
        temperature: float = 1.0,
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
        self._unions = UnionPlan.of(table)
        self.keep_certainty = keep_certainty
        self._reads_features = features
        averaged = ClassChoice(
            scale=options.average, regions=tuple(regions), rounded=options.sums == "float16"
        )
        self.scaling = Scaling(choice=averaged, class_count=table.class_count, temperature=temperature)
        self._restores_averaged = options.restore == "averaged"
        self._restored = averaged if self._restores_averaged else ClassChoice()
        ensemble = Ensemble(
            SingleNetwork(network, self.device) if isinstance(network, nn.Module) else network,
            table=table,
            options=options,
            choice=averaged,
            side_axis=side_axis(steps),
            device=self.device,
            dtype=dtype,
            engines=engines,
        )
        self.blended = BlendedEnsemble(
            ensemble, table=table, options=options, choice=averaged, fits_windows=max_bytes is None
        )
        """Answers to prepared images."""

    def predict(self, volume: Volume, *, watch: StartWatch | None = None) -> Prediction:
        """Label map of a volume on its own grid.

        A volume whose slices are tilted against their axis is straightened first, and the label map
        brought back onto the tilted grid; a note says so.

        Parameters
        ----------
        volume : Volume
        watch : callable, optional
            Begins to watch each pass; `Prediction.watch` is what it gave for the pass that counts.

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
        first, chosen, passes, notes = self._passes(volume, ConfidenceTally, bound(watch, shear))
        tally = chosen.tally
        if not isinstance(tally, ConfidenceTally):
            raise TypeError("the passes were asked for confidence")
        return Prediction(
            label_map=_on_source(chosen.label_map, shear),
            confidence=with_calibrated(tally.labels(), chosen.calibrated),
            entropy=tally.image(),
            disagreement=tally.disagreement(),
            maps={name: _on_source(values, shear) for name, values in chosen.maps.items()},
            features=self.features(first.whole.image) if self._reads_features else None,
            prepared=chosen.prepared,
            whole=first.whole,
            grid=chosen.grid,
            shear=shear,
            passes=passes,
            notes=(*_tilt_notes(shear), *chosen.prepared.notes, *chosen.notes, *chosen.windows.notes, *notes),
            windows=chosen.windows.to_json(),
            certainty=self._certainty(chosen, shear) if self.keep_certainty else None,
            watch=chosen.watch,
        )

    def _certainty(self, chosen: Pass, shear: Shear | None) -> CertaintyMap:
        return source_certainty(
            chosen.tally.label_map,
            chosen.winning,
            chosen.grid,
            shear,
            temperature=self.scaling.temperature,
            unions=chosen.unions,
            plan=self._unions,
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

    def _passes(
        self, volume: Volume, kind: type[LabelTally], watch: PassWatch | None = None
    ) -> tuple[Pass, Pass, int, tuple[str, ...]]:
        """The first pass, the one that counts, their number, and why a second was not used."""
        first = self._run(volume, GridMap.identity(volume.spatial_shape), kind, watch)
        if self.options.refine is None:
            return first, first, first.passes, ()
        return first, *self._refine(volume, first, self.options.refine, kind, watch)

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated class probabilities of a prepared image, one pass, on its own grid.

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
        values = self.blended.whole(ArrayView(image))
        unscaled = self.scaling.choice.probabilities(values, class_count=self.table.class_count)
        return cast("NDArray[np.float32]", self.scaling.probabilities(values, unscaled).numpy())

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
        return self.blended.ensemble.features(view, window)

    def _run(
        self, volume: Volume, cut: GridMap, kind: type[LabelTally], watch: PassWatch | None = None
    ) -> Pass:
        """One pass over a volume that `cut` took from the source."""
        keep_bytes = _KEEP_BYTES if self.max_bytes is None else 0
        whole = prepare(volume, self.steps, statistics=self.statistics, keep_bytes=keep_bytes)
        narrowed = self._narrowed(volume, whole)
        prepared = narrowed.prepared
        grid = cut.then(prepared.grid)
        sweep, windows, maps = (
            self.blended.sweep(prepared.image.shape),
            WindowTally(),
            self._source_maps(grid),
        )
        self.blended.settle(prepared.image, sweep)
        with contextlib.ExitStack() as stack:
            found = self._fit(prepared, grid, batch_size=sweep.batch_size)
            sweep, prepared = replace(sweep, batch_size=found.batch_size), prepared.kept(found.keep_bytes)
            store: TileStore | None = None
            if found.in_file:
                store = stack.enter_context(contextlib.closing(FileTiles(self._scratch())))
            choice = Choice(
                # Sums in half precision have no room for the weight of a window that was passed over.
                wanted=None if sweep.ordered else narrowed.wanted,
                reuse=found.reuse and self.options.empty_windows == "reuse",
                tally=windows,
            )
            device = self._gathering_device(sweep, grid)
            tally = kind(sweep.size, self.table, device=device)
            watched = None if watch is None else watch(grid)
            calibrated = None
            if self.scaling.changes and issubclass(kind, ConfidenceTally):
                calibrated = CalibratedTally(sweep.size, self.table, keep=self.keep_certainty, device=device)

            def looked_at() -> Iterator[tuple[Box, Tensor]]:
                for block in self.blended.blocks(
                    prepared.image, sweep, store=store, choice=choice, device=device
                ):
                    tally.add(block.place, block.probabilities, block.spread)
                    likely = block.probabilities
                    if calibrated is not None or watched is not None or maps is not None:
                        likely = self.scaling.probabilities(block.values, likely)
                    if calibrated is not None:
                        calibrated.add(block.place, block.probabilities, likely)
                    if watched is not None:
                        watched.add(block, likely)
                    values = block.values if self._restores_averaged else block.probabilities
                    if maps is not None:
                        values = maps.with_channels(values, likely, block.spread)
                    yield block.place, values

            label_map = restore_blocks(
                looked_at(),
                grid,
                order=sweep.order,
                class_count=self.table.class_count,
                back=prepared.back,
                winners=self._restored.winners if maps is None else maps.winners,
                device=device,
            )
        return Pass(
            whole=prepared if narrowed.prepared is whole else whole,
            prepared=prepared,
            grid=grid,
            tally=tally,
            windows=windows,
            label_map=label_map,
            maps={} if maps is None else maps.arrays,
            passes=narrowed.passes,
            notes=(*narrowed.notes, *self.blended.engine_notes(sweep)),
            calibrated=calibrated,
            watch=watched,
        )

    def _gathering_device(self, sweep: Sweep, grid: GridMap) -> torch.device:
        """Where masks are gathered: on the processor what is put into maps or rounded as nnU-Net does.

        That a pass is watched makes no difference, so that it makes none to its mask.
        """
        if self.maps or sweep.ordered:
            return torch.device("cpu")
        prepared, source = math.prod(sweep.size), math.prod(grid.source_shape)
        return gathering_device(
            self.device,
            sums_bytes=sweep.sums_bytes(self.blended.ensemble.channels),
            # Two bytes of a class at most, and two of its place in the source.
            gathered_bytes=(2 + self._probability_bytes) * prepared + 2 * source,
        )

    @property
    def _probability_bytes(self) -> int:
        """Of what is kept of the probabilities of each prepared voxel: two of the winning class, those of regions."""
        kept = 2 + self._unions.voxel_bytes
        return kept * (2 if self.scaling.changes and self.keep_certainty else 1)

    def _narrowed(self, volume: Volume, prepared: Prepared) -> Narrowed:
        """The part of a prepared image that the options say to look at."""
        options, found = self.options, Narrowed(prepared=prepared)
        if options.body is not None:
            window = options.window or (1,) * volume.spatial_dims
            found = narrow_to_body(volume, prepared, options.body, window=window)
        if options.coarse is not None:
            batch_size = options.batch_size if self.max_bytes is None else 1
            found = narrow_to_found(
                found,
                options.coarse,
                self.table,
                window=options.window,
                label=lambda image: self.blended.label_side_by_side(image, batch_size=batch_size),
            )
        return found

    def _source_maps(self, grid: GridMap) -> SourceMaps | None:
        if not self.maps:
            return None
        return SourceMaps(
            self.maps,
            grid.source_shape,
            table=self.table,
            members=len(self.blended.ensemble.members),
            choice=self._restored,
            apart=self.scaling.changes,
            folder=None if self.max_bytes is None else self._scratch(),
        )

    def _scratch(self) -> Path:
        return self.scratch or Path(tempfile.gettempdir())

    def _fit(self, prepared: Prepared, grid: GridMap, *, batch_size: int) -> Fit:
        """How this image is predicted below the ceiling."""
        if self.max_bytes is None:
            return Fit(batch_size=batch_size, keep_bytes=0, in_file=False, bytes=0)
        demand = self.demand(grid, in_channels=prepared.image.channels)
        return fit(demand, max_bytes=self.max_bytes, taken_bytes=resident_bytes())

    def demand(self, grid: GridMap, *, in_channels: int) -> Demand:
        """What an image asks for, by its grid alone; the network is tried on one window.

        Parameters
        ----------
        grid : GridMap
            From the source to the prepared image.
        in_channels : int
            Of the prepared image.
        """
        maps = self._source_maps(grid)
        demand = self.blended.demand(
            grid, in_channels=in_channels, more_channels=0 if maps is None else maps.channels
        )
        return replace(demand, probability_bytes=self._probability_bytes)

    def _refine(
        self,
        volume: Volume,
        first: Pass,
        options: RefineOptions,
        kind: type[LabelTally],
        watch: PassWatch | None,
    ) -> tuple[Pass, int, tuple[str, ...]]:
        classes = refine_classes(options, self.table)
        mask = main_components(first.tally.label_map, classes)
        share = source_voxels(mask, first.grid) / np.prod(volume.spatial_shape)
        if share <= 0 or share < options.min_share:
            return first, 1, (_kept(f"the first found only {share:.1%} of the image"),)
        start, size = cut_out(mask, first.grid, margin=options.margin)
        if size == volume.spatial_shape:
            return first, 1, ()
        cut = GridMap.crop_or_pad(volume.spatial_shape, start, size)
        second = self._run(crop_volume(volume, start, size), cut, kind, watch)
        areas = [source_voxels(main_components(p.tally.label_map, classes), p.grid) for p in (first, second)]
        change = abs(areas[0] - areas[1]) / max(areas)
        if change > options.max_change:
            return first, 1, (_kept(f"the masks of the two differ in size by {change:.0%}"),)
        return second, 2, ()


def _on_source(values: NDArray[Any], shear: Shear | None) -> NDArray[Any]:
    return values if shear is None else unstraighten_labels(values, shear)


def _tilt_notes(shear: Shear | None) -> tuple[str, ...]:
    if shear is None:
        return ()
    return (
        f"The slices are tilted by {shear.degrees:.1f} degrees against their axis; the image was straightened "
        "for the network and the result brought back onto the tilted slices.",
    )


def _kept(reason: str) -> str:
    return f"The second pass was not used, because {reason}; the result is that of the first."
